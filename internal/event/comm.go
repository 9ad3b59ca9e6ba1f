package event

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// String gives the name as valid UTF-8 on one line: a process may call itself anything, and a
// single octet of invalid UTF-8 makes protobuf refuse the whole batch it is in. Octets that are
// no UTF-8 and control characters become U+FFFD.
func (c Comm) String() string {
	n := 0
	for n < len(c) && c[n] != 0 {
		n++
	}
	return Printable(string(c[:n]))
}

// Printable gives s with every octet that is no valid UTF-8, and every character that does not
// print (controls, line and paragraph separators, direction overrides), replaced by U+FFFD.
func Printable(s string) string {
	if isPrintableASCII(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}

func isPrintableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
