package owner

import (
	"regexp"
	"strings"
)

const redacted = "REDACTED"

// maxArgs bounds how many arguments are kept, maxCommand how many octets are read of them.
const (
	maxArgs    = 128
	maxCommand = 4096
)

// Glob compiles a pattern in which * is any text, also none, and ? any one character.
func Glob(pattern string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(pattern)
	quoted = strings.ReplaceAll(quoted, `\*`, `.*`)
	quoted = strings.ReplaceAll(quoted, `\?`, `.`)
	return regexp.MustCompile(`^(?s:` + quoted + `)$`)
}

// password is that of a URL.
var password = regexp.MustCompile(`(://[^/:@\s]*:)[^/@\s]+@`)

// redactor replaces the secrets in command lines.
type redactor []*regexp.Regexp

func newRedactor(patterns []string) redactor {
	var r redactor
	for _, p := range patterns {
		r = append(r, Glob(strings.ToLower(p)))
	}
	return r
}

// args splits a /proc/PID/cmdline.
func (r redactor) args(cmdline string) []string {
	cmdline = strings.TrimRight(cmdline, "\x00")
	if cmdline == "" {
		return nil
	}
	args := strings.SplitN(cmdline, "\x00", maxArgs+1)
	args = args[:min(len(args), maxArgs)]
	for i, next := 1, false; i < len(args); i++ {
		if next {
			args[i], next = redacted, false
			continue
		}
		args[i], next = r.redact(args[i])
	}
	return args
}

// redact replaces what follows the name of a secret in an argument: after an equals sign, a colon or a
// space. Where nothing follows the name of an option, the secret is the next argument.
func (r redactor) redact(arg string) (_ string, next bool) {
	arg = password.ReplaceAllString(arg, "${1}"+redacted+"@")
	for i := range len(arg) {
		if strings.IndexByte("=: ", arg[i]) >= 0 && r.names(arg[:i]) {
			return arg[:i+1] + redacted, false
		}
	}
	return arg, strings.HasPrefix(arg, "-") && r.names(arg)
}

func (r redactor) names(option string) bool {
	option = strings.ToLower(strings.TrimLeft(option, "-"))
	for _, pattern := range r {
		if pattern.MatchString(option) {
			return true
		}
	}
	return false
}
