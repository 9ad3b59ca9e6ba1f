// Package merge puts the events of all CPUs into one stream in the order in which they happened.
//
// Each CPU has a watermark: the newest time of which the reader knows that every older event of
// that CPU has been pushed. The BPF programs announce themselves before they read the clock, so a
// reader that goes through these steps, in this order, may raise a watermark:
//
//  1. T = now, on the programs' own clock
//  2. for each possible CPU: if it has no program in flight, Watermark(cpu, T)
//  3. drain every ring into Push
//  4. Release
//
// An event stamped before T' = min(watermarks) was announced before the reader found that CPU
// without a program in flight, so it had been submitted by then, and the drain that followed has it.
// Nothing older than T' can still appear; at T' itself it can, for the clock may read the same for
// the reader and for a program that comes behind it. Nobody has to guess how long a CPU may sleep
// between stamping an event and submitting it:
//
//	CPU 0   announce  t=5 stamp ....... asleep for 98 ms ....... submit  withdraw
//	CPU 1              t=6 submit
//	reader      T=4          T=7: CPU 0 in flight, its            T=98000007: CPU 0 quiet,
//	                         watermark stays 4; t=6 waits         releases t=5, then t=6
package merge

import (
	"fmt"
	"math"
	"time"

	"github.com/connspan/connspan/internal/event"
)

// Config is what a Merge needs to know. The zero value of each field but CPUs is usable.
type Config struct {
	CPUs       int           // possible CPUs: events carry 0 to CPUs-1
	Guard      time.Duration // how far the clock may step back between CPUs, at least a nanosecond
	MaxHold    time.Duration // an event held longer is released out of turn; 0: no bound
	MaxPending int           // events held at most, the rest is released out of turn; 0: no bound
	MaxRelease int           // events that a Release gives at most, unless MaxPending makes it more; 0: no bound
}

// Stats are totals since New, but for Pending and Watermark.
type Stats struct {
	Pushed    uint64
	Released  uint64
	Forced    uint64 // of Released: before their watermark, by MaxHold, MaxPending or Flush
	Late      uint64 // of Released: behind a younger event
	Pending   int    // Pushed - Released
	Known     uint64 // every event up to here has been pushed: the lowest watermark, less the guard
	Watermark uint64 // every event up to here has been released; 0: none yet
	Reached   uint64 // no event up to here is held back: the watermark, or later with MaxHold
}

// A Merge is a pure value: it reads no clock, does no I/O and starts no goroutine. It is not safe
// for concurrent use.
//
// With n CPUs that hold events, Push is O(1) and Release O(log n) per event: a CPU's own events
// arrive almost sorted (a softirq may nest inside a program), so each CPU has a queue, kept
// sorted from its tail, and the heads of the queues are in a heap. Neither allocates once the
// queues have grown to the size of the busiest round, as long as that is no more than keepEvents of a CPU:
// a larger queue is given back when it is empty.
type Merge struct {
	cfg        Config
	watermarks []uint64
	queues     []queue
	heads      []head  // binary heap
	place      []int32 // of each CPU in heads, -1 while its queue is empty
	last       key     // of the youngest event released
	stats      Stats
}

// key orders events: by time, then by CPU, then by number on that CPU.
type key struct {
	time uint64
	seq  uint64
	cpu  uint16
}

func keyOf(e *event.Event) key { return key{e.Time, e.Seq, e.CPU} }

func (a key) less(b key) bool {
	if a.time != b.time {
		return a.time < b.time
	}
	if a.cpu != b.cpu {
		return a.cpu < b.cpu
	}
	return a.seq < b.seq
}

// head is the oldest event of a CPU, as the heap sees it.
type head struct {
	time uint64
	cpu  uint16
}

func (a head) less(b head) bool {
	if a.time != b.time {
		return a.time < b.time
	}
	return a.cpu < b.cpu
}

// MaxCPUs is the most that a Merge takes: an event names its CPU in 16 bits.
const MaxCPUs = math.MaxUint16

// New makes an empty Merge.
func New(cfg Config) (*Merge, error) {
	if cfg.CPUs < 1 || cfg.CPUs > MaxCPUs {
		return nil, fmt.Errorf("making a merge of %d CPUs: want 1 to %d", cfg.CPUs, MaxCPUs)
	}
	if cfg.Guard < 0 || cfg.MaxHold < 0 || cfg.MaxPending < 0 || cfg.MaxRelease < 0 {
		return nil, fmt.Errorf("making a merge: guard %v, hold %v, pending %d, release %d: want none below 0",
			cfg.Guard, cfg.MaxHold, cfg.MaxPending, cfg.MaxRelease)
	}
	if cfg.MaxRelease == 0 {
		cfg.MaxRelease = math.MaxInt
	}
	m := &Merge{
		cfg:        cfg,
		watermarks: make([]uint64, cfg.CPUs),
		queues:     make([]queue, cfg.CPUs),
		heads:      make([]head, 0, cfg.CPUs),
		place:      make([]int32, cfg.CPUs),
	}
	for cpu := range m.place {
		m.place[cpu] = -1
	}
	return m, nil
}

// Push takes a copy of e.
func (m *Merge) Push(e *event.Event) {
	q := &m.queues[e.CPU]
	front := q.push(e)
	m.stats.Pushed++
	m.stats.Pending++
	if !front {
		return
	}
	at := m.place[e.CPU]
	if at < 0 {
		at = int32(len(m.heads))
		m.heads = append(m.heads, head{})
		m.place[e.CPU] = at
	}
	m.heads[at] = head{e.Time, e.CPU}
	m.up(int(at))
}

// Watermark says that every event of cpu before time t has been submitted before the drain whose
// events are pushed next. A watermark never falls.
func (m *Merge) Watermark(cpu int, t uint64) {
	m.watermarks[cpu] = max(m.watermarks[cpu], t)
}

// Release gives yield, in order, every event that no older one can precede any more, and then
// those that MaxHold and MaxPending do not let stay. now is the time of this round, on the
// events' clock. yield must not keep the event, nor call m. It is not through where MaxRelease ended
// it: the next one goes on, whatever has been pushed meanwhile, for all of that is younger.
func (m *Merge) Release(now uint64, yield func(*event.Event)) (through bool) {
	room := m.cfg.MaxRelease
	m.stats.Known = max(m.stats.Known, m.safe())
	released := m.stats.Known
	if through = m.releaseTo(released, &room, yield); !through {
		released = max(m.heads[0].time, 1) - 1
	}
	m.stats.Watermark = max(m.stats.Watermark, released)
	m.stats.Reached = max(m.stats.Reached, m.stats.Watermark)
	forced := m.stats.Released
	if hold := uint64(m.cfg.MaxHold); through && hold > 0 && now > hold {
		if through = m.releaseTo(now-hold, &room, yield); through {
			m.stats.Reached = max(m.stats.Reached, now-hold)
		}
	}
	m.stats.Forced += m.stats.Released - forced
	for m.cfg.MaxPending > 0 && m.stats.Pending > m.cfg.MaxPending {
		if m.heads[0].time > m.stats.Known {
			m.stats.Forced++
		}
		m.pop(yield)
	}
	return through
}

// Flush gives yield all that is left, in order, without waiting for any watermark.
func (m *Merge) Flush(yield func(*event.Event)) {
	m.stats.Forced += uint64(m.stats.Pending)
	all := math.MaxInt
	m.releaseTo(math.MaxUint64, &all, yield)
}

// Stats may be called between any two other calls.
func (m *Merge) Stats() Stats { return m.stats }

// safe is the time up to which no event can appear any more.
func (m *Merge) safe() uint64 {
	low := uint64(math.MaxUint64)
	for _, w := range m.watermarks {
		low = min(low, w)
	}
	return low - min(low, max(uint64(m.cfg.Guard), 1))
}

// releaseTo is through when it has released everything up to t, before there is no more room.
func (m *Merge) releaseTo(t uint64, room *int, yield func(*event.Event)) (through bool) {
	for len(m.heads) > 0 && m.heads[0].time <= t {
		if *room == 0 {
			return false
		}
		*room--
		m.pop(yield)
	}
	return true
}

// pop releases the oldest event that is here.
func (m *Merge) pop(yield func(*event.Event)) {
	cpu := m.heads[0].cpu
	q := &m.queues[cpu]
	e := q.front()
	if k := keyOf(e); k.less(m.last) {
		e.Late = true
		m.stats.Late++
	} else {
		m.last = k
	}
	m.stats.Released++
	m.stats.Pending--
	yield(e)
	if q.drop() {
		m.heads[0].time = q.front().Time
	} else {
		m.removeTop(cpu)
	}
	if len(m.heads) > 0 {
		m.down(0)
	}
}

func (m *Merge) removeTop(cpu uint16) {
	end := len(m.heads) - 1
	m.heads[0] = m.heads[end]
	m.heads = m.heads[:end]
	if end > 0 {
		m.place[m.heads[0].cpu] = 0
	}
	m.place[cpu] = -1
}

func (m *Merge) up(i int) {
	h := m.heads[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(m.heads[parent]) {
			break
		}
		m.set(i, m.heads[parent])
		i = parent
	}
	m.set(i, h)
}

func (m *Merge) down(i int) {
	h := m.heads[i]
	for {
		child := 2*i + 1
		if child >= len(m.heads) {
			break
		}
		if right := child + 1; right < len(m.heads) && m.heads[right].less(m.heads[child]) {
			child = right
		}
		if !m.heads[child].less(h) {
			break
		}
		m.set(i, m.heads[child])
		i = child
	}
	m.set(i, h)
}

func (m *Merge) set(i int, h head) {
	m.heads[i] = h
	m.place[h.cpu] = int32(i)
}
