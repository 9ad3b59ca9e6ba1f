package otlp

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds text from the server, in bytes.
const maxText = 512

// printable makes text from the server fit for a log line: valid UTF-8 without control or format
// characters, at most maxText bytes and an ellipsis.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s { // an invalid byte comes as utf8.RuneError
		if b.Len()+utf8.RuneLen(r) > maxText {
			b.WriteString("...")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// printableError is an error whose text is partly the server's.
type printableError struct{ err error }

func (e printableError) Error() string { return printable(e.err.Error()) }
func (e printableError) Unwrap() error { return e.err }
