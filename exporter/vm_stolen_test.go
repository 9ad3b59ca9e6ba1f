package exporter

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/probe"
)

const (
	enoughGaps = 120 // of the stalled CPU: about half a minute
	leastGaps  = 20  // with fewer the host has not done its part

	// dwell is how long the programs of that CPU stay between stamp and submit, or the host would seldom
	// find one there. It is little beside what the host takes.
	dwell = 2 * time.Millisecond
)

// TestStolen: the host takes CPU 1 away for 20 to 80 ms, several times a second, wherever it is. The
// same events go to the tracer's own merge and to the one that it replaces, as in [TestOrder], but
// here no program is told to sleep that long. The guest's own log of gaps proves the stalls.
func TestStolen(t *testing.T) {
	if os.Getenv(guestEnv) != guestStalled {
		t.Skipf("for a guest whose host stalls CPU 1: %s is not %q; make test-kernels", guestEnv, guestStalled)
	}
	awake, stolen := twoCPUs(t)
	gaps := startGaps(t, allowedCPUs(t))
	r := startRace(t, probe.Stall{For: dwell, Every: 1, CPU: stolen}, awake)
	made := uint64(r.under(attempts, func() bool {
		return gaps[int(stolen)].count.Load() >= enoughGaps && r.sorted.worst.Load() >= uint64(gapLeast)
	}))
	on, off := gaps[int(stolen)], gaps[awake]
	t.Logf("measured: CPU %d stood still %d times for %v or longer (longest %v), CPU %d %d times; of %d events %d out of order when sorted (worst %v), %d when merged, held for %v at most",
		stolen, on.count.Load(), gapLeast, on.longest(), awake, off.count.Load(), r.ours.released,
		r.sorted.violations.Load(), time.Duration(r.sorted.worst.Load()), r.ours.violations.Load(), time.Duration(slices.Max(r.held)))
	s := checkBalance(t, r.x, r.told)
	if n := r.ours.violations.Load(); n != 0 || s.Lost != 0 || s.Unseen != 0 || s.Gaps != 0 || s.Pending != 0 ||
		s.Failed != made || s.Read != made || r.ours.released != s.Released || r.sorted.released != s.Released {
		t.Errorf("%d of %d events behind a younger one, %d sorted, of %d attempts: %+v", n, r.ours.released, r.sorted.released, made, s)
	}
	if on.count.Load() < leastGaps || r.sorted.worst.Load() < uint64(gapLeast) {
		t.Errorf("inconclusive: CPU %d stood still %d times, want %d or more, and one of them between stamp and submit", stolen, on.count.Load(), leastGaps)
	}
}

// attempts has processes try to connect in vain, on each CPU on its own, until that is enough, and says
// how many. Nothing has more events in less time.
func attempts(t testing.TB, enough func() bool) (n int) {
	t.Helper()
	plan := actor.Plan{Connect: "127.0.0.1:1", Connections: 5000}
	for !enough() {
		var each []*actor.Process
		for _, cpu := range allowedCPUs(t) {
			each = append(each, startOn(t, cpu, "refused", plan))
		}
		for _, p := range each {
			p.Report()
			p.Wait()
			n += plan.Connections
		}
	}
	return n
}

// gapLeast is the least delay that counts as one: a bit less than the shortest stall.
const gapLeast = 18 * time.Millisecond

// A gapLog is of the times when a CPU did not run the most urgent of its threads.
type gapLog struct {
	count atomic.Int64
	worst atomic.Int64 // ns
}

func (g *gapLog) longest() time.Duration { return time.Duration(g.worst.Load()) }

// startGaps watches each CPU until the test ends.
func startGaps(t *testing.T, cpus []int) map[int]*gapLog {
	t.Helper()
	// The watchers hold on to their processors while they sleep, or they would measure the Go
	// scheduler too. The others get as many as before.
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(before + len(cpus))
	var stop atomic.Bool
	var watching sync.WaitGroup
	logs := map[int]*gapLog{}
	for _, cpu := range cpus {
		g := &gapLog{}
		logs[cpu] = g
		watching.Go(func() {
			if err := g.watch(cpu, &stop); err != nil {
				t.Errorf("watching CPU %d: %v", cpu, err)
			}
		})
	}
	t.Cleanup(func() {
		stop.Store(true)
		watching.Wait()
		runtime.GOMAXPROCS(before)
	})
	return logs
}

// watch sleeps for a millisecond at a time, ahead of all other threads of the CPU, and logs when it
// is woken much too late.
func (g *gapLog) watch(cpu int, stop *atomic.Bool) error {
	if err := runOn([]int{cpu}); err != nil {
		return err
	}
	urgent := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &urgent, 0); err != nil {
		return err
	}
	nap := unix.NsecToTimespec(int64(time.Millisecond))
	for last := time.Now(); !stop.Load(); {
		_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&nap)), 0, 0, 0)
		now := time.Now()
		if gap := now.Sub(last); gap >= gapLeast {
			g.count.Add(1)
			g.worst.Store(max(g.worst.Load(), int64(gap)))
		}
		last = now
	}
	return nil
}
