package otlp

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "",
		"plain text, Zürich 東京 🙂":       "plain text, Zürich 東京 🙂",
		"line\r\nline\ttab\x00\x1b[31m": "line  line tab  [31m",
		"\x7f\u0085\u2028\u202e\ufeff":  "     ",
		"a\xffb\xc3":                    "a\uFFFDb\uFFFD",
		strings.Repeat("x", maxText):    strings.Repeat("x", maxText),
		strings.Repeat("x", maxText+1):  strings.Repeat("x", maxText) + "...",
		strings.Repeat("x", 511) + "ü":  strings.Repeat("x", 511) + "...",
		strings.Repeat("\xff", 10*512):  strings.Repeat("\uFFFD", 170) + "...",
		strings.Repeat("\x00", maxText): strings.Repeat(" ", maxText),
	} {
		if got := printable(in); got != want {
			t.Errorf("%q:\n got %q\nwant %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b\xff\u202e")
	f.Fuzz(func(t *testing.T, in string) {
		got := printable(in)
		if !utf8.ValidString(got) || len(got) > maxText+len("...") || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q gives %q", in, got)
		}
	})
}
