package exporter

import (
	"slices"
	"time"

	"github.com/lightstep/go-expohisto/structure"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// The upper ends of the buckets, in seconds: of how long connections last, and of how long the network
// takes.
var (
	lifetimes = []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300}
	latencies = []float64{0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2}
)

// exemplar is a measurement, and the span that it comes from. The zero value is none.
type exemplar struct {
	value float64
	at    time.Time
	link  link
}

// exemplars keeps the newest one of each bucket; where there are no fixed buckets, the newest few.
type exemplars []exemplar

// few is how many there are without fixed buckets.
const few = 8

func (e exemplars) appendTo(s pmetric.ExemplarSlice) {
	for _, x := range e {
		if x.at.IsZero() {
			continue
		}
		d := s.AppendEmpty()
		d.SetDoubleValue(x.value)
		d.SetTimestamp(pcommon.NewTimestampFromTime(x.at))
		d.SetTraceID(x.link.trace)
		d.SetSpanID(x.link.span)
	}
}

// histogram is the distribution of one series. Explicit and exponential ones differ in their buckets.
type histogram struct {
	exponential *structure.Float64 // nil: explicit
	bounds      []float64
	counts      []uint64 // of the explicit buckets, the last without a bound
	sum         float64
	min, max    float64
	count       uint64
	exemplars   exemplars
}

func newHistogram(kind string, bounds []float64) *histogram {
	if kind == HistogramExponential {
		return &histogram{exponential: structure.NewFloat64(structure.NewConfig()), exemplars: make(exemplars, few)}
	}
	return &histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1), exemplars: make(exemplars, len(bounds)+1)}
}

func (h *histogram) record(v float64, at time.Time, l link) {
	slot := int(h.count % uint64(len(h.exemplars)))
	if h.exponential != nil {
		h.exponential.Update(v)
	} else {
		slot, _ = slices.BinarySearch(h.bounds, v)
		h.counts[slot]++
	}
	if h.count == 0 || v < h.min {
		h.min = v
	}
	if h.count == 0 || v > h.max {
		h.max = v
	}
	h.count++
	h.sum += v
	if l.sampled {
		h.exemplars[slot] = exemplar{value: v, at: at, link: l}
	}
}

// clear forgets what has been told: the exemplars, and unless it is cumulative everything.
func (h *histogram) clear(cumulative bool) {
	clear(h.exemplars)
	if cumulative {
		return
	}
	h.sum, h.count = 0, 0
	clear(h.counts)
	if h.exponential != nil {
		h.exponential.Clear()
	}
}

func (h *histogram) fillExplicit(d pmetric.HistogramDataPoint) {
	d.ExplicitBounds().FromRaw(h.bounds)
	d.BucketCounts().FromRaw(h.counts)
	d.SetCount(h.count)
	d.SetSum(h.sum)
	d.SetMin(h.min)
	d.SetMax(h.max)
	h.exemplars.appendTo(d.Exemplars())
}

func (h *histogram) fillExponential(d pmetric.ExponentialHistogramDataPoint) {
	d.SetScale(h.exponential.Scale())
	d.SetZeroCount(h.exponential.ZeroCount())
	positive := h.exponential.Positive()
	d.Positive().SetOffset(positive.Offset())
	d.Positive().BucketCounts().EnsureCapacity(int(positive.Len()))
	for i := range positive.Len() {
		d.Positive().BucketCounts().Append(positive.At(i))
	}
	d.SetCount(h.count)
	d.SetSum(h.sum)
	d.SetMin(h.min)
	d.SetMax(h.max)
	h.exemplars.appendTo(d.Exemplars())
}
