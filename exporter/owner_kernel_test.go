package exporter

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/connspan/connspan/internal/owner"
)

// TestKernelService: what a thread of the kernel connects is the kernel's, whichever thread it is; what a program
// does is not.
func TestKernelService(t *testing.T) {
	processes, err := owner.New(owner.Config{})
	if err != nil {
		t.Skip(err)
	}
	rs := describe(ResourceConfig{}, hostOnly(), processes.Find)
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	threads := 0
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has exited
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		ticks, err := strconv.ParseUint(fields[19], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.ParseUint(filepath.Base(filepath.Dir(path)), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		o := owner.ID{PID: uint32(pid), Started: ticks * 1e7}
		p := rs.find(o)
		if p.ParentPID == 0 {
			continue // it has exited, or is the first of all
		}
		name, _ := rs.service(o, p)
		isThread := fields[1] == "2"
		if isThread {
			threads++
		}
		if isThread != (name == "kernel") {
			t.Errorf("process %s is of the service %q", text[:strings.IndexByte(string(text), ')')+1], name)
		}
	}
	if threads == 0 {
		t.Skip("needs to see threads of the kernel in /proc")
	}
}
