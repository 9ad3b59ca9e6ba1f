package exporter

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// TestClockStep sets the wall clock while connections open and close. Their order and durations do
// not follow it; the times of their records do, one calibration later.
func TestClockStep(t *testing.T) {
	inGuest(t)
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.RingSize = 4 << 20 })
	plan := actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ClientCloses}
	for _, step := range []time.Duration{time.Hour, -30 * time.Minute} {
		crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: 1000, Workers: 4})
		across := actor.Start(t, "pair", plan)
		across.Report()
		began := eventsOn(t, tr, 0)
		stepWall(t, step)
		stepped := time.Now()
		across.Cue()
		across.Report()
		across.Wait()
		for _, r := range tr.await(4, across.PID()) {
			if r.Event == nameClose && (r.duration <= 0 || r.duration > 60) {
				t.Errorf("a step of %v: a connection across it lasted %v s", step, r.duration)
			}
		}
		crowd.Report()
		if eventsOn(t, tr, 0) == began {
			t.Errorf("a step of %v: no event after it", step)
		}
		crowd.Wait()
		tr.await(4000, crowd.PID())

		time.Sleep(time.Until(stepped.Add(calibration)))
		for range 5 {
			p := actor.Start(t, "pair", plan)
			truth := act(p, nil)
			p.Wait()
			check(t, tr, plan, truth, expectation{p.PID(), p.PID(), orderly["local"], orderly["peer"]})
			checkClosed(t, tr.of(p.PID()), truth)
		}
	}
	tr.stop()
	if s := tr.stats; s.Lost != 0 || s.Gaps != 0 || s.Pending != 0 {
		t.Errorf("stats %+v, want nothing lost or held", s)
	}
}

// stepWall sets the wall clock, by so much from what it says.
func stepWall(t *testing.T, by time.Duration) {
	t.Helper()
	ts := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatalf("setting the wall clock: %v", err)
	}
}

// checkClosed holds the times of the ends against the wall clock of the client.
func checkClosed(t *testing.T, records []told, truth actor.Report) {
	t.Helper()
	const slack = 5 * time.Millisecond // of the wall clock's calibration
	least, most := time.Unix(0, truth.Closing).Add(-slack), time.Now().Add(slack)
	for _, r := range records {
		if r.Event == nameClose && (r.at.Before(least) || r.at.After(most)) {
			t.Errorf("%s closed at %v, want between %v and %v", r.Role, r.at, least, most)
		}
	}
}
