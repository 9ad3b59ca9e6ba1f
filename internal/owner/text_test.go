package owner

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	const rest = " S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 200 18446744073709551615 1 1 0\n"
	tests := []struct {
		name, text string
		want       stat
		wrong      string
	}{
		{"plain", "42 (bash)" + rest, stat{parent: 7, started: 4242}, ""},
		{"a name with all that matters", "42 (a) S 9) R 8 )\n(" + ")" + rest, stat{parent: 7, started: 4242}, ""},
		{"no name", "42 S 7", stat{}, "malformed stat: 3 fields behind the name"},
		{"empty", "", stat{}, "malformed stat: 0 fields behind the name"},
		{"cut", "42 (bash) S 7 1 1", stat{}, "malformed stat: 4 fields behind the name"},
		{"parent", "42 (bash)" + strings.Replace(rest, " 7 ", " -7 ", 1), stat{}, `malformed stat: parent "-7"`},
		{"start", "42 (bash)" + strings.Replace(rest, "4242", "x", 1), stat{}, `malformed stat: start "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat(tt.text)
			wrong := ""
			if err != nil {
				wrong = err.Error()
			}
			if got != tt.want || wrong != tt.wrong {
				t.Errorf("got %+v, %q; want %+v, %q", got, wrong, tt.want, tt.wrong)
			}
		})
	}
}

func TestParseOffsets(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "monotonic           5         6\nboottime            0         0\n": 0,
		"monotonic           5         6\nboottime        86400         7\n": 86400*1e9 + 7, "boottime -10 500\n": -10*1e9 + 500,
	} {
		if got := parseOffsets(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestParsePasswd(t *testing.T) {
	got := parsePasswd("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n\n# no user\nalice:x:1000:1000:A:/:/bin/sh\n" +
		"bad:x:-1:0::/:\nworse:x:99999999999:0::/:\n:x:5:5::/:\n+nis\nlast:x:7:7")
	if d := cmp.Diff(map[uint32]string{0: "root", 1000: "alice", 7: "last"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAttributes(t *testing.T) {
	tests := []struct {
		name, environ string
		want          map[string]string
	}{
		{"nothing", "PATH=/bin\x00HOME=/\x00", nil},
		{"a name", "A=b\x00OTEL_SERVICE_NAME=shop\x00", map[string]string{"service.name": "shop"}},
		{"attributes", "OTEL_RESOURCE_ATTRIBUTES=service.name=a,service.namespace=b c,x=1%2C2\x00", map[string]string{"service.name": "a", "service.namespace": "b c", "x": "1,2"}},
		{"the name goes before", "OTEL_SERVICE_NAME=shop\x00OTEL_RESOURCE_ATTRIBUTES=service.name=a,service.version=1\x00", map[string]string{"service.name": "shop", "service.version": "1"}},
		{"an empty name", "OTEL_SERVICE_NAME=\x00OTEL_RESOURCE_ATTRIBUTES=service.name=a\x00", map[string]string{"service.name": "a"}},
		{"spaces, and what has no form", "OTEL_RESOURCE_ATTRIBUTES= a = 1 ,b,=2,c=,d=%zz,e=f=g\x00", map[string]string{"a": "1", "d": "%zz", "e": "f=g"}},
		{"twice", "OTEL_SERVICE_NAME=a\x00OTEL_SERVICE_NAME=b\x00", map[string]string{"service.name": "a"}},
		{"another's name", "XOTEL_SERVICE_NAME=no\x00X=OTEL_SERVICE_NAME=no\x00", nil},
		{"long", "OTEL_SERVICE_NAME=" + strings.Repeat("n", 2*maxValue) + "\x00OTEL_RESOURCE_ATTRIBUTES=" + strings.Repeat("k", maxKey+1) + "=v\x00", map[string]string{"service.name": strings.Repeat("n", maxValue)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, attributes(tt.environ)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	many := ""
	for i := range 1000 {
		many += fmt.Sprintf("key%04d=value,", i)
	}
	if n := len(attributes(resourceAttributes + many)); n != maxAttributes/len("key0000value") {
		t.Errorf("%d attributes, want as many as have %d octets", n, maxAttributes)
	}
}

func TestRedact(t *testing.T) {
	r := newRedactor([]string{"*Password*", "*token*", "*authorization*", "api?key"})
	tests := []struct{ name, cmdline, want string }{
		{"none", "", ""},
		{"a kernel's thread", "\x00", ""},
		{"nothing secret", "curl\x00-v\x00https://example.com:8080/a=b\x00", "curl|-v|https://example.com:8080/a=b"},
		{"in the argument", "a\x00--password=hunter2\x00b\x00", "a|--password=REDACTED|b"},
		{"the next argument", "a\x00--db-password\x00hunter2\x00b\x00", "a|--db-password|REDACTED|b"},
		{"the next, whatever it looks like", "a\x00--password\x00--hunter2\x00", "a|--password|REDACTED"},
		{"a word is no option", "cat\x00password\x00file\x00", "cat|password|file"},
		{"the last", "a\x00--password\x00", "a|--password"},
		{"any case", "a\x00-X\x00PASSWORD=x\x00--Token=y\x00", "a|-X|PASSWORD=REDACTED|--Token=REDACTED"},
		{"a header", "curl\x00-H\x00Authorization: Bearer abc\x00", "curl|-H|Authorization:REDACTED"},
		{"a command in an argument", "sh\x00-c\x00export A=b; run --token abc --x y\x00", "sh|-c|export A=b; run --token REDACTED"},
		{"one character", "a\x00--api-key=1\x00--api_key\x002\x00--apikey=3\x00", "a|--api-key=REDACTED|--api_key|REDACTED|--apikey=3"},
		{"a URL", "psql\x00postgres://shop:hunter2@db/x?y=z\x00", "psql|postgres://shop:REDACTED@db/x?y=z"},
		{"a URL without a password", "psql\x00postgres://shop@db:5432/x\x00", "psql|postgres://shop@db:5432/x"},
		{"the executable's own name", "token=1\x00x\x00", "token=1|x"},
		{"empty arguments", "a\x00\x00b\x00\x00", "a||b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(r.args(tt.cmdline), "|"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if n := len(r.args(strings.Repeat("a\x00", 2*maxArgs))); n != maxArgs {
		t.Errorf("%d arguments, want at most %d", n, maxArgs)
	}
}

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern, text string
		want          bool
	}{
		{"nginx", "nginx", true},
		{"nginx", "nginx2", false},
		{"nginx*", "nginx2", true},
		{"*", "", true},
		{"*", "a/b\nc", true},
		{"/usr/*/x", "/usr/a/b/x", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"a.c", "abc", false},
		{"[a]+$", "[a]+$", true},
		{"A", "a", false},
	}
	for _, tt := range tests {
		if got := Glob(tt.pattern).MatchString(tt.text); got != tt.want {
			t.Errorf("%q of %q: %v, want %v", tt.pattern, tt.text, got, tt.want)
		}
	}
}

func FuzzStat(f *testing.F) {
	f.Add("42 (a) b) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseStat(text)
		if err != nil && got != (stat{}) {
			t.Errorf("%+v and %v of %q", got, err, text)
		}
	})
}

func FuzzAttributes(f *testing.F) {
	f.Add("OTEL_SERVICE_NAME=shop\x00OTEL_RESOURCE_ATTRIBUTES=a=b,c=%20,=,\x00")
	f.Fuzz(func(t *testing.T, environ string) {
		got := attributes(environ)
		total := 0
		for name, value := range got {
			total += len(name) + len(value)
			if name == "" || value == "" || len(name) > maxKey || len(value) > maxValue {
				t.Errorf("%q=%q of %q", name, value, environ)
			}
		}
		if total > maxAttributes+len("service.name")+maxValue {
			t.Errorf("%d octets", total)
		}
	})
}

// FuzzRedact: no value of an option that is secret is left in an argument.
func FuzzRedact(f *testing.F) {
	f.Add("a\x00--password=hunter2\x00--password\x00b\x00http://a:b@c\x00")
	r := newRedactor([]string{"*password*"})
	f.Fuzz(func(t *testing.T, cmdline string) {
		args := r.args(cmdline)
		if len(args) > maxArgs {
			t.Errorf("%d arguments", len(args))
		}
		for i, arg := range args[min(1, len(args)):] {
			_, value, ok := strings.Cut(arg, "password=")
			if ok && value != redacted {
				t.Errorf("argument %d is %q of %q", i+1, arg, cmdline)
			}
		}
	})
}

func FuzzPasswd(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n")
	f.Fuzz(func(t *testing.T, text string) {
		for uid, name := range parsePasswd(text) {
			if name == "" || len(name) > maxKey || strings.Contains(name, ":") {
				t.Errorf("user %d is %q of %q", uid, name, text)
			}
		}
	})
}
