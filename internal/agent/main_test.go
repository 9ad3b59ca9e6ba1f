package agent

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files anew")

// asProgram in the environment makes the test binary the program.
const asProgram = "CONNSPAN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(Main("1.2.3", os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// result is what a run of the program left.
type result struct {
	Code           int
	Stdout, Stderr string
}

func mainWith(args ...string) result {
	var stdout, stderr output
	code := Main("1.2.3", args, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// output may be written to by several goroutines, as a file may be.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func wantResult(t *testing.T, want, got result) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// write writes a file for the test and returns its name.
func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"help", "-h", "--help", "run -h", "watch nginx -h", "check --help", "validate -h", "version -h", "--btf x -h"} {
		t.Run(args, func(t *testing.T) {
			wantResult(t, result{0, help, ""}, mainWith(strings.Fields(args)...))
		})
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"look":                  `unknown command "look", want run, watch, check, validate, version or help`,
		"watch port:x":          `watch: filter "port:x": want a port, 0 to 65535; see connspan help`,
		"watch a --btf= b":      `watch: invalid value "" for flag -btf: want a file; see connspan help`,
		"--verbose":             `run: flag provided but not defined: -verbose; see connspan help`,
		"run x":                 `run: unexpected argument "x"; see connspan help`,
		"--config":              `run: flag needs an argument: -config; see connspan help`,
		"--config=":             `run: invalid value "" for flag -config: want a file; see connspan help`,
		"--btf=":                `run: invalid value "" for flag -btf: want a file; see connspan help`,
		"check --config x.yaml": `check: flag provided but not defined: -config; see connspan help`,
		"validate":              `validate: --config FILE is missing; see connspan help`,
		"validate x.yaml":       `validate: unexpected argument "x.yaml"; see connspan help`,
		"version 1":             `version: unexpected argument "1"; see connspan help`,
	} {
		t.Run(args, func(t *testing.T) {
			wantResult(t, result{2, "", "connspan: " + want + "\n"}, mainWith(strings.Fields(args)...))
		})
	}
}

func TestVersion(t *testing.T) {
	got := mainWith("version")
	if got.Code != 0 || got.Stderr != "" || !strings.HasPrefix(got.Stdout, "connspan 1.2.3 linux/") {
		t.Errorf("got %+v", got)
	}
	if got := versionOf(""); got == "" {
		t.Error("a build without a version has none at all")
	}
}

func TestOutputThatFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range []string{"help", "-h", "version", "check", "validate --config " + write(t, "")} {
		var stderr output
		code := Main("", strings.Fields(args), full, &stderr)
		if code != 1 || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%s: got exit code %d, %s", args, code, stderr.String())
		}
	}
}

func TestCheckWithoutTypes(t *testing.T) {
	got := mainWith("check", "--btf", "/nonexistent")
	if got.Code != 1 || got.Stderr != "" {
		t.Errorf("got exit code %d, stderr %q; want 1 and nothing", got.Code, got.Stderr)
	}
	lines := strings.Split(strings.TrimSuffix(got.Stdout, "\n"), "\n")
	column, types := strings.Index(lines[0], "Linux"), -1
	if column < 0 {
		column = len("ok  ") + len("socket storage in tracing programs") + len("  ")
	}
	for i, line := range lines[:len(lines)-1] {
		if len(line) <= column || line[column-1] != ' ' || line[column] == ' ' {
			t.Errorf("line is not aligned to column %d: %s", column, line)
		}
		if strings.HasPrefix(line, "NO  kernel types (BTF)  ") {
			types = i
		}
	}
	if types < 0 || !strings.Contains(lines[types], "/nonexistent") || !strings.HasPrefix(strings.TrimSpace(lines[types+1]), "-> use a kernel built with CONFIG_DEBUG_INFO_BTF=y") {
		t.Errorf("want the need of BTF, the file, and a remedy in the next line; got:\n%s", got.Stdout)
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "connspan cannot run: ") {
		t.Errorf("last line: %s", last)
	}
}

func TestCheckHere(t *testing.T) {
	got := mainWith("check")
	met := strings.HasSuffix(got.Stdout, "needs are met\n")
	if got.Stderr != "" || met != (got.Code == 0) || met == strings.Contains(got.Stdout, "NO  ") {
		t.Errorf("got %+v", got)
	}
}
