package merge

import "slices"

// A Gap is where events of a CPU are missing: so many, between the times of the events before and
// after them.
type Gap struct {
	CPU           int
	Missing       uint64
	After, Before uint64
}

// A Sequence watches the numbers that one CPU gives its events. They may arrive out of turn, for a
// softirq takes its number, and submits, while the program that it interrupted has yet to submit:
// so a number is missing for good only once the CPU was found without a program in flight. It is
// not safe for concurrent use; the zero value is ready.
type Sequence struct {
	next uint64 // no number from here on has been seen
	last uint64 // time of the newest number's event
	open []span // numbers below next that have not been seen, ascending
}

// span is the numbers from to end-1.
type span struct {
	from, end     uint64
	after, before uint64 // times of the events around it
}

// See takes the number and time of an event as it comes out of the CPU's ring.
func (s *Sequence) See(seq, time uint64) {
	switch {
	case seq == s.next:
	case seq > s.next:
		s.open = append(s.open, span{from: s.next, end: seq, after: s.last, before: time})
	default:
		s.fill(seq)
		return
	}
	s.next, s.last = seq+1, time
}

// fill takes a number out of the span that it is in.
func (s *Sequence) fill(seq uint64) {
	i := slices.IndexFunc(s.open, func(o span) bool { return o.from <= seq && seq < o.end })
	if i < 0 {
		return
	}
	o := s.open[i]
	left, right := o, o
	left.end, right.from = seq, seq+1
	s.open = slices.Delete(s.open, i, i+1)
	if right.from < right.end {
		s.open = slices.Insert(s.open, i, right)
	}
	if left.from < left.end {
		s.open = slices.Insert(s.open, i, left)
	}
}

// Settle is called when every event up to the time has been seen, and gives report the gaps that
// are closed by an event up to then.
func (s *Sequence) Settle(cpu int, time uint64, report func(Gap)) {
	rest := s.open[:0]
	for _, o := range s.open {
		if o.before > time {
			rest = append(rest, o)
			continue
		}
		report(Gap{CPU: cpu, Missing: o.end - o.from, After: o.after, Before: o.before})
	}
	s.open = rest
}
