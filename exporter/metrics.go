package exporter

import (
	"net/netip"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/connspan/connspan/internal/clock"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/owner"
)

// The metrics, by their place in metrics.instruments.
const (
	metricDuration = iota
	metricHandshake
	metricRTT
	metricActive
	metricOpened
	metricClosed
	metricFailed
	metricIO
	metricRetransmits
)

// shape is what sort of instrument a metric is.
type shape int

const (
	shapeCounter shape = iota
	shapeUpDownCounter
	shapeHistogram
)

// instrument is a metric and its series, in the order of their first appearance.
type instrument struct {
	name, unit, description string
	shape                   shape
	bounds                  []float64 // of the explicit buckets

	series   []*series
	index    map[labels]*series
	overflow *series // what came when there were max_series; nil: nothing
}

func instruments() []instrument {
	return []instrument{
		{name: "tcp.connection.duration", unit: "s", description: "How long connections lasted, told when they are over.", shape: shapeHistogram, bounds: lifetimes},
		{name: "tcp.connection.handshake.duration", unit: "s", description: "How long the handshakes of connections took.", shape: shapeHistogram, bounds: latencies},
		{name: "tcp.connection.rtt", unit: "s", description: "Smoothed round-trip time of connections that have sent or received anything since the last time.", shape: shapeHistogram, bounds: latencies},
		{name: "tcp.connection.active", unit: "{connection}", description: "Open connections.", shape: shapeUpDownCounter},
		{name: "tcp.connection.opened", unit: "{connection}", description: "Connections that were established."},
		{name: "tcp.connection.closed", unit: "{connection}", description: "Connections that ended after they had been established."},
		{name: "tcp.connection.failed", unit: "{connection}", description: "Connections that were never established."},
		{name: "tcp.connection.io", unit: "By", description: "Payload sent and received, each octet once."},
		{name: "tcp.connection.retransmits", unit: "{segment}", description: "Segments sent again."},
	}
}

const (
	attrDirection = string(semconv.NetworkIODirectionKey)
	attrOverflow  = "otel.metric.overflow" // of the metrics SDK specification
)

// labels tell the series of a metric apart; what does not apply, or is not wanted, is empty.
type labels struct {
	owner     owner.ID
	role      event.Role
	ipv6      bool
	port      uint16
	server    netip.Addr
	errorType string
	reason    conn.Reason
	initiator conn.Initiator
	direction string
}

// series is one time series. Its count or its histogram runs since start, and then, when the
// temporality is delta, since it was told last.
type series struct {
	metric  int // the index of its instrument
	labels  labels
	process *owner.Process // the owner, as it was known when the series began
	start   time.Time
	changed uint64 // kernel time when it was last something new: wall time may be set
	fresh   bool   // changed since it was told last
	count   int64
	before  int64 // the count that was told last, of an up-down counter
	hist    *histogram

	overflow bool
}

// metrics adds up what the records tell. It is not safe for concurrent use.
//
// Per series it keeps about 250 octets, with a histogram 1.5 KB, and at most cfg.MaxSeries for each
// metric.
type metrics struct {
	cfg         MetricsConfig
	processes   *resources
	clock       *clock.Clock
	wanted      map[string]bool // of cfg.Attributes
	instruments []instrument
	began       time.Time // what is new began to count no earlier: the last collection, at first the start
	now         time.Time // of the record that is being added, or of the collection
	kernel      uint64    // the same in kernel time
}

func newMetrics(cfg MetricsConfig, processes *resources, c *clock.Clock, began time.Time) *metrics {
	m := &metrics{cfg: cfg, processes: processes, clock: c, wanted: map[string]bool{}, instruments: instruments(), began: began}
	for _, a := range cfg.Attributes {
		m.wanted[a] = true
	}
	for i := range m.instruments {
		m.instruments[i].index = make(map[labels]*series)
	}
	return m
}

// add counts what r tells.
func (m *metrics) add(r *conn.Record, l link) {
	m.at(r.Time)
	who := m.labels(r.Event)
	switch r.Kind {
	case event.Opened, event.Adopted:
		m.addOpened(r, who, l)
	case event.Closed:
		if r.Stray { // nothing has told of its opening
			m.addOpened(r, who, l)
		}
		m.addClosed(r, who, l)
	case event.Failed:
		failed := who
		failed.errorType = r.ErrorType
		m.count(metricFailed, failed, 1)
	case event.Sampled:
		m.addRTT(r, who, l)
	}
	m.addTotals(r.Since, who)
}

func (m *metrics) addOpened(r *conn.Record, who labels, l link) {
	if r.Has(event.Preexisting) {
		return
	}
	m.count(metricOpened, who, 1)
	if d, ok := r.Handshake(); ok {
		m.record(metricHandshake, who, d, l)
	}
}

func (m *metrics) addClosed(r *conn.Record, who labels, l link) {
	closed := who
	closed.reason, closed.initiator = r.Reason, r.Initiator
	m.count(metricClosed, closed, 1)
	if d, ok := r.Duration(); ok {
		ended := who
		ended.errorType = r.ErrorType
		m.record(metricDuration, ended, d, l)
	}
	if !r.Synthesized {
		m.addRTT(r, who, l)
	}
}

func (m *metrics) addRTT(r *conn.Record, who labels, l link) {
	if r.SRTT != 0 {
		m.record(metricRTT, who, micros(r.SRTT), l)
	}
}

func (m *metrics) addTotals(since conn.Totals, who labels) {
	if since.BytesSent != 0 {
		sent := who
		sent.direction = "transmit"
		m.count(metricIO, sent, int64(since.BytesSent))
	}
	if since.BytesReceived != 0 {
		received := who
		received.direction = "receive"
		m.count(metricIO, received, int64(since.BytesReceived))
	}
	if since.Retransmits != 0 {
		m.count(metricRetransmits, who, int64(since.Retransmits))
	}
}

// labels gives those that all metrics share.
func (m *metrics) labels(e *event.Event) labels {
	who := labels{owner: ownerOf(e)}
	if m.wanted[attrRole] {
		who.role = e.Role
	}
	if m.wanted[attrType] {
		who.ipv6 = !e.Peer.Addr().Is4()
	}
	server := e.Peer
	switch e.Role {
	case event.Server:
		server = e.Local
	case event.RoleUnknown:
		return who
	}
	if m.wanted[attrServerPort] {
		who.port = server.Port()
	}
	if m.wanted[attrServerAddr] {
		who.server = server.Addr()
	}
	return who
}

func (m *metrics) count(metric int, who labels, n int64) {
	s := m.seriesOf(metric, who)
	s.count += n
	s.touch(m.kernel)
}

func (m *metrics) record(metric int, who labels, d time.Duration, l link) {
	s := m.seriesOf(metric, who)
	s.hist.record(d.Seconds(), m.now, l)
	s.touch(m.kernel)
}

// at says when what follows happens.
func (m *metrics) at(kernel uint64) {
	m.kernel, m.now = kernel, m.clock.Time(kernel)
	if m.began.After(m.now) { // wall time was set back: nothing begins after its end
		m.began = m.now
	}
}

func (s *series) touch(now uint64) {
	s.changed, s.fresh = now, true
}

// seriesOf gives the series of these labels, or that of all for which there was no more room.
func (m *metrics) seriesOf(metric int, who labels) *series {
	in := &m.instruments[metric]
	if s, ok := in.index[who]; ok {
		return s
	}
	if len(in.series) >= m.cfg.MaxSeries {
		if in.overflow == nil {
			in.overflow = m.newSeries(metric, labels{})
			in.overflow.overflow = true
		}
		return in.overflow
	}
	s := m.newSeries(metric, who)
	in.series = append(in.series, s)
	in.index[who] = s
	return s
}

func (m *metrics) newSeries(metric int, who labels) *series {
	in := &m.instruments[metric]
	s := &series{metric: metric, labels: who, process: m.processes.find(who.owner), start: m.began, changed: m.kernel}
	if in.shape == shapeHistogram {
		s.hist = newHistogram(m.cfg.Histogram, in.bounds)
	}
	return s
}

// collect gives all series at kernel time now, or with delta what is new of them, in batches of at most
// MaxBatch data points, and begins the next interval. each calls its argument with every open connection.
func (m *metrics) collect(now uint64, each func(func(*event.Event)), give func(pmetric.Metrics)) {
	m.at(now)
	m.countActive(each)
	out := collection{m: m, give: give}
	out.begin()
	for _, of := range m.byOwner() {
		for _, s := range of {
			out.add(s)
		}
	}
	out.end()
	m.began = m.now
}

// byOwner are the series to be told, those of a process together, in the order of the instruments.
func (m *metrics) byOwner() (all [][]*series) {
	place := map[owner.ID]int{}
	put := func(s *series) {
		if !m.due(s) {
			return
		}
		at, ok := place[s.labels.owner]
		if !ok {
			at = len(all)
			place[s.labels.owner] = at
			all = append(all, nil)
		}
		all[at] = append(all[at], s)
	}
	for i := range m.instruments {
		in := &m.instruments[i]
		in.series = slices.DeleteFunc(in.series, func(s *series) bool { return m.expire(in, s) })
		for _, s := range in.series {
			put(s)
		}
		if in.overflow != nil {
			put(in.overflow)
		}
	}
	return all
}

// countActive asks the table: what is counted anew each time cannot drift away from it.
func (m *metrics) countActive(each func(func(*event.Event))) {
	in := &m.instruments[metricActive]
	for _, s := range in.series {
		s.before, s.count = s.count, 0
	}
	if in.overflow != nil {
		in.overflow.count = 0
	}
	each(func(e *event.Event) { m.seriesOf(metricActive, m.labels(e)).count++ })
	for _, s := range in.series {
		if s.count != 0 || s.before != 0 {
			s.touch(m.kernel)
		}
	}
}

// expire removes a series that has not changed for so long that nobody is to see it any more.
func (m *metrics) expire(in *instrument, s *series) bool {
	if s.fresh || m.kernel < s.changed+uint64(m.cfg.ExpireAfter) {
		return false
	}
	delete(in.index, s.labels)
	return true
}

// cumulative reports whether the series of a metric tell all since they began, with any configuration.
func (m *metrics) cumulative(metric int) bool {
	return m.cfg.Temporality == TemporalityCumulative || m.instruments[metric].shape == shapeUpDownCounter
}

// due reports whether there is something to tell of s.
func (m *metrics) due(s *series) bool { return s.fresh || m.cumulative(s.metric) }

// collection puts series into pdata: a Resource for each process, a metric for each instrument in it.
type collection struct {
	m       *metrics
	give    func(pmetric.Metrics)
	metrics pmetric.Metrics // the batch
	points  int             // in it
	owner   owner.ID        // of the last Resource in it
	scope   pmetric.ScopeMetrics
	last    int            // the instrument of the last metric in that; -1: none
	metric  pmetric.Metric // that one
}

func (c *collection) begin() {
	c.metrics, c.points, c.last = pmetric.NewMetrics(), 0, -1
}

func (c *collection) end() {
	if c.points != 0 {
		c.give(c.metrics)
	}
	c.begin()
}

// add appends the data point of s, and ends a batch that is full.
func (c *collection) add(s *series) {
	if s.start.After(c.m.now) { // wall time was set back
		s.start = c.m.now
	}
	cumulative := c.m.cumulative(s.metric)
	start := s.start
	if !cumulative {
		start = c.m.began
	}
	c.seek(s)
	c.fill(s, start)
	s.fresh = false
	if s.hist != nil {
		s.hist.clear(cumulative)
	} else if !cumulative {
		s.count = 0
	}
	if c.points++; c.points == MaxBatch {
		c.end()
	}
}

// fill appends the data point of s.
func (c *collection) fill(s *series, start time.Time) {
	from, now := pcommon.NewTimestampFromTime(start), pcommon.NewTimestampFromTime(c.m.now)
	switch c.metric.Type() {
	case pmetric.MetricTypeHistogram:
		d := c.metric.Histogram().DataPoints().AppendEmpty()
		d.SetStartTimestamp(from)
		d.SetTimestamp(now)
		s.hist.fillExplicit(d)
		c.putLabels(d.Attributes(), s)
	case pmetric.MetricTypeExponentialHistogram:
		d := c.metric.ExponentialHistogram().DataPoints().AppendEmpty()
		d.SetStartTimestamp(from)
		d.SetTimestamp(now)
		s.hist.fillExponential(d)
		c.putLabels(d.Attributes(), s)
	default:
		d := c.metric.Sum().DataPoints().AppendEmpty()
		d.SetStartTimestamp(from)
		d.SetTimestamp(now)
		d.SetIntValue(s.count)
		c.putLabels(d.Attributes(), s)
	}
}

// seek makes metric that of the series, in the Resource of its owner.
func (c *collection) seek(s *series) {
	if c.last < 0 || c.owner != s.labels.owner {
		c.own(s)
	}
	if c.last == s.metric {
		return
	}
	in := &c.m.instruments[s.metric]
	c.metric = c.scope.Metrics().AppendEmpty()
	c.metric.SetName(in.name)
	c.metric.SetUnit(in.unit)
	c.metric.SetDescription(in.description)
	c.shape(c.metric, in)
	c.last = s.metric
}

func (c *collection) shape(metric pmetric.Metric, in *instrument) {
	temporality := pmetric.AggregationTemporalityCumulative
	if c.m.cfg.Temporality == TemporalityDelta {
		temporality = pmetric.AggregationTemporalityDelta
	}
	switch {
	case in.shape == shapeUpDownCounter:
		metric.SetEmptySum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	case in.shape == shapeCounter:
		sum := metric.SetEmptySum()
		sum.SetAggregationTemporality(temporality)
		sum.SetIsMonotonic(true)
	case c.m.cfg.Histogram == HistogramExponential:
		metric.SetEmptyExponentialHistogram().SetAggregationTemporality(temporality)
	default:
		metric.SetEmptyHistogram().SetAggregationTemporality(temporality)
	}
}

func (c *collection) own(s *series) {
	rm := c.metrics.ResourceMetrics().AppendEmpty()
	rm.SetSchemaUrl(semconv.SchemaURL)
	c.m.processes.fill(rm.Resource().Attributes(), s.labels.owner, s.process)
	c.scope = rm.ScopeMetrics().AppendEmpty()
	c.scope.SetSchemaUrl(semconv.SchemaURL)
	c.scope.Scope().SetName(scopeName)
	c.owner, c.last = s.labels.owner, -1
}

func (c *collection) putLabels(m pcommon.Map, s *series) {
	if s.overflow {
		m.PutBool(attrOverflow, true)
		return
	}
	l := &s.labels
	if c.m.wanted[attrRole] {
		m.PutStr(attrRole, roleNames[l.role])
	}
	if c.m.wanted[attrType] {
		m.PutStr(attrType, networkType(l.ipv6))
	}
	if l.port != 0 {
		m.PutInt(attrServerPort, int64(l.port))
	}
	if l.server.IsValid() {
		m.PutStr(attrServerAddr, l.server.String())
	}
	if c.m.wanted[attrExecutable] && l.owner != (owner.ID{}) {
		m.PutStr(attrExecutable, executable(l.owner, s.process))
	}
	putFound(m, attrErrorType, l.errorType)
	putFound(m, attrReason, string(l.reason))
	putFound(m, attrInitiator, string(l.initiator))
	putFound(m, attrDirection, l.direction)
}
