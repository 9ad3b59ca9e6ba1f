package exporter

import (
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/connspan/connspan/internal/clock"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/owner"
)

// scopeName is the instrumentation scope of everything that connspan tells.
const scopeName = "github.com/connspan/connspan"

// The event names.
const (
	nameOpen      = "tcp.connection.open"
	nameClose     = "tcp.connection.close"
	nameFailed    = "tcp.connection.failed"
	nameHeartbeat = "tcp.connection.heartbeat"
)

// logs collects log records, grouped by the process that owns the connection, in the order in
// which they come. It is not safe for concurrent use.
type logs struct {
	tell      map[event.Kind]bool
	legacy    bool // LogsConfig.LegacyEventName
	processes *resources
	clock     *clock.Clock
	observed  time.Time // when this round released its events
	batch     plog.Logs
	groups    map[owner.ID]plog.LogRecordSlice
	records   int

	attributes attributes // of the record being made
}

func newLogs(cfg LogsConfig, processes *resources, c *clock.Clock) *logs {
	l := &logs{processes: processes, clock: c, legacy: cfg.LegacyEventName, tell: map[event.Kind]bool{
		event.Opened:  slices.Contains(cfg.Events, EventOpened),
		event.Adopted: slices.Contains(cfg.Events, EventOpened),
		event.Closed:  slices.Contains(cfg.Events, EventClosed),
		event.Failed:  slices.Contains(cfg.Events, EventFailed),
		event.Sampled: cfg.Heartbeat != 0,
	}}
	l.take()
	return l
}

// pending is the number of records in the batch.
func (l *logs) pending() int { return l.records }

// take gives the batch away and begins a new one.
func (l *logs) take() plog.Logs {
	batch := l.batch
	l.batch = plog.NewLogs()
	l.groups = make(map[owner.ID]plog.LogRecordSlice)
	l.records = 0
	return batch
}

// add appends the log record of r, unless its kind is not wanted. A Sampled is a heartbeat here.
func (l *logs) add(r *conn.Record, at link) {
	if !l.tell[r.Kind] {
		return
	}
	o := ownerOf(r.Event)
	p := l.processes.find(o)
	group, ok := l.groups[o]
	if !ok {
		group = l.group(o, p)
		l.groups[o] = group
	}
	l.records++
	l.fill(group.AppendEmpty(), r, p, at)
}

func (l *logs) group(o owner.ID, p *owner.Process) plog.LogRecordSlice {
	rl := l.batch.ResourceLogs().AppendEmpty()
	rl.SetSchemaUrl(semconv.SchemaURL)
	l.processes.fill(rl.Resource().Attributes(), o, p)
	sl := rl.ScopeLogs().AppendEmpty()
	sl.SetSchemaUrl(semconv.SchemaURL)
	sl.Scope().SetName(scopeName)
	return sl.LogRecords()
}

// fill maps a Record to a log record.
func (l *logs) fill(lr plog.LogRecord, r *conn.Record, p *owner.Process, at link) {
	lr.SetTimestamp(pcommon.NewTimestampFromTime(l.clock.Time(r.Time)))
	lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(l.observed))
	lr.SetSeverityNumber(plog.SeverityNumberInfo)
	lr.SetTraceID(at.trace)
	lr.SetSpanID(at.span)
	lr.SetFlags(plog.DefaultLogRecordFlags.WithIsSampled(at.sampled))
	lr.SetEventName(eventNames[r.Kind])
	if r.Kind == event.Failed {
		lr.SetSeverityNumber(plog.SeverityNumberWarn)
	}
	lr.Body().SetStr(line(r))
	putRecord(&l.attributes, r, p)
	if l.legacy {
		l.attributes.putStr(attrEventName, eventNames[r.Kind])
	}
	l.attributes.UnsafeIntoMap(lr.Attributes())
}
