package exporter

import (
	"time"

	"github.com/connspan/connspan/internal/clock"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

// signals turn records into log records, metrics and spans. What they make depends on nothing but
// the configuration, the records, what is known of their processes, and the clock's calibration. A
// signal that is off is nil.
type signals struct {
	identity identity
	logs     *logs
	metrics  *metrics
	spans    *spans
}

// newSignals makes those for which there are consumers, and which cfg has on.
func newSignals(cfg Config, to Consumers, processes *resources, c *clock.Clock, began time.Time) signals {
	s := signals{}
	if len(to.Traces) == 0 {
		cfg.Traces.SampleRatio = 0
	}
	s.identity = newIdentity(cfg.Traces)
	if cfg.Traces.SampleRatio > 0 {
		s.spans = newSpans(s.identity.state, processes, c)
	}
	if len(to.Logs) > 0 && (len(cfg.Logs.Events) > 0 || cfg.Logs.Heartbeat > 0) {
		s.logs = newLogs(cfg.Logs, processes, c)
	}
	if len(to.Metrics) > 0 && cfg.Metrics.Interval > 0 {
		s.metrics = newMetrics(cfg.Metrics, processes, c, began)
	}
	return s
}

// add takes the next record of the ordered stream.
func (s *signals) add(r *conn.Record) {
	at := s.identity.of(r)
	if s.metrics != nil {
		s.metrics.add(r, at)
	}
	if r.Kind == event.Sampled {
		return // heartbeats have a pace of their own
	}
	if s.logs != nil {
		s.logs.add(r, at)
	}
	if s.spans != nil {
		s.spans.add(r, at)
	}
}

// heartbeat takes a connection that is still open.
func (s *signals) heartbeat(r *conn.Record) { s.logs.add(r, s.identity.of(r)) }

// observe says when the records that follow are released.
func (s *signals) observe(now time.Time) {
	if s.logs != nil {
		s.logs.observed = now
	}
}

// pending is the size of the largest batch.
func (s *signals) pending() (n int) {
	if s.logs != nil {
		n = s.logs.pending()
	}
	if s.spans != nil {
		n = max(n, s.spans.pending())
	}
	return n
}
