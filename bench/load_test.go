package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// opened is how many connections the network namespace of a process has opened, by the kernel's own count.
func opened(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", pid))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if fields[0] != "Tcp:" {
			continue
		}
		for i, name := range names {
			if name == "ActiveOpens" {
				n, err := strconv.Atoi(fields[i])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		names = fields
	}
	t.Fatal("no ActiveOpens")
	return 0
}

// TestLoad: the client has made as many connections as the kernel says, and no more than were asked for.
func TestLoad(t *testing.T) {
	l, err := newLane(settings{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	const window = 200 * time.Millisecond
	for _, tt := range []struct {
		name string
		load load
		most int // connections; 0: any number
	}{
		{"flat out", load{Port: l.ports.Bare, For: window, Threads: threads}, 0},
		{"with payload", load{Port: l.ports.Echo, For: window, Threads: threads, Payload: 100_000}, 0},
		{"at a rate", load{Port: l.ports.Echo, For: window, Threads: threads, Payload: 1, Rate: 100}, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := opened(t, l.client.pid())
			var d done
			if err := l.client.ask(tt.load, &d); err != nil {
				t.Fatal(err)
			}
			if n := opened(t, l.client.pid()) - before; d.Count == 0 || n != d.Count {
				t.Errorf("%d connections reported, %d made", d.Count, n)
			}
			if d.Elapsed < window || tt.most > 0 && d.Count > tt.most {
				t.Errorf("%d connections in %v, want at most %d in %v", d.Count, d.Elapsed, tt.most, window)
			}
		})
	}
	t.Run("held", func(t *testing.T) {
		before := opened(t, l.client.pid())
		var d done
		if err := l.client.ask(load{Port: l.ports.Echo, For: window, Threads: threads, Payload: 1024, Held: maxHeld}, &d); err != nil {
			t.Fatal(err)
		}
		if n := opened(t, l.client.pid()) - before; n != maxHeld || d.Count == 0 {
			t.Errorf("%d connections made, %d requests: want %d, and some", n, d.Count, maxHeld)
		}
	})
}

// TestHolders: connections stay open, in as many processes as the limit of files makes necessary.
func TestHolders(t *testing.T) {
	h, err := newHolders()
	if err != nil {
		t.Fatal(err)
	}
	h.each = 30
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	for _, n := range []int{10, 70} {
		if err := h.hold(n); err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, c := range h.children {
			total += opened(t, c.pid())
		}
		if total != n {
			t.Errorf("%d connections opened by %d processes, want %d", total, len(h.children), n)
		}
	}
}
