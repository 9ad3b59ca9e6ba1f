package exporter

import (
	"testing"

	"github.com/connspan/connspan/internal/actor"
)

// TestCrowd: thousands of connections, every end of each told once, none left, none out of order.
func TestCrowd(t *testing.T) {
	// The race detector makes the reader many times slower than the kernel: large rings make up for it.
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.RingSize = 16 << 20 })
	blind := actor.Blind(t)
	n := 20_000
	if testing.Short() {
		n = 2000
	}
	p := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", Request: 100, Reply: 100, How: actor.ClientCloses, Connections: n, Workers: 8})
	p.Report()
	p.Wait()
	tr.await(4*n-blind(), p.PID())
	tr.stop()
	counts := map[string]int{}
	for _, r := range tr.of(p.PID()) {
		counts[r.Event+" "+r.Role]++
		if r.Event == nameClose && !r.Synthesized && (r.Sent != 100 || r.Received != 100 || r.Reason != "fin") {
			t.Fatalf("%+v, want 100 octets each way and fin", r)
		}
	}
	unseen := blind() + int(tr.stats.Unseen)
	for _, kind := range []string{nameOpen + " client", nameOpen + " server", nameClose + " client", nameClose + " server"} {
		if counts[kind] > n || counts[kind] < n-unseen {
			t.Errorf("%s: %d, want %d less at most %d", kind, counts[kind], n, unseen)
		}
	}
	if open := len(openEnds(tr.of(p.PID()))); open > unseen {
		t.Errorf("%d ends are left open, want at most %d", open, unseen)
	}
	s := tr.stats
	if s.Lost != 0 || s.Gaps > uint64(unseen) {
		t.Errorf("stats %+v, want nothing lost", s)
	}
	t.Logf("measured: of the state changes of %d connections the kernel skipped the first program for %d, and the second for %d of these", n, s.Misses, s.Unseen)
}
