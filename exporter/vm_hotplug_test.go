package exporter

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/connspan/connspan/internal/actor"
)

// TestHotplug takes CPUs away and brings them back under load. One is away when the tracer starts.
// Whichever are there: every end of a connection is told once, in order, and nothing waits for a CPU
// that is away.
func TestHotplug(t *testing.T) {
	inGuest(t)
	cpus := allowedCPUs(t)
	if len(cpus) < 2 {
		t.Skip("one CPU alone: it cannot go")
	}
	late, other := cpus[len(cpus)-1], cpus[1]
	setOnline(t, late, false)
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.RingSize = 4 << 20 })
	ended := 0
	crowd := func(connections int) {
		t.Helper()
		tellsAll(t, tr, connections)
		ended += connections
	}

	crowd(200)
	setOnline(t, late, true)
	for deadline := time.Now().Add(time.Minute); eventsOn(t, tr, late) == 0; crowd(200) {
		if time.Now().After(deadline) {
			t.Fatalf("CPU %d has had no event in the minute since it came online", late)
		}
	}
	times := make(chan int)
	stop := make(chan struct{})
	go func() { times <- toggle(t, other, stop) }()
	crowd(3000)
	close(stop)
	n := <-times
	setOnline(t, other, false)
	crowd(200)
	setOnline(t, other, true)
	crowd(200)

	tr.stop()
	s := tr.stats
	if n < 3 {
		t.Errorf("CPU %d went and came %d times under load, want 3 or more", other, n)
	}
	all := uint64(2 * ended)
	if s.Lost != 0 || s.Gaps != 0 || s.Pending != 0 || max(s.Opened, s.Closed) > all || min(s.Opened, s.Closed)+s.Unseen < all ||
		max(s.Adopted, s.Synthesized, s.Strays, uint64(s.Open)) > s.Unseen {
		t.Errorf("stats %+v, want %d connections opened and closed and nothing lost, found or waiting, but for what was not seen", s, all)
	}
	t.Logf("measured: CPU %d went and came %d times during 3000 connections, %d late, %d violations, %d lost, %d not seen", other, n, s.Late, s.Violations, s.Lost, s.Unseen)
}

// tellsAll makes so many connections and wants all of their records, soon.
func tellsAll(t *testing.T, tr *trace, connections int) {
	t.Helper()
	p := actor.Start(t, "crowd", actor.Plan{
		Listen: "127.0.0.1:0", Request: 100, Reply: 100, How: actor.ClientCloses, Connections: connections, Workers: 8,
	})
	p.Report()
	p.Wait()
	all := 4 * connections
	records := tr.await(all, p.PID())
	unseen := int(tr.now().Unseen)
	if n := len(openEnds(records)); n > unseen || len(records) > all {
		t.Errorf("%d records, %d ends left open, want %d and none, but for %d state changes not seen", len(records), n, all, unseen)
	}
	checkOnce(t, records)
	for _, r := range records {
		if r.Event == nameFailed {
			t.Errorf("told to have failed: %+v", r)
		}
	}
}

// toggle takes a CPU away and brings it back until it is to stop, and says how often.
func toggle(t *testing.T, cpu int, stop <-chan struct{}) (n int) {
	for online := false; ; online = !online {
		if err := writeOnline(cpu, online); err != nil {
			t.Error(err)
			return n
		}
		if online {
			n++
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-stop:
			if err := writeOnline(cpu, true); err != nil {
				t.Error(err)
			}
			return n
		}
	}
}

func setOnline(t *testing.T, cpu int, online bool) {
	t.Helper()
	if err := writeOnline(cpu, online); err != nil {
		t.Fatal(err)
	}
}

func writeOnline(cpu int, online bool) error {
	value := "0"
	if online {
		value = "1"
	}
	return os.WriteFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", cpu), []byte(value), 0)
}

// eventsOn is how many events a CPU has had.
func eventsOn(t *testing.T, tr *trace, cpu int) uint64 {
	t.Helper()
	s, err := tr.x.tracer.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s.CPU[cpu].Numbered
}
