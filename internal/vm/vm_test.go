package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// consoles are as a serial line has them, but for the carriage returns.
const (
	consoleGood = `[    1.0] kernel says something
@@ feature preemption: none (full)
@@ kernel 6.12.1 runs [/bin/exporter.test -test.v] (<nil>)
=== RUN   TestPair
=== RUN   TestPair/one
=== RUN   TestPair/two
    two_test.go:3: no second one
=== NAME  TestPair
    pair_test.go:7: measured: 3 of 4
--- PASS: TestPair (0.10s)
    --- PASS: TestPair/one (0.05s)
    --- SKIP: TestPair/two (0.05s)
=== RUN   TestAlone
    alone_test.go:12: one CPU alone
--- SKIP: TestAlone (0.00s)
PASS

@@ exit=0 after 1s
`
	consoleBad = `=== RUN   TestPair
    pair_test.go:9: 1, want 2
--- FAIL: TestPair (0.10s)
FAIL

@@ exit=1 after 1s
`
	consoleSkipped = `=== RUN   TestAlone
    alone_test.go:12: one CPU alone
--- SKIP: TestAlone (0.00s)
PASS

@@ exit=0 after 1s
`
	consoleRefused = `@@ kernel 5.10.1 runs [/bin/connspan run] (<nil>)
connspan: no
@@ exit status 1

@@ exit=1 after 1s
`
)

func TestJudge(t *testing.T) {
	tests := []struct {
		name, console string
		preempt       string
		judge         func(*result, []byte)
		want          result
		ok            bool
	}{
		{"good", consoleGood, "full", nil, result{passed: 1, skipped: []string{"TestPair/two: no second one", "TestAlone: one CPU alone"}, notes: []string{"3 of 4"}, features: [][2]string{{"preemption", "none (full)"}}}, true},
		{
			"other preemption", consoleRefused, "full", refusesInOneLine,
			result{passed: 1, notes: []string{"connspan: no"}, failed: []string{"preemption: unknown, want full"}},
			false,
		},
		{
			"skipped without a reason", strings.Replace(consoleGood, "    alone_test.go:12: one CPU alone\n", "", 1), "full", nil,
			result{
				passed: 1, skipped: []string{"TestPair/two: no second one"}, failed: []string{"TestAlone: skipped without a reason"},
				notes: []string{"3 of 4"}, features: [][2]string{{"preemption", "none (full)"}},
			},
			false,
		},
		{
			"nothing passed", consoleSkipped, "", nil,
			result{skipped: []string{"TestAlone: one CPU alone"}, failed: []string{"no test has passed"}},
			false,
		},
		{"bad", consoleBad, "", nil, result{exit: 1, failed: []string{"TestPair: 1, want 2"}}, false},
		{"dead", "--- PASS: TestPair (0.1s)\nOops: int3", "", nil, result{exit: -1, passed: 1}, false},
		{"hung", "--- PASS: TestPair (0.1s)\npanic: test timed out\n\n@@ exit=2 after 10m", "", nil, result{exit: 2, passed: 1}, false},
		{"refused", consoleRefused, "", refusesInOneLine, result{passed: 1, notes: []string{"connspan: no"}}, true},
		{
			"not refused", strings.Replace(consoleRefused, "exit=1", "exit=0", 1), "", refuses,
			result{failed: []string{"exit code 0, want 1: connspan: no"}},
			false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := judge(guest{group: &group{judge: tt.judge}, preempt: tt.preempt}, []byte(strings.ReplaceAll(tt.console, "\n", "\r\n")))
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(result{}), cmpopts.IgnoreFields(result{}, "guest")); d != "" {
				t.Error(d)
			}
			if got.ok() != tt.ok {
				t.Errorf("ok: %v", got.ok())
			}
		})
	}
}

// TestHang: a guest that says nothing more has died; the others go on.
func TestHang(t *testing.T) {
	dir := t.TempDir()
	modules, program := t.TempDir(), filepath.Join(dir, "qemu")
	const script = "#!/bin/sh\necho '@@ kernel'\ncase \"$*\" in *hangs*) exec sleep 60;; esac\necho '--- PASS: TestIt (0.10s)'\necho '@@ exit=0'\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	arch := architectures[0]
	h := &host{machines: map[*architecture]machine{arch: {qemu: &qemu{program: program}}}, logs: dir, patience: 300 * time.Millisecond}
	g := &group{name: "group", command: []string{"test"}}
	guests := []guest{
		{kernel: kernel{line: "1", arch: arch, image: "hangs", modules: modules}, cpus: 1, group: g},
		{kernel: kernel{line: "2", arch: arch, modules: modules}, cpus: 1, group: g},
	}
	results, err := h.runAll(t.Context(), guests, 2)
	if err != nil {
		t.Fatal(err)
	}
	if r := results[0]; r.ok() || r.exit >= 0 || r.attempts != 2 || !strings.Contains(r.line(), "died") {
		t.Errorf("of a guest that hangs: %s", r.line())
	}
	if r := results[1]; !r.ok() {
		t.Errorf("of one that does not: %s", r.line())
	}

	// Where that is asked for, only what has passed with the same programs is not run again.
	h.resume = true
	if r := h.passed(guests[0]); r.attempts > 0 {
		t.Error("a guest that has died counts as passed")
	}
	if r := h.passed(guests[1]); r.attempts != 1 || r.took == "" {
		t.Errorf("a guest that has passed does not count: %+v", r)
	}
	h.machines[arch] = machine{initramfs: []byte("other")}
	if r := h.passed(guests[1]); r.attempts > 0 {
		t.Error("a guest counts as passed with other programs")
	}
}

func TestReleases(t *testing.T) {
	a := apt{names: []string{
		"linux-image-6.12.9+deb13-cloud-amd64", "linux-image-6.12.117+deb13-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64",
		"linux-image-6.1-cloud-amd64", "linux-image-7.3.4+deb13-amd64", "linux-image-6.12.10+deb13-cloud-amd64-dbg", "linux-base", "linux-image-7.3.4+deb13-cloud-arm64",
	}}
	byLine, lines := a.releases(architectures[0])
	want := map[string][]string{
		"6.1":  {"6.1.0-9-cloud-amd64"},
		"6.12": {"6.12.117+deb13-cloud-amd64", "6.12.9+deb13-cloud-amd64"},
	}
	if d := cmp.Diff(want, byLine) + cmp.Diff([]string{"6.1", "6.12"}, lines); d != "" {
		t.Error(d)
	}
}

func TestInitramfs(t *testing.T) {
	var c cpio
	c.file("a/b/c", []byte("12345"))
	got := c.archive()
	if len(got)%4 != 0 {
		t.Errorf("%d octets, want a multiple of 4", len(got))
	}
	var names []string
	for _, entry := range strings.Split(string(got), "070701")[1:] {
		name, _, _ := strings.Cut(entry[13*8:], "\x00")
		names = append(names, name)
	}
	if d := cmp.Diff([]string{"a", "a/b", "a/b/c", "TRAILER!!!"}, names); d != "" {
		t.Error(d)
	}
}
