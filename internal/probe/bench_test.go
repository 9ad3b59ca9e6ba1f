package probe

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// BenchmarkSnapshot has processes hold a hundred thousand sockets, and reports for each of them the
// processor time that it takes to remember it, to adopt it and to list it, that of a later audit, which
// does all of it again and finds nothing new, and how much memory the kernel needs to remember it:
// half as much where another program has storage with the same sockets.
func BenchmarkSnapshot(b *testing.B) {
	const holders, each = 6, 9900
	hold(b, holders, each)
	const sockets = 2 * holders * each
	var remember, adopt, list, audit time.Duration
	var octets int64
	for b.Loop() {
		tr := mustAttach(b, Config{RingSize: 16 << 20})
		drain := func() error { tr.Drain(func(int, []byte) {}); return b.Context().Err() }
		slab := slabs(b)
		remember += timed(b, func() error { return tr.Remember(drain) })
		if octets == 0 { // what is freed at the end of a round is so much later
			octets = slabs(b) - slab
		}
		adopt += timed(b, func() error { return tr.Adopt(drain) })
		var l *List
		list += timed(b, func() (err error) { l, err = tr.List(sockets); return err })
		audit += timed(b, func() (err error) {
			if err := errors.Join(tr.Remember(drain), tr.Adopt(drain)); err != nil {
				return err
			}
			_, err = tr.List(sockets)
			return err
		})
		if n := len(l.cookies); n < sockets {
			b.Fatalf("%d sockets listed, want %d or more", n, sockets)
		}
		if err := tr.Close(); err != nil {
			b.Fatal(err)
		}
	}
	all := float64(b.N) * sockets
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(remember.Nanoseconds())/all, "remember-ns/socket")
	b.ReportMetric(float64(adopt.Nanoseconds())/all, "adopt-ns/socket")
	b.ReportMetric(float64(list.Nanoseconds())/all, "list-ns/socket")
	b.ReportMetric(float64(audit.Nanoseconds())/all, "audit-ns/socket")
	b.ReportMetric(float64(octets)/sockets, "B/socket")
}

// hold has so many processes hold so many connections each until the benchmark ends.
func hold(b *testing.B, holders, each int) {
	b.Helper()
	var processes []*actor.Process
	for range holders {
		processes = append(processes, actor.Start(b, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: each}))
	}
	for _, p := range processes {
		p.Report()
	}
}

// timed gives the processor time of what is done, with the others' left out.
func timed(b *testing.B, do func() error) time.Duration {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadTime(b)
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return threadTime(b) - began
}

func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// slabs is how many octets of the kernel's own memory are in use: the sockets' storage is there, and no
// counter of the map itself tells how much it is.
func slabs(b *testing.B) (octets int64) {
	b.Helper()
	f, err := os.Open("/proc/slabinfo")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var name string
		var active, all, size int64
		if n, _ := fmt.Sscan(lines.Text(), &name, &active, &all, &size); n == 4 && strings.HasPrefix(name, "kmalloc-") {
			octets += active * size
		}
	}
	return octets
}
