package exporter

import (
	"context"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// account is what the ends of a process's connections come to.
type account struct {
	Opened, Closed, Active int64
	Sent, Received         int64 // octets
}

// A ledger has what log records and metrics say of each process, to hold both against what it did.
type ledger struct {
	mu          sync.Mutex
	records     uint64
	heartbeats  int
	collections int
	logs        map[int64]*account
	repaired    map[int64]bool // something of the process was made good that nobody saw
	newest      pmetric.Metrics
	collected   pcommon.Timestamp // newest
}

func newLedger() *ledger {
	return &ledger{logs: map[int64]*account{}, repaired: map[int64]bool{}}
}

func (*ledger) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (l *ledger) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rl := range ld.ResourceLogs().All() {
		for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			l.add(read(lr))
		}
	}
	return nil
}

func (l *ledger) add(r told) {
	l.records++
	a := l.logs[r.PID]
	if a == nil {
		a = &account{}
		l.logs[r.PID] = a
	}
	switch r.Event {
	case nameOpen:
		a.Opened++
		a.Active++
	case nameHeartbeat:
		l.heartbeats++
	case nameClose:
		a.Closed++
		a.Active--
		a.Sent += r.Sent
		a.Received += r.Received
	}
	if r.Synthesized {
		l.repaired[r.PID] = true
	}
}

func (l *ledger) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := collectedAt(md); at != l.collected { // else another batch of the same collection
		l.collections++
		l.newest, l.collected = pmetric.NewMetrics(), at
	}
	for _, rm := range md.ResourceMetrics().All() {
		rm.CopyTo(l.newest.ResourceMetrics().AppendEmpty())
	}
	return nil
}

// collectedAt is the time that all points of a collection have.
func collectedAt(md pmetric.Metrics) pcommon.Timestamp {
	m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0)
	if m.Type() == pmetric.MetricTypeHistogram {
		return m.Histogram().DataPoints().At(0).Timestamp()
	}
	return m.Sum().DataPoints().At(0).Timestamp()
}

// metrics gives the accounts that the newest, cumulative metrics make.
func (l *ledger) metrics() map[int64]account {
	all := map[int64]account{}
	for _, rm := range l.newest.ResourceMetrics().All() {
		pid, _ := rm.Resource().Attributes().Get(attrPID)
		a := all[pid.Int()]
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			if m.Type() != pmetric.MetricTypeSum {
				continue
			}
			for _, d := range m.Sum().DataPoints().All() {
				direction, _ := d.Attributes().Get(attrDirection)
				a.add(m.Name()+direction.Str(), d.IntValue())
			}
		}
		all[pid.Int()] = a
	}
	return all
}

func (a *account) add(metric string, n int64) {
	switch metric {
	case "tcp.connection.opened":
		a.Opened += n
	case "tcp.connection.closed":
		a.Closed += n
	case "tcp.connection.active":
		a.Active += n
	case "tcp.connection.iotransmit":
		a.Sent += n
	case "tcp.connection.ioreceive":
		a.Received += n
	}
}

// check holds logs and metrics of the processes against what each of them did: whatever was sampled
// while its connections were open, each octet is counted once.
func (l *ledger) check(t *testing.T, each account, pids []int) {
	t.Helper()
	checked := len(pids)
	for _, pid := range pids {
		if l.repaired[int64(pid)] {
			checked--
			continue // what was carried behind the tracer's back has no totals
		}
		var logs account
		if a := l.logs[int64(pid)]; a != nil {
			logs = *a
		}
		if d := gocmp.Diff(each, logs); d != "" {
			t.Errorf("process %d (-did +log records):\n%s", pid, d)
		}
		l.checkMetrics(t, each, pid)
	}
	if !l.shows(checked) {
		t.Errorf("%d of %d processes checked, metrics told %d times, %d heartbeats: this test shows nothing",
			checked, len(pids), l.collections, l.heartbeats)
	}
}

// shows reports whether so many processes, and what has been told up to now, are enough to show anything.
func (l *ledger) shows(processes int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return processes > 0 && l.collections > 1 && l.heartbeats > 0
}

// checkMetrics holds the metrics of a process against what it did.
func (l *ledger) checkMetrics(t *testing.T, did account, pid int) {
	t.Helper()
	if l.repaired[int64(pid)] {
		return
	}
	if d := gocmp.Diff(did, l.metrics()[int64(pid)]); d != "" {
		t.Errorf("process %d (-did +metrics):\n%s", pid, d)
	}
}
