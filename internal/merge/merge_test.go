package merge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connspan/connspan/internal/event"
)

// at makes an event of a CPU.
func at(cpu uint16, time, seq uint64) *event.Event {
	return &event.Event{CPU: cpu, Time: time, Seq: seq}
}

type released struct {
	Time uint64
	Seq  uint64
	CPU  uint16
	Late bool
}

func mustNew(t testing.TB, cfg Config) *Merge {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// release gives what a round releases; want names them as time/seq/cpu.
func release(m *Merge, now uint64) (out []released) {
	m.Release(now, func(e *event.Event) { out = append(out, released{e.Time, e.Seq, e.CPU, e.Late}) })
	return out
}

func TestReleaseWaitsForEveryCPU(t *testing.T) {
	m := mustNew(t, Config{CPUs: 2})
	m.Push(at(1, 6, 1))
	m.Watermark(1, 7)
	if got := release(m, 7); got != nil {
		t.Fatalf("released %v while CPU 0 has no watermark", got)
	}
	m.Push(at(0, 5, 1))
	m.Watermark(0, 98)
	m.Watermark(1, 98)
	want := []released{{5, 1, 0, false}, {6, 1, 1, false}}
	if d := cmp.Diff(want, release(m, 98)); d != "" {
		t.Error(d)
	}
	wantStats := Stats{Pushed: 2, Released: 2, Known: 97, Watermark: 97, Reached: 97}
	if d := cmp.Diff(wantStats, m.Stats()); d != "" {
		t.Error(d)
	}
}

func TestReleaseOrder(t *testing.T) {
	m := mustNew(t, Config{CPUs: 3})
	// CPU 0: the program of seq 1 was interrupted by that of seq 2 before it had submitted.
	for _, e := range []*event.Event{at(0, 20, 2), at(0, 10, 1), at(2, 10, 9), at(1, 10, 5), at(1, 10, 6), at(0, 21, 3)} {
		m.Push(e)
	}
	for cpu := range 3 {
		m.Watermark(cpu, 21)
	}
	want := []released{{10, 1, 0, false}, {10, 5, 1, false}, {10, 6, 1, false}, {10, 9, 2, false}, {20, 2, 0, false}}
	if d := cmp.Diff(want, release(m, 21)); d != "" {
		t.Error(d)
	}
}

func TestWatermarkNeverFalls(t *testing.T) {
	m := mustNew(t, Config{CPUs: 1})
	m.Watermark(0, 100)
	m.Watermark(0, 50)
	m.Push(at(0, 99, 1))
	if got := release(m, 100); len(got) != 1 {
		t.Errorf("released %v, want the event before the higher watermark", got)
	}
}

// TestTie: at the watermark itself an event may still appear, on a CPU that comes first.
func TestTie(t *testing.T) {
	m := mustNew(t, Config{CPUs: 2})
	m.Watermark(0, 10)
	m.Watermark(1, 10)
	m.Push(at(1, 10, 1))
	got := release(m, 10)
	m.Push(at(0, 10, 1))
	m.Watermark(0, 20)
	m.Watermark(1, 20)
	got = append(got, release(m, 20)...)
	if d := cmp.Diff([]released{{10, 1, 0, false}, {10, 1, 1, false}}, got); d != "" {
		t.Error(d)
	}
}

func TestGuard(t *testing.T) {
	m := mustNew(t, Config{CPUs: 1, Guard: 10})
	m.Push(at(0, 95, 1))
	m.Watermark(0, 100)
	if got := release(m, 100); got != nil {
		t.Errorf("released %v inside the guard", got)
	}
	m.Watermark(0, 105)
	if got := release(m, 105); len(got) != 1 {
		t.Errorf("released %v, want one behind the guard", got)
	}
	m = mustNew(t, Config{CPUs: 1, Guard: time.Second})
	m.Watermark(0, 5)
	m.Push(at(0, 5, 1))
	if got := release(m, 5); got != nil {
		t.Errorf("released %v: the guard is longer than the clock has run", got)
	}
}

func TestMaxHoldReleasesOutOfTurn(t *testing.T) {
	m := mustNew(t, Config{CPUs: 2, MaxHold: 100})
	m.Push(at(1, 50, 1))
	m.Watermark(1, 149)
	if got := release(m, 149); got != nil {
		t.Fatalf("released %v before the bound", got)
	}
	m.Watermark(1, 150)
	if d := cmp.Diff([]released{{50, 1, 1, false}}, release(m, 150)); d != "" {
		t.Fatal(d)
	}
	if s := m.Stats(); s.Watermark != 0 || s.Reached != 50 {
		t.Errorf("watermark %d, reached %d, want 0 and what is not held any longer, 50", s.Watermark, s.Reached)
	}
	// CPU 0 slept for longer than the bound: its event is flagged, not dropped, not hidden.
	m.Push(at(0, 40, 1))
	m.Watermark(0, 200)
	m.Watermark(1, 200)
	if d := cmp.Diff([]released{{40, 1, 0, true}}, release(m, 200)); d != "" {
		t.Error(d)
	}
	want := Stats{Pushed: 2, Released: 2, Forced: 1, Late: 1, Known: 199, Watermark: 199, Reached: 199}
	if d := cmp.Diff(want, m.Stats()); d != "" {
		t.Error(d)
	}
}

func TestMaxPendingReleasesTheOldest(t *testing.T) {
	m := mustNew(t, Config{CPUs: 2, MaxPending: 2})
	for i := range uint64(5) {
		m.Push(at(1, 10+i, i))
	}
	want := []released{{10, 0, 1, false}, {11, 1, 1, false}, {12, 2, 1, false}}
	if d := cmp.Diff(want, release(m, 100)); d != "" {
		t.Error(d)
	}
	if s := m.Stats(); s.Pending != 2 || s.Forced != 3 {
		t.Errorf("pending %d forced %d, want 2 and 3", s.Pending, s.Forced)
	}
}

func TestMaxReleaseGoesOn(t *testing.T) {
	m := mustNew(t, Config{CPUs: 2, MaxRelease: 2})
	for _, e := range []*event.Event{at(0, 10, 1), at(0, 30, 2), at(1, 20, 1)} {
		m.Push(e)
	}
	m.Watermark(0, 50)
	m.Watermark(1, 50)
	if d := cmp.Diff([]released{{10, 1, 0, false}, {20, 1, 1, false}}, release(m, 50)); d != "" {
		t.Error(d)
	}
	if s := m.Stats(); s.Watermark != 29 || s.Reached != 29 || s.Known != 49 {
		t.Errorf("watermark %d, reached %d, known %d, want what is before the next event, 29, and 49", s.Watermark, s.Reached, s.Known)
	}
	m.Push(at(1, 51, 2))
	if d := cmp.Diff([]released{{30, 2, 0, false}}, release(m, 60)); d != "" {
		t.Error(d)
	}
	if s := m.Stats(); s.Watermark != 49 || s.Forced != 0 || s.Late != 0 {
		t.Errorf("stats %+v, want the watermark at 49, and nothing forced or late", s)
	}
}

func TestFlush(t *testing.T) {
	m := mustNew(t, Config{CPUs: 2})
	m.Push(at(1, 10, 1))
	m.Push(at(0, 11, 1))
	var got []uint64
	m.Flush(func(e *event.Event) { got = append(got, e.Time) })
	if d := cmp.Diff([]uint64{10, 11}, got); d != "" {
		t.Error(d)
	}
	if s := m.Stats(); s.Pending != 0 || s.Forced != 2 {
		t.Errorf("stats %+v, want nothing pending and 2 forced", s)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []Config{{}, {CPUs: MaxCPUs + 1}, {CPUs: 1, Guard: -1}, {CPUs: 1, MaxHold: -1}, {CPUs: 1, MaxPending: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) gives no error", cfg)
		}
	}
}

// TestPropertyOrder runs the protocol against a simulated host: programs announce, stamp, submit
// and withdraw at random times, nest on their CPU, sleep in between; some CPUs are idle, clocks
// tie; a round releases as many events as it may. Whatever happens, the stream must be what a stable sort
// of all events gives, and nothing comes behind the watermark that is told.
func TestPropertyOrder(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := newHost(t, seed)
			h.run(4000)
			h.finish()
			want := slices.Clone(h.submitted)
			slices.SortFunc(want, func(a, b key) int {
				if a.less(b) {
					return -1
				}
				return 1
			})
			if d := cmp.Diff(want, h.released, cmp.AllowUnexported(key{})); d != "" {
				t.Fatalf("released stream (-sorted +released):\n%s", d)
			}
			if s := h.m.Stats(); s.Late != 0 || s.Forced != 0 || s.Pending != 0 {
				t.Fatalf("stats %+v, want nothing late, forced or pending", s)
			}
		})
	}
}

// host is a machine whose steps are drawn at random.
type host struct {
	t         *testing.T
	rand      *rand.Rand
	m         *Merge
	now       uint64
	cpus      []cpu
	reader    int // next step of the reader's round: 0 clock, 1.. a CPU's word, then the drain
	cut       uint64
	submitted []key
	released  []key
}

type cpu struct {
	running []program // the innermost last
	ring    []event.Event
	seq     uint64
	busy    int // one in busy steps goes to this CPU
}

type program struct {
	step int // 0 announced, 1 stamped, 2 submitted
	e    event.Event
}

func newHost(t *testing.T, seed uint64) *host {
	r := rand.New(rand.NewPCG(seed, 1))
	n := 1 + r.IntN(8)
	h := &host{t: t, rand: r, m: mustNew(t, Config{CPUs: n, MaxRelease: r.IntN(2) * (1 + r.IntN(50))}), now: 1, cpus: make([]cpu, n)}
	for i := range h.cpus {
		h.cpus[i].busy = 1 << r.IntN(6) // some CPUs sleep most of the time, also mid-program
	}
	return h
}

func (h *host) run(steps int) {
	for range steps {
		h.now += uint64(h.rand.IntN(2))
		if h.rand.IntN(3) == 0 {
			h.read()
			continue
		}
		i := h.rand.IntN(len(h.cpus))
		if h.rand.IntN(h.cpus[i].busy) == 0 {
			h.step(i)
		}
	}
}

func (h *host) step(i int) {
	c := &h.cpus[i]
	if n := len(c.running); n == 0 || n < 3 && h.rand.IntN(4) == 0 {
		c.running = append(c.running, program{})
		return
	}
	p := &c.running[len(c.running)-1]
	switch p.step {
	case 0:
		p.e = event.Event{Time: h.now, CPU: uint16(i), Seq: c.seq}
		c.seq++
	case 1:
		c.ring = append(c.ring, p.e)
		h.submitted = append(h.submitted, keyOf(&p.e))
	case 2:
		c.running = c.running[:len(c.running)-1]
		return
	}
	p.step++
}

func (h *host) read() {
	switch {
	case h.reader == 0:
		h.cut = h.now
	case h.reader <= len(h.cpus):
		if len(h.cpus[h.reader-1].running) == 0 {
			h.m.Watermark(h.reader-1, h.cut)
		}
	default:
		h.drain()
		h.reader = 0
		return
	}
	h.reader++
}

func (h *host) drain() {
	for i := range h.cpus {
		for j := range h.cpus[i].ring {
			h.m.Push(&h.cpus[i].ring[j])
		}
		h.cpus[i].ring = nil
	}
	h.release()
}

func (h *host) release() (through bool) {
	done := h.m.Stats().Watermark
	return h.m.Release(h.cut, func(e *event.Event) {
		if e.Time <= done {
			h.t.Fatalf("an event of %d comes behind the watermark %d", e.Time, done)
		}
		h.released = append(h.released, keyOf(e))
	})
}

// finish lets every program end and reads one whole round.
func (h *host) finish() {
	for i := range h.cpus {
		c := &h.cpus[i]
		for len(c.running) > 0 {
			h.step(i)
		}
	}
	h.now++
	h.reader = 0
	for range len(h.cpus) + 2 {
		h.read()
	}
	for !h.release() {
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	m := mustNew(t, Config{CPUs: 4})
	now := uint64(0)
	round := func() {
		for i := range uint64(1000) {
			now++
			m.Push(at(uint16(i%4), now, i))
		}
		for cpu := range 4 {
			m.Watermark(cpu, now)
		}
		m.Release(now, func(*event.Event) {})
	}
	round()
	e := at(0, 0, 0)
	if n := testing.AllocsPerRun(100, func() {
		for i := range uint64(1000) {
			now++
			e.Time, e.Seq, e.CPU = now, i, uint16(i%4)
			m.Push(e)
		}
		for cpu := range 4 {
			m.Watermark(cpu, now)
		}
		m.Release(now, func(*event.Event) {})
	}); n != 0 {
		t.Errorf("%v allocations a round, want 0", n)
	}
}
