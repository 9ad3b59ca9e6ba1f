package merge

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/connspan/connspan/internal/event"
)

// A merger goes through rounds of reading: Begin, Push for what the rings hold, Release.
type merger interface {
	Begin(now uint64, quiet []bool)
	Push(e *event.Event)
	Release(now uint64, yield func(*event.Event))
}

// watermarked is the Merge with the reader's part of the protocol.
type watermarked struct{ *Merge }

func (w watermarked) Release(now uint64, yield func(*event.Event)) { w.Merge.Release(now, yield) }

func (w watermarked) Begin(now uint64, quiet []bool) {
	for cpu, q := range quiet {
		if q {
			w.Watermark(cpu, now)
		}
	}
}

// sorted is what gobpf and Weave Scope did: read the clock, drain every ring, sort what is there and
// release what was stamped up to that clock, in the hope that nothing older is still to come.
type sorted struct {
	events, rest []event.Event
	order        []*event.Event
}

func (*sorted) Begin(uint64, []bool) {}

func (s *sorted) Push(e *event.Event) { s.events = append(s.events, *e) }

func (s *sorted) Release(now uint64, yield func(*event.Event)) {
	s.order, s.rest = s.order[:0], s.rest[:0]
	for i := range s.events {
		s.order = append(s.order, &s.events[i])
	}
	slices.SortFunc(s.order, func(a, b *event.Event) int { return cmp.Compare(a.Time, b.Time) })
	for _, e := range s.order {
		if e.Time <= now {
			yield(e)
		} else {
			s.rest = append(s.rest, *e)
		}
	}
	s.events, s.rest = s.rest, s.events
}

var mergers = []struct {
	name string
	make func(t testing.TB, cpus int) merger
}{
	{"watermark", func(t testing.TB, cpus int) merger { return watermarked{mustNew(t, Config{CPUs: cpus})} }},
	{"sort", func(testing.TB, int) merger { return new(sorted) }},
}

// The simulated host, in ns.
const (
	period  = 50_000_000 // from one round to the next
	reading = 500_000    // from a round's clock to the end of its drain
	running = 1000       // from stamp to submit, where nothing stalls
)

// stalls gives for how long the first program sleeps that runs on that CPU in that round.
type stalls func(r *rand.Rand, cpu, round int) uint64

var stallPatterns = []struct {
	name   string
	stalls stalls
}{
	{"none", func(*rand.Rand, int, int) uint64 { return 0 }},
	{"one CPU", func(_ *rand.Rand, cpu, round int) uint64 {
		if cpu == 0 && round%8 == 2 {
			return 3 * period
		}
		return 0
	}},
	{"random", func(r *rand.Rand, _, _ int) uint64 {
		if r.IntN(20) == 0 {
			return r.Uint64N(4 * period)
		}
		return 0
	}},
}

// A stream is what the reader of a host meets, round by round.
type stream struct {
	rounds []round
	events int
	span   uint64 // from the first round to the end of the last
}

type round struct {
	now     uint64
	quiet   []bool   // whether each CPU has no program in flight
	drained []sample // in the order of each ring
}

type sample struct {
	key
	submitted uint64
}

// newStream draws a stream of so many rounds, with that many events in each on average.
func newStream(cpus, rounds, perRound int, sleep stalls) *stream {
	r := rand.New(rand.NewPCG(uint64(cpus), uint64(perRound)))
	s := &stream{span: uint64(rounds) * period}
	for i := range rounds {
		s.rounds = append(s.rounds, round{now: uint64(i+1)*period - reading, quiet: slices.Repeat([]bool{true}, cpus)})
	}
	for cpu := range cpus {
		s.run(r, cpu, uint64(period*cpus/perRound), sleep)
	}
	for i := range s.rounds {
		drained := s.rounds[i].drained
		slices.SortFunc(drained, func(a, b sample) int {
			return cmp.Or(cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.submitted, b.submitted))
		})
		s.events += len(drained)
	}
	return s
}

// run lets a CPU have its events, up to the last round; one in sixteen programs is interrupted by
// another between its stamp and its submit. While a program sleeps, so does its CPU.
func (s *stream) run(r *rand.Rand, cpu int, gap uint64, sleep stalls) {
	last := s.rounds[len(s.rounds)-1].now
	seq := uint64(0)
	for t, next := r.Uint64N(2*gap), 0; t < last-running; t += 1 + r.Uint64N(2*gap) {
		outer := sample{key{t, seq, uint16(cpu)}, t + running}
		seq++
		if r.IntN(16) == 0 {
			s.add(sample{key{t + running/4, seq, uint16(cpu)}, t + running/2})
			seq++
		}
		if round := int(t / period); round >= next {
			outer.submitted = min(outer.submitted+sleep(r, cpu, round), last)
			next = round + 1
		}
		s.add(outer)
		t = outer.submitted
	}
}

// add puts an event into the round whose drain finds it. The CPU is not quiet in a round that begins
// between its stamp and its submit.
func (s *stream) add(e sample) {
	i := int(e.submitted-1) / period
	s.rounds[i].drained = append(s.rounds[i].drained, e)
	for ; i >= 0 && s.rounds[i].now >= e.time; i-- {
		if s.rounds[i].now < e.submitted {
			s.rounds[i].quiet[e.cpu] = false
		}
	}
}

// play leads a merger through the stream, shifted by so much.
func (s *stream) play(m merger, shift uint64, e *event.Event, yield func(*event.Event)) {
	for i := range s.rounds {
		r := &s.rounds[i]
		m.Begin(r.now+shift, r.quiet)
		for j := range r.drained {
			k := &r.drained[j].key
			e.Time, e.Seq, e.CPU = k.time+shift, k.seq, k.cpu
			m.Push(e)
		}
		m.Release(r.now+shift, yield)
	}
}

// An outcome is how a merger did with a stream.
type outcome struct {
	released   int
	violations int      // events released behind a younger one
	added      []uint64 // ns from the drain that found the event to the one that released it, ascending
}

// judge plays the stream once. An event is known by its stamp and CPU.
func (s *stream) judge(m merger) (o outcome) {
	type id struct {
		time uint64
		cpu  uint16
	}
	found := make(map[id]uint64, s.events)
	for _, r := range s.rounds {
		for _, e := range r.drained {
			found[id{e.time, e.cpu}] = r.now
		}
	}
	last, now := uint64(0), uint64(0)
	yield := func(e *event.Event) {
		o.released++
		if e.Time < last {
			o.violations++
		}
		last = max(last, e.Time)
		o.added = append(o.added, now-found[id{e.Time, e.CPU}])
	}
	for _, r := range s.rounds {
		now = r.now
		(&stream{rounds: []round{r}}).play(m, 0, new(event.Event), yield)
	}
	slices.Sort(o.added)
	return o
}

// TestSeedBreaksOrder: both are given the same streams. To sort what is there breaks the order
// wherever one CPU sleeps while another goes on. To wait for the watermarks never does, and where
// nobody sleeps it adds nothing to most events: a round more to those that were stamped after their
// round had begun, or read in a round that met some program at work.
func TestSeedBreaksOrder(t *testing.T) {
	for _, cpus := range []int{2, 16, 64} {
		for _, pattern := range stallPatterns {
			t.Run(fmt.Sprintf("cpus=%d/stalls=%s", cpus, pattern.name), func(t *testing.T) {
				s := newStream(cpus, 40, 2000, pattern.stalls)
				for _, m := range mergers {
					o := s.judge(m.make(t, cpus))
					breaks := m.name == "sort" && pattern.name != "none"
					if o.released != s.events || (o.violations > 0) != breaks {
						t.Errorf("%s released %d of %d events, %d of them behind a younger one", m.name, o.released, s.events, o.violations)
					}
					if p50 := o.added[len(o.added)/2]; pattern.name == "none" && p50 > 0 {
						t.Errorf("%s adds %d ns to half of the events although nobody sleeps", m.name, p50)
					}
				}
			})
		}
	}
}
