package exporter

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/connspan/connspan/internal/clock"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/owner"
)

// The names of spans and of their events.
const (
	spanConnect = "TCP connect"
	spanAccept  = "TCP accept"
	spanUnknown = "TCP connection" // its role is not known

	eventEstablished = "tcp.connection.established"
	eventFirstFIN    = "tcp.connection.fin"
)

const (
	attrServicePeer = string(semconv.ServicePeerNameKey)
	attrPeerService = "peer.service" // what came before service.peer.name, and what service graphs read
)

// W3C trace flags, and what OTLP's Span.flags adds: whether the parent is in another process.
const (
	flagSampled         = 0x001
	flagHasRemoteParent = 0x100
	flagRemoteParent    = 0x200
)

// spans collects a span for each connection that is over, grouped by the process that owned it. It is
// not safe for concurrent use.
type spans struct {
	processes *resources
	clock     *clock.Clock
	state     string
	batch     ptrace.Traces
	groups    map[owner.ID]ptrace.SpanSlice
	count     int

	attributes attributes // of the span being made
}

func newSpans(state string, processes *resources, c *clock.Clock) *spans {
	s := &spans{processes: processes, clock: c, state: state}
	s.take()
	return s
}

// pending is the number of spans in the batch.
func (s *spans) pending() int { return s.count }

// take gives the batch away and begins a new one.
func (s *spans) take() ptrace.Traces {
	batch := s.batch
	s.batch = ptrace.NewTraces()
	s.groups = make(map[owner.ID]ptrace.SpanSlice)
	s.count = 0
	return batch
}

// add appends the span of a connection that is over and whose beginning is known.
func (s *spans) add(r *conn.Record, l link) {
	start := r.Began
	if start == 0 {
		start = r.Established
	}
	if !l.sampled || start == 0 || r.Kind != event.Closed && r.Kind != event.Failed {
		return
	}
	o := ownerOf(r.Event)
	p := s.processes.find(o)
	group, ok := s.groups[o]
	if !ok {
		group = s.group(o, p)
		s.groups[o] = group
	}
	s.count++
	s.fill(group.AppendEmpty(), r, p, l, start)
}

func (s *spans) group(o owner.ID, p *owner.Process) ptrace.SpanSlice {
	rs := s.batch.ResourceSpans().AppendEmpty()
	rs.SetSchemaUrl(semconv.SchemaURL)
	s.processes.fill(rs.Resource().Attributes(), o, p)
	ss := rs.ScopeSpans().AppendEmpty()
	ss.SetSchemaUrl(semconv.SchemaURL)
	ss.Scope().SetName(scopeName)
	return ss.Spans()
}

// fill maps a Record to a span.
func (s *spans) fill(sp ptrace.Span, r *conn.Record, p *owner.Process, l link, start uint64) {
	sp.SetTraceID(l.trace)
	sp.SetSpanID(l.span)
	sp.SetParentSpanID(l.parent)
	sp.SetFlags(flagSampled | flagHasRemoteParent)
	if !l.parent.IsEmpty() {
		sp.SetFlags(flagSampled | flagHasRemoteParent | flagRemoteParent)
	}
	sp.TraceState().FromRaw(s.state)
	sp.SetStartTimestamp(s.time(start))
	sp.SetEndTimestamp(s.time(max(r.Time, start)))
	nameSpan(sp, r)
	putRecord(&s.attributes, r, p)
	if r.Role == event.Client {
		// By address, so that a peer that nobody traces is a node of the service graph too.
		peer := r.Peer.String()
		s.attributes.putStr(attrServicePeer, peer)
		s.attributes.putStr(attrPeerService, peer)
	}
	s.attributes.UnsafeIntoMap(sp.Attributes())
	if r.ErrorType != "" {
		sp.Status().SetCode(ptrace.StatusCodeError)
	}
	s.putEvents(sp, r)
}

func nameSpan(sp ptrace.Span, r *conn.Record) {
	switch r.Role {
	case event.Client:
		sp.SetName(spanConnect)
		sp.SetKind(ptrace.SpanKindClient)
	case event.Server:
		sp.SetName(spanAccept)
		sp.SetKind(ptrace.SpanKindServer)
	default:
		sp.SetName(spanUnknown)
		sp.SetKind(ptrace.SpanKindInternal)
	}
}

func (s *spans) putEvents(sp ptrace.Span, r *conn.Record) {
	if r.Established != 0 {
		s.putEvent(sp, eventEstablished, r.Established)
	}
	if r.FirstFIN != 0 {
		s.putEvent(sp, eventFirstFIN, r.FirstFIN).Attributes().PutStr(attrInitiator, string(r.Initiator))
	}
}

func (s *spans) putEvent(sp ptrace.Span, name string, at uint64) ptrace.SpanEvent {
	ev := sp.Events().AppendEmpty()
	ev.SetName(name)
	ev.SetTimestamp(s.time(at))
	return ev
}

func (s *spans) time(t uint64) pcommon.Timestamp {
	return pcommon.NewTimestampFromTime(s.clock.Time(t))
}
