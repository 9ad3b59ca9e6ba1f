package exporter

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/connspan/connspan/internal/actor"
)

// TestForkStorm: shells fork as fast as they can, and each child connects and exits at once. None goes without
// its name where the rings have room for all that the reader, who has to share the processors with the storm,
// has not read yet; with smaller rings, no more do than the counters say. What it measured is printed with -v.
func TestForkStorm(t *testing.T) {
	for _, size := range []Size{0, 16 << 20} {
		text, _ := size.MarshalText()
		t.Run(fmt.Sprintf("rings %s", text), func(t *testing.T) {
			s := raiseStorm(t, size)
			t.Logf("measured: fork storm: %d processes, %.0f a second: %d are told of, %d without a name; no room for %d of their records and for %d events, %d state changes unseen",
				s.processes, float64(s.processes)/s.took.Seconds(), s.told, s.missed, s.unnamed, s.lost, s.unseen)
			if s.missed > s.unnamed {
				t.Errorf("%d are told of without a name, but only %d records found no room", s.missed, s.unnamed)
			}
			if s.told < s.processes-s.unseen-s.lost || s.told > s.processes {
				t.Errorf("%d of %d are told of, with %d events lost and %d state changes unseen", s.told, s.processes, s.lost, s.unseen)
			}
			if size > 0 && s.unnamed+s.lost > 0 {
				t.Errorf("rings of %s have no room for %d records of processes and %d events", text, s.unnamed, s.lost)
			}
		})
	}
}

// storm is what became of many processes.
type storm struct {
	processes, told, missed int // missed: their executables, of those that are told of
	unnamed, lost, unseen   int
	took                    time.Duration
}

func raiseStorm(t *testing.T, rings Size) (s storm) {
	t.Helper()
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash, whose /dev/tcp connects without another program")
	}
	if shell, err = filepath.EvalSymlinks(shell); err != nil {
		t.Fatal(err)
	}
	const shells = 4
	each := 1000
	if testing.Short() {
		each = 100
	}
	server := listen(t)
	var mu sync.Mutex
	paths := map[int64]string{} // what each process executes, as it is told
	tr := startTraceTo(t, allowedCPUs(t), func(cfg *Config, to *Consumers, _ *trace) {
		cfg.Tracer = NewDefaultConfig().Tracer
		cfg.Tracer.RingSize = rings
		sink, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
			mu.Lock()
			defer mu.Unlock()
			for _, rl := range ld.ResourceLogs().All() {
				if r := read(rl.ScopeLogs().At(0).LogRecords().At(0)); r.Peer == server && r.PID != 0 {
					path, _ := rl.Resource().Attributes().Get(attrPath)
					paths[r.PID] = path.Str()
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		to.Logs = append(to.Logs, sink)
	})
	eventually(t, func() bool { return tr.now().Running }, nil)
	before, blind := tr.now(), actor.Blind(t)
	began := time.Now()
	var running sync.WaitGroup
	for range shells {
		cmd := exec.Command(shell, "-c", fmt.Sprintf(
			`for ((i = 0; i < %d; i++)); do (exec 3<>/dev/tcp/%s/%d) & ((i %% 100 == 99)) && wait; done; wait`,
			each, server.Addr(), server.Port()))
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { _ = cmd.Wait() })
	}
	running.Wait()
	s.took = time.Since(began)
	tr.stop()
	s.unseen = blind()
	s.processes, s.told = shells*each, len(paths)
	s.unnamed, s.lost = int(tr.stats.Unnamed-before.Unnamed), int(tr.stats.Lost-before.Lost)
	for _, path := range paths {
		if path != shell {
			s.missed++
		}
	}
	return s
}
