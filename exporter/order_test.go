package exporter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/probe"
)

// TestOrder has the BPF programs on one CPU sleep between stamp and submit, and gives the very same
// events, as they come out of the rings, to the tracer's own merge and to the one that it replaces.
func TestOrder(t *testing.T) {
	awake, sleeper := twoCPUs(t)
	tests := []struct {
		stall  probe.Stall
		stalls uint64 // enough
	}{
		{probe.Stall{For: time.Millisecond, Every: 20, CPU: sleeper}, 500},
		{probe.Stall{For: 5 * time.Millisecond, Every: 50, CPU: sleeper}, 200},
		{probe.Stall{For: 98 * time.Millisecond, Every: 1000, CPU: sleeper}, 10},
		{probe.Stall{For: time.Second, Every: 5000, CPU: sleeper}, 3},
	}
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "\t\t\tout of order\t\tworst\theld by connspan, ms\t\t\t")
	_, _ = fmt.Fprintln(w, "stall\tevents\tstalls\tsort\tconnspan\tsort, ms\tp50\tp99\tmax\t")
	for _, tt := range tests {
		t.Run(tt.stall.For.String(), func(t *testing.T) {
			r := startRace(t, tt.stall, awake)
			r.load(func() bool { return r.stalls() >= tt.stalls && r.sorted.violations.Load() > 0 }) // a short one may fall between two rounds
			r.check()
			if r.sorted.violations.Load() == 0 {
				t.Errorf("to sort what is there has kept the order in spite of %d stalls: this test shows nothing", r.stalls())
			}
			r.row(w)
		})
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\n%s\n", table.String())
}

// TestOrderInterrupted: all packets are received on the CPU that stalls, also while one of its
// processes stalls inside a program. The kernel skips the first program then, and the second one
// stamps and submits in the midst of it.
func TestOrderInterrupted(t *testing.T) {
	awake, sleeper := twoCPUs(t)
	receiveOn(t, sleeper)
	r := startRace(t, probe.Stall{For: 5 * time.Millisecond, Every: 20, CPU: sleeper}, awake)
	r.load(func() bool { return r.stalls() >= 200 && r.kernel.Load().Total().Rescued > 0 })
	r.check()
	if n := r.kernel.Load().Total().Rescued; n == 0 {
		t.Error("no transition has fallen to the second program")
	}
}

// TestOrderBehindProcesses: a CPU sleeps with the record of a process reserved, and events of softirqs lie
// behind it in its ring, which the reader cannot get at. None is overtaken.
func TestOrderBehindProcesses(t *testing.T) {
	awake, sleeper := twoCPUs(t)
	receiveOn(t, sleeper)
	r := startRace(t, probe.Stall{For: 5 * time.Millisecond, Every: 1 << 30, CPU: sleeper, Processes: true}, awake)
	var others sync.WaitGroup
	var ended atomic.Bool
	others.Go(func() { // events of the CPU that is awake
		for !ended.Load() {
			p := startOn(t, awake, "refused", actor.Plan{Connect: "127.0.0.1:1", Connections: 1000})
			p.Report()
			p.Wait()
		}
	})
	r.under(func(t testing.TB, enough func() bool) (n int) {
		for ; !enough(); n++ {
			crowd := startOn(t, awake, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: 1000, Workers: 8})
			for range 20 {
				p := startOn(t, int(sleeper), "refused", actor.Plan{Connect: "127.0.0.1:1"})
				p.Report()
				p.Wait()
			}
			crowd.Report()
			crowd.Wait()
		}
		ended.Store(true)
		others.Wait()
		return n
	}, func() bool { return r.kernel.Load().CPU[sleeper].Processes >= 200 })
	r.check()
}

// TestViolation: an order that is violated is said, with the evidence, but not again and again.
func TestViolation(t *testing.T) {
	var said output
	x, err := New(NewDefaultConfig(), Consumers{}, slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), &said), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}()
	want := 0
	for _, silence := range []time.Duration{0, sayEvery} {
		x.loss.saidViolation.last = x.loss.saidViolation.last.Add(-silence)
		for range 3 {
			want++
			events := life(42, uint64(want), second, time.Second, 0)
			slices.Reverse(events)
			for _, e := range events {
				e.CPU, e.Seq = 1, 70+uint64(e.Ordinal)
				x.apply(t.Context(), e)
			}
		}
	}
	var lines []string
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "violation=true") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 2 {
		t.Fatalf("said %d times of %d, want once, and again after %v: %q", len(lines), want, sayEvery, lines)
	}
	for i, cookie := range []string{"cookie=1 ", "cookie=4 "} {
		for _, evidence := range []string{"level=ERROR", "ordinal=1 last=2 ", "cpu=1 seq=71 time=1s ", cookie, "pid=42 "} {
			if !strings.Contains(lines[i], evidence) {
				t.Errorf("said %q, want %s", lines[i], evidence)
			}
		}
	}
	x.publish(0)
	if s, err := x.Stats(); err != nil || s.Violations != uint64(want) {
		t.Errorf("%d violations (%v), want %d", s.Violations, err, want)
	}
}

// twoCPUs gives one to read on and one to stall.
func twoCPUs(t *testing.T) (awake int, sleeper uint32) {
	t.Helper()
	cpus := allowedCPUs(t)
	if len(cpus) < 2 {
		t.Skip("one CPU alone: nobody overtakes it while it sleeps")
	}
	return cpus[0], uint32(cpus[len(cpus)-1])
}

func allowedCPUs(t testing.TB) (cpus []int) {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// runOn has the calling goroutine run on these CPUs alone, to its end.
func runOn(cpus []int) error {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	return unix.SchedSetaffinity(0, &set)
}

// startOn starts an actor that runs on that CPU alone.
func startOn(t testing.TB, cpu int, name string, plan actor.Plan) *actor.Process {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	one.Set(cpu)
	if err := errors.Join(unix.SchedGetaffinity(0, &before), unix.SchedSetaffinity(0, &one)); err != nil {
		t.Fatal(err)
	}
	p := actor.Start(t, name, plan)
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	return p
}

// receiveOn gives the calling goroutine, and the actors that it starts, a network namespace whose
// packets are received on that CPU (receive packet steering).
func receiveOn(t *testing.T, cpu uint32) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the namespaces end with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	mask := fmt.Sprintf("%x%s", 1<<(cpu%32), strings.Repeat(",0", int(cpu/32)))
	if err := os.WriteFile("/sys/class/net/lo/queues/rx-0/rps_cpus", []byte(mask), 0); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// crowds makes connections on all CPUs, in two processes at a time, until that is enough, and says how
// many.
func crowds(t testing.TB, enough func() bool) (n int) {
	t.Helper()
	for !enough() {
		n += len(twoCrowds(t)) * crowdPlan.Connections
	}
	return n
}

var (
	crowdPlan    = actor.Plan{Listen: "127.0.0.1:0", Request: 100, Reply: 100, How: actor.ClientCloses, Connections: 500, Workers: 8}
	crowdAccount = account{Opened: 2 * 500, Closed: 2 * 500, Sent: 500 * (100 + 100), Received: 500 * (100 + 100)}
)

// The connections of a carrier are open for long, and have something to carry again and again.
var carrierPlan = actor.Plan{Listen: "127.0.0.1:0", Connections: 50, Request: 70, Reply: 500}

// carrierAccount is what it comes to after so many exchanges.
func carrierAccount(exchanges int64) account {
	n := int64(carrierPlan.Connections)
	octets := exchanges * n * int64(carrierPlan.Request+carrierPlan.Reply)
	return account{Opened: n + n*exchanges, Closed: n * (exchanges - 1), Active: 2 * n, Sent: octets, Received: octets}
}

// twoCrowds gives their processes when both are over.
func twoCrowds(t testing.TB) (pids []int) {
	t.Helper()
	pair := []*actor.Process{actor.Start(t, "crowd", crowdPlan), actor.Start(t, "crowd", crowdPlan)}
	for _, p := range pair {
		p.Report()
		p.Wait()
		pids = append(pids, p.PID())
	}
	return pids
}

// A race reads the rings like [Exporter.Run], and gives each event to both merges.
type race struct {
	t       testing.TB
	x       *Exporter
	stall   probe.Stall
	sort    sortUpToNow
	ours    verdict
	sorted  verdict
	kernel  atomic.Pointer[probe.Stats]
	told    uint64              // records
	found   map[numbered]uint64 // when each event that waits in our merge was read
	held    []uint64            // ns from the round that read an event to the one that released it
	stamps  []uint64            // of this round's events of the CPU that stalls
	waited  uint64              // events of that CPU that were read a whole stall after their stamp
	stop    context.CancelFunc
	stopped chan error
}

// numbered names an event.
type numbered struct {
	seq uint64
	cpu uint16
}

// A verdict is on a stream of released events.
type verdict struct {
	released   uint64
	violations atomic.Uint64 // events behind a younger one
	last       uint64
	worst      atomic.Uint64 // ns from an event to the younger one before it
}

func (v *verdict) see(e *event.Event) {
	v.released++
	if e.Time < v.last {
		v.violations.Add(1)
		v.worst.Store(max(v.worst.Load(), v.last-e.Time))
	}
	v.last = max(v.last, e.Time)
}

// sortUpToNow is what gobpf and Weave Scope did: sort what is there, release what was stamped before
// the drain began.
type sortUpToNow []event.Event

func (s *sortUpToNow) release(now uint64, yield func(*event.Event)) {
	slices.SortFunc(*s, func(a, b event.Event) int { return cmp.Compare(a.Time, b.Time) })
	n := 0
	for n < len(*s) && (*s)[n].Time <= now {
		yield(&(*s)[n])
		n++
	}
	*s = slices.Delete(*s, 0, n)
}

// startRace reads on a CPU that does not stall.
func startRace(t testing.TB, stall probe.Stall, readOn int) *race {
	t.Helper()
	cfg := NewDefaultConfig()
	cfg.Tracer.RingSize = 16 << 20
	x, err := newStalled(cfg, Consumers{}, slog.New(slog.DiscardHandler), stall)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &race{t: t, x: x, stall: stall, found: map[numbered]uint64{}, stop: cancel, stopped: make(chan error, 1)}
	r.kernel.Store(&probe.Stats{CPU: make([]probe.CPUStats, x.tracer.CPUs())})
	t.Cleanup(func() {
		cancel()
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	go func() { r.stopped <- r.run(ctx, readOn) }()
	return r
}

func (r *race) run(ctx context.Context, cpu int) error {
	if err := runOn([]int{cpu}); err != nil {
		return err
	}
	for end := uint64(0); ; {
		now, err := r.round()
		if err != nil {
			return err
		}
		s, err := r.x.tracer.Stats()
		if err != nil {
			return err
		}
		r.kernel.Store(&s)
		if end == 0 && ctx.Err() != nil {
			if err := r.x.tracer.Detach(); err != nil {
				return err
			}
			if end, err = r.x.tracer.Now(); err != nil {
				return err
			}
		}
		if end != 0 && (r.settled(s, end) || now > end+uint64(20*time.Second)) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// settled: nothing from before the time is on its way.
func (r *race) settled(s probe.Stats, end uint64) bool {
	m, total := r.x.merge.Stats(), s.Total()
	return m.Watermark >= end && m.Pending == 0 && len(r.sort) == 0 && s.Read == total.Submitted+total.Processes
}

// round is [Exporter.round], with a second merge.
func (r *race) round() (now uint64, err error) {
	x := r.x
	if now, err = x.tracer.Now(); err != nil {
		return 0, err
	}
	for cpu := range x.tracer.CPUs() {
		if !x.tracer.InFlight(cpu) {
			x.merge.Watermark(cpu, now)
			x.loss.quiet[cpu] = now
		}
	}
	r.stamps = r.stamps[:0]
	var e event.Event
	x.tracer.Drain(func(cpu int, sample []byte) {
		if len(sample) == event.ProcessSize {
			x.introduce(sample)
			return
		}
		if err := event.Decode(sample, cpu, &e); err != nil {
			x.malformed++
			return
		}
		x.loss.sequences[cpu].See(e.Seq, e.Time)
		x.merge.Push(&e)
		r.sort = append(r.sort, e)
		r.found[numbered{e.Seq, e.CPU}] = now
		if uint32(cpu) == r.stall.CPU {
			r.stamps = append(r.stamps, e.Time)
		}
	})
	x.loss.settle()
	x.merge.Release(now, func(e *event.Event) {
		r.ours.see(e)
		x.table.Apply(e, func(*conn.Record) { r.told++ })
		name := numbered{e.Seq, e.CPU}
		r.held = append(r.held, now-r.found[name])
		delete(r.found, name)
	})
	r.sort.release(now, r.sorted.see)
	x.publish(now)
	read, err := x.tracer.Now()
	for _, stamp := range r.stamps {
		if read >= stamp+uint64(r.stall.For) {
			r.waited++
		}
	}
	return now, err
}

func (r *race) stalls() uint64 { return stallsOf(r.stall, r.kernel.Load().CPU[r.stall.CPU].Numbered) }

// stallsOf is how many there were: the first event of the CPU, and every so many-th after it.
func stallsOf(stall probe.Stall, numbered uint64) uint64 {
	every := uint64(stall.Every)
	return (numbered + every - 1) / every
}

// load makes connections until that is enough, a minute at most, and then ends the race.
func (r *race) load(enough func() bool) { r.under(crowds, enough) }

// under is load of another kind. It says how many connections that were.
func (r *race) under(load func(t testing.TB, enough func() bool) int, enough func() bool) (n int) {
	r.t.Helper()
	// A collector that stops its world would wait for the CPU that stalls, and stop the load with it.
	r.t.Setenv("GOGC", "off")
	deadline := time.Now().Add(time.Minute)
	n = load(r.t, func() bool { return enough() || time.Now().After(deadline) })
	r.stop()
	if err := <-r.stopped; err != nil {
		r.t.Fatal(err)
	}
	slices.Sort(r.held)
	return n
}

func (r *race) check() {
	r.t.Helper()
	s := checkBalance(r.t, r.x, r.told)
	if n := r.ours.violations.Load(); n != 0 || r.ours.released != s.Released || r.sorted.released != s.Released {
		r.t.Errorf("released %d events, %d of them behind a younger one, and sorted %d: %+v",
			r.ours.released, n, r.sorted.released, s)
	}
	if r.waited < r.stalls() {
		r.t.Errorf("%d events were read %v after their stamp or later, want each of %d that stalled",
			r.waited, r.stall.For, r.stalls())
	}
	r.t.Logf("%d stalls, %d transitions fell to the second program, %+v", r.stalls(), r.kernel.Load().Total().Rescued, s)
}

// row is what the table says of the race.
func (r *race) row(w io.Writer) {
	ms := func(ns uint64) string { return fmt.Sprintf("%.1f", float64(ns)/1e6) }
	held := func(percent int) string { return ms(r.held[(len(r.held)-1)*percent/100]) }
	_, _ = fmt.Fprintf(w, "%v\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t\n", r.stall.For, r.ours.released, r.stalls(),
		r.sorted.violations.Load(), r.ours.violations.Load(), ms(r.sorted.worst.Load()), held(50), held(99), held(100))
}

// TestStalled: the whole way, while CPUs sleep.
func TestStalled(t *testing.T) {
	_, sleeper := twoCPUs(t)
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 200})
	holder.Report()
	stall := probe.Stall{For: 98 * time.Millisecond, Every: 500, CPU: sleeper}
	soak(t, stall, 5*time.Millisecond, holder, 3*time.Second)
}

const soakEnv = "CONNSPAN_TEST_SOAK"

// TestSoak: one tracer after the other, each with stalls of its own, under load all the time.
func TestSoak(t *testing.T) {
	if os.Getenv(soakEnv) == "" {
		t.Skipf("set %s to how long this is to take, such as 10m", soakEnv)
	}
	d, err := time.ParseDuration(os.Getenv(soakEnv))
	if err != nil {
		t.Fatal(err)
	}
	cpus := allowedCPUs(t)
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 200})
	holder.Report()
	for deadline := time.Now().Add(d); time.Now().Before(deadline); {
		stall := probe.Stall{
			For: time.Duration(float64(time.Millisecond) * math.Pow(1000, rand.Float64())), // to 1 s
			CPU: uint32(cpus[rand.IntN(len(cpus))]), Processes: rand.IntN(2) == 0,
		}
		stall.Every = 1 + rand.Uint32N(40) + uint32(stall.For/(100*time.Microsecond))
		interval := time.Duration(1+rand.IntN(50)) * time.Millisecond
		s := soak(t, stall, interval, holder, min(20*time.Second, max(3*time.Second, time.Until(deadline))))
		t.Logf("%+v, a round every %v: %+v", stall, interval, s)
	}
}

// soak runs an Exporter for a while, or longer where that is too short to see anything. It samples what
// is open, and looks at its sockets all the time, as if some were lost. The stream must have waited for a CPU
// that stalls.
func soak(t *testing.T, stall probe.Stall, interval time.Duration, holder *actor.Process, d time.Duration) Stats {
	t.Helper()
	l := newLedger()
	cfg := NewDefaultConfig()
	cfg.Tracer.Interval, cfg.Tracer.Audit, cfg.Tracer.RingSize = interval, time.Second, 16<<20
	cfg.Metrics.Interval, cfg.Logs.Heartbeat = time.Second, time.Second
	cfg.Metrics.MaxSeries = 100_000 // no process's own goes with those of others
	to := Consumers{Logs: []consumer.Logs{l}, Metrics: []consumer.Metrics{l}}
	x, err := newStalled(cfg, to, slog.New(slog.DiscardHandler), stall)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	defer func() {
		if err := errors.Join(stop(), x.Close()); err != nil {
			t.Error(err)
		}
	}()
	lag := longestLag(ctx, x)
	carrier, exchanges, began := actor.Start(t, "hold", carrierPlan), 1, time.Now()
	carrier.Report()
	var pids, last []int
	for time.Since(began) < d || !l.shows(len(pids)) && time.Since(began) < time.Minute {
		holder.Cue()
		holder.Report()
		pids = append(pids, last...) // by now what they have sent has arrived
		if time.Since(began) < d/2 { // from then on it holds what it has
			carrier.Cue()
			carrier.Report()
			exchanges++
		}
		last = twoCrowds(t)
	}
	time.AfterFunc(100*time.Millisecond, cancel) // in the midst of the load
	twoCrowds(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	l.check(t, crowdAccount, pids)
	l.checkMetrics(t, carrierAccount(int64(exchanges)), carrier.PID())
	s := checkBalance(t, x, l.records)
	if n, waited := stallsOf(stall, s.CPUs[stall.CPU].Numbered), <-lag; n == 0 || waited < stall.For/2 {
		t.Errorf("%d stalls of %v, and the stream has waited for %v at most: this run shows nothing", n, stall.For, waited)
	}
	return s
}

// longestLag gives, when ctx has ended, how long the stream has waited for a CPU at most.
func longestLag(ctx context.Context, x *Exporter) <-chan time.Duration {
	longest := make(chan time.Duration, 1)
	go func() {
		var lag time.Duration
		for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
			lag = max(lag, x.stats.Load().WatermarkLag)
		}
		longest <- lag
	}()
	return longest
}
