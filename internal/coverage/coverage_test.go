package coverage

import (
	"context"
	"log/slog"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/internal/actor"
)

func TestMain(m *testing.M) {
	actor.Main()
	goleak.VerifyTestMain(m)
}

func TestParse(t *testing.T) {
	const names = "Tcp: RtoMin MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab\n"
	for _, tt := range []struct{ name, text, err string }{
		{"all there is", "Ip: Forwarding\nIp: 1\n" + names + "Tcp: 200 -1 5 4 3 2 1\nUdp: InDatagrams\nUdp: 7\n", ""},
		{"empty", "", "no counters of TCP"},
		{"names alone", names, "no counters of TCP"},
		{"too few", names + "Tcp: 1 2\n", "2 values of 7 names"},
		{"no number", names + "Tcp: 200 -1 five 4 3 2 1\n", "ActiveOpens: "},
		{"one is missing", "Tcp: ActiveOpens PassiveOpens AttemptFails EstabResets\nTcp: 1 2 3 4\n", "no CurrEstab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse([]byte(tt.text))
			if tt.err == "" {
				want := map[string]int64{
					"RtoMin": 200, "MaxConn": -1, "ActiveOpens": 5, "PassiveOpens": 4, "AttemptFails": 3, "EstabResets": 2, "CurrEstab": 1,
				}
				if d := cmp.Diff(want, got); d != "" || err != nil {
					t.Errorf("error %v, counters (-want +got):\n%s", err, d)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// seen counts what the tracer tells of one network namespace, in the kernel's terms.
type seen struct {
	netns int64
	mu    sync.Mutex
	count map[string]int64
	open  int64
}

func (s *seen) consume(_ context.Context, ld plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range ld.ResourceLogs().All() {
		for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			if netns, ok := lr.Attributes().Get("connspan.netns.inode"); ok && netns.Int() == s.netns {
				s.add(lr.EventName(), lr.Attributes())
			}
		}
	}
	return nil
}

func (s *seen) add(name string, attributes pcommon.Map) {
	text := func(key string) string {
		v, _ := attributes.Get(key)
		return v.AsString()
	}
	switch name {
	case "tcp.connection.open":
		s.open++
		opens := map[string]string{"client": "active_opens", "server": "passive_opens"}
		s.count[opens[text("network.tcp.handshake.role")]]++
	case "tcp.connection.failed":
		s.count["active_opens"]++
		s.count["attempt_fails"]++
	case "tcp.connection.close":
		s.open--
		if strings.HasPrefix(text("tcp.connection.close.reason"), "reset_") {
			s.count["estab_resets"]++
		}
	}
}

// now is what the kernel is to have counted.
func (s *seen) now() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]int64{"active_opens": 0, "passive_opens": 0, "attempt_fails": 0, "estab_resets": 0, "curr_estab": s.open}
	for name, n := range s.count {
		all[name] = n
	}
	return all
}

// TestCoverage: in a network namespace of its own, what the kernel counts is what the tracer tells, to
// the last connection: openings on both sides, failures, resets, and those that are open.
func TestCoverage(t *testing.T) {
	netns := enterNetNS(t)
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if err := Observe(provider.Meter("test")); err != nil {
		t.Fatal(err)
	}
	s := trace(t, netns)
	blind := actor.Blind(t)

	plan := actor.Plan{Listen: "127.0.0.1:0", Request: 100, Reply: 5000, How: actor.ClientCloses, Connections: 300, Workers: 4}
	crowd := actor.Start(t, "crowd", plan)
	crowd.Report()
	crowd.Wait()
	const resets, refusals, held = 5, 7, 20
	for range resets {
		plan.How = actor.ClientResets
		pair := actor.Start(t, "pair", plan)
		pair.Report()
		pair.Cue()
		pair.Report()
		pair.Wait()
	}
	for range refusals {
		refused := actor.Start(t, "refused", actor.Plan{Connect: netip.AddrPortFrom(netip.IPv6Loopback(), 1).String()})
		refused.Report()
		refused.Wait()
	}
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: held})
	holder.Report()

	if blind() > 0 {
		t.Skipf("the kernel has run no program for %d state changes", blind())
	}
	const made = 300 + resets + held
	want := map[string]int64{
		"active_opens": made + refusals, "passive_opens": made, "attempt_fails": refusals, "estab_resets": 2 * resets, "curr_estab": 2 * held,
	}
	kernel := collect(t, reader)
	if d := cmp.Diff(want, kernel); d != "" {
		t.Errorf("the kernel's counters (-made +counted):\n%s", d)
	}
	for deadline := time.Now().Add(10 * time.Second); !cmp.Equal(kernel, s.now()) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if d := cmp.Diff(kernel, s.now()); d != "" {
		t.Errorf("what the tracer has seen (-kernel +tracer):\n%s", d)
	}
}

// enterNetNS gives the calling goroutine, and the actors that it starts, a network namespace of their own.
func enterNetNS(t *testing.T) (inode int64) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the namespace ends with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		t.Fatal(err)
	}
	return int64(stat.Ino)
}

// trace runs a tracer until the test ends.
func trace(t *testing.T, netns int64) *seen {
	t.Helper()
	s := &seen{netns: netns, count: map[string]int64{}}
	sink, err := consumer.NewLogs(s.consume)
	if err != nil {
		t.Fatal(err)
	}
	x, err := exporter.New(exporter.NewDefaultConfig(), exporter.Consumers{Logs: []consumer.Logs{sink}}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// collect reads on the calling thread, and so in its network namespace. It gives the metrics by the ends of
// their names.
func collect(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &metrics); err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for _, m := range metrics.ScopeMetrics[0].Metrics {
		name, ok := strings.CutPrefix(m.Name, "connspan.kernel.tcp.")
		sum, isSum := m.Data.(metricdata.Sum[int64])
		if !ok || !isSum || len(sum.DataPoints) != 1 || sum.IsMonotonic == (name == "curr_estab") {
			t.Errorf("%s: %+v, want one total, monotonic but for curr_estab", m.Name, m.Data)
			continue
		}
		all[name] = sum.DataPoints[0].Value
	}
	return all
}
