package merge

import (
	"fmt"
	"testing"

	"github.com/connspan/connspan/internal/event"
)

// BenchmarkMerge plays the same streams to the Merge and to the sort that it replaces. Beside the time
// it reports, for one lap of the stream, the events released behind a younger one, and how long the
// merger adds to an event's way (in ns of the simulated host, whose reader does a round every 50 ms).
func BenchmarkMerge(b *testing.B) {
	for _, cpus := range []int{1, 2, 16, 64, 256} {
		for _, size := range []struct{ perRound, rounds int }{{300, 400}, {8192, 24}} {
			for _, pattern := range stallPatterns {
				s := newStream(cpus, size.rounds, size.perRound, pattern.stalls)
				for _, m := range mergers {
					name := fmt.Sprintf("cpus=%d/events=%d/stalls=%s/%s", cpus, size.perRound, pattern.name, m.name)
					b.Run(name, func(b *testing.B) { bench(b, s, m.make(b, cpus), m.make(b, cpus)) })
				}
			}
		}
	}
}

// bench judges one merger and times the other.
func bench(b *testing.B, s *stream, judged, timed merger) {
	o := s.judge(judged)
	if _, ours := judged.(watermarked); ours && o.violations > 0 {
		b.Fatalf("%d events of %d behind a younger one", o.violations, o.released)
	}
	var e event.Event
	yield := func(*event.Event) {}
	s.play(timed, 0, &e, yield) // the buffers grow
	b.ReportAllocs()
	lap := uint64(0)
	for b.Loop() {
		lap++
		s.play(timed, lap*s.span, &e, yield)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(lap)/float64(s.events), "ns/event")
	b.ReportMetric(float64(o.violations), "violations")
	b.ReportMetric(float64(o.added[len(o.added)/2]), "added-p50-ns")
	b.ReportMetric(float64(o.added[len(o.added)*99/100]), "added-p99-ns")
	b.ReportMetric(float64(o.added[len(o.added)-1]), "added-max-ns")
}
