package otlp

import "go.opentelemetry.io/collector/pdata/plog"

// split returns ld cut into parts that are at most limit bytes in protobuf, or a single record. It
// leaves ld as it is.
func split(ld plog.Logs, limit int) []plog.Logs {
	var sizer plog.ProtoMarshaler
	n := ld.LogRecordCount()
	if n < 2 || sizer.LogsSize(ld) <= limit {
		return []plog.Logs{ld}
	}
	return append(split(records(ld, 0, n/2), limit), split(records(ld, n/2, n), limit)...)
}

// records returns a copy of the log records [from, to) of ld, each under its resource and scope.
func records(ld plog.Logs, from, to int) plog.Logs {
	out := plog.NewLogs()
	for _, rl := range ld.ResourceLogs().All() {
		rlOut := plog.NewResourceLogs()
		for _, sl := range rl.ScopeLogs().All() {
			n := sl.LogRecords().Len()
			if lo, hi := max(from, 0), min(to, n); lo < hi {
				copyRecords(sl, rlOut.ScopeLogs().AppendEmpty(), lo, hi)
			}
			from, to = from-n, to-n
		}
		if rlOut.ScopeLogs().Len() > 0 {
			rl.Resource().CopyTo(rlOut.Resource())
			rlOut.SetSchemaUrl(rl.SchemaUrl())
			rlOut.MoveTo(out.ResourceLogs().AppendEmpty())
		}
	}
	return out
}

func copyRecords(from, to plog.ScopeLogs, lo, hi int) {
	from.Scope().CopyTo(to.Scope())
	to.SetSchemaUrl(from.SchemaUrl())
	to.LogRecords().EnsureCapacity(hi - lo)
	for i := lo; i < hi; i++ {
		from.LogRecords().At(i).CopyTo(to.LogRecords().AppendEmpty())
	}
}

// join moves parts together again.
func join(parts []plog.Logs) plog.Logs {
	out := plog.NewLogs()
	for _, part := range parts {
		part.ResourceLogs().MoveAndAppendTo(out.ResourceLogs())
	}
	return out
}
