package otlp

// Stats are totals of items since the exporter was created: of log records, of data points or of
// spans. At any time, and for good after Shutdown,
//
//	Offered + Recovered = Refused + Sent + Rejected + Dropped + GivenUp + Queued
type Stats struct {
	Offered   int64 // given to ConsumeLogs, ConsumeMetrics or ConsumeTraces
	Recovered int64 // taken out of sending_queue.storage, where an earlier process had left them
	Refused   int64 // not taken from the caller: the queue was full, or the exporter not running
	Sent      int64 // taken by the server
	Rejected  int64 // rejected by the server in a partial success
	Dropped   int64 // given up at once, since the server's answer allows no retry
	GivenUp   int64 // given up because of max_elapsed_time, retry_on_failure.enabled or Shutdown
	Queued    int64 // neither delivered nor given up yet: waiting, or on their way to the server
}

// Stats returns the totals so far.
func (s *sender[T]) Stats() Stats {
	stats := Stats{
		Refused:  s.refused.Load(),
		Sent:     s.sent.Load(),
		Rejected: s.rejected.Load(),
		Dropped:  s.dropped.Load(),
		GivenUp:  s.givenUp.Load(),
	}
	// Last, so that what came in is never less than what became of it.
	stats.Recovered, stats.Offered = s.recovered.Load(), s.offered.Load()
	stats.Queued = stats.Offered + stats.Recovered -
		stats.Refused - stats.Sent - stats.Rejected - stats.Dropped - stats.GivenUp
	return stats
}
