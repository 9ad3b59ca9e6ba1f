package exporter

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// TestRoleUnknown: of a connection that is found with a FIN out nobody can tell which end is the client. That
// end is told of without a guess: no client and no server, no id, and a trace that nothing else is in, with
// the other end least of all. The other end is told of as ever, and both have no span, for their beginnings
// are not known.
func TestRoleUnknown(t *testing.T) {
	const connections = 2
	here := actor.NewNetNS(t)
	p, q := here.Caller(), here.Caller()
	l := q.Listen(anyPort, 16)
	var closing, other [connections]*actor.Socket
	for i := range connections {
		c := p.Dial(l.Local)
		a := l.Accept()
		if i == 1 { // the server is the first to have sent all
			c, a = a, c
		}
		c.Shutdown(unix.SHUT_WR)
		a.Read(0)
		closing[i], other[i] = c, a
	}
	s := &sinks{}
	cfg := NewDefaultConfig()
	cfg.Metrics.Interval = 0
	cfg.Tracer.Audit = time.Second // for what the kernel runs no program for
	cfg.Filter = []FilterRule{
		{Include: &FilterMatch{NetNS: []NetNS{NetNS(fmt.Sprint(here.Inode()))}}},
		{Exclude: &FilterMatch{CIDR: []string{"0.0.0.0/0", "::/0"}}},
	}
	end := startSinks(t, cfg, s)
	eventually(t, func() bool { return s.told() == 2*connections }, func() any { return s.told() })
	for i := range connections {
		other[i].Write(300)
		closing[i].Read(300)
		other[i].Close()
		closing[i].Close()
	}
	eventually(t, func() bool { return s.told() == 4*connections }, func() any { return s.told() })
	end()
	if len(s.spans) != 0 {
		t.Errorf("%d spans, want none", len(s.spans))
	}
	traces := map[string]string{} // the ends, by their trace
	for i := range connections {
		role := [connections]string{"server", "client"}[i]
		unknown, known := s.end(t, closing[i]), s.end(t, other[i])
		wantEnd(t, unknown, "unknown", false)
		wantEnd(t, known, role, true)
		for _, e := range [][]plog.LogRecord{unknown, known} {
			id := e[0].TraceID().String()
			name := fmt.Sprint(i, read(e[0]).Role)
			if traces[id] != "" || e[0].TraceID().IsEmpty() || e[1].TraceID() != e[0].TraceID() {
				t.Errorf("end %s is in trace %s, then %s, with %q: want one of its own", name, id, e[1].TraceID(), traces[id])
			}
			traces[id] = name
		}
	}
}

// told is how many log records there are.
func (s *sinks) told() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.logs)
}

// end gives the two log records of the socket's end of its connection.
func (s *sinks) end(t *testing.T, of *actor.Socket) (found []plog.LogRecord) {
	t.Helper()
	for _, lr := range s.logs {
		if r := read(lr); r.Local == of.Local && r.Peer == of.Peer {
			found = append(found, lr)
		}
	}
	if len(found) != 2 || found[0].EventName() != nameOpen || found[1].EventName() != nameClose {
		t.Fatalf("%d records of %s, want it found open, and closed", len(found), of.Local)
	}
	return found
}

// wantEnd wants both records to tell of that role, and to name the connection where it has a name. A known end
// has client and server, another source and destination.
func wantEnd(t *testing.T, records []plog.LogRecord, role string, named bool) {
	t.Helper()
	for _, lr := range records {
		r := read(lr)
		has := map[string]bool{}
		for key := range lr.Attributes().All() {
			group, _, _ := strings.Cut(key, ".")
			has[group] = true
		}
		if r.Role != role || !r.Preexisting || (r.id != "") != named {
			t.Errorf("%s: role %q, id %q, found open %v: want the role %s, and an id: %v", r.Event, r.Role, r.id, r.Preexisting, role, named)
		}
		if has["client"] != named || has["server"] != named || has["source"] == named || has["destination"] == named {
			t.Errorf("%s, role %s: the ends are told as %v", r.Event, r.Role, has)
		}
		if r.OwnerSource != "file" || r.handshake != -1 || r.duration != -1 {
			t.Errorf("%s: found by %q, handshake %v, duration %v: want file, and no times", r.Event, r.OwnerSource, r.handshake, r.duration)
		}
	}
}

// TestRoleUnknownFiltered: a rule that asks for a role leaves the end alone whose role is not known; one that
// asks for a port takes it by either.
func TestRoleUnknownFiltered(t *testing.T) {
	here := actor.NewNetNS(t)
	p, q := here.Caller(), here.Caller()
	l := q.Listen(anyPort, 16)
	c := p.Dial(l.Local)
	a := l.Accept()
	c.Shutdown(unix.SHUT_WR)
	a.Read(0)
	for name, tt := range map[string]struct {
		exclude FilterMatch
		want    string
	}{
		"role":              {FilterMatch{Role: []string{"client", "server"}}, "unknown"},
		"the server's port": {FilterMatch{Port: []int{int(l.Local.Port())}}, ""},
		"the client's port": {FilterMatch{Port: []int{int(c.Local.Port())}}, "server"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.exclude.NetNS = []NetNS{NetNS(fmt.Sprint(here.Inode()))}
			tr := startTrace(t, func(cfg *Config) { cfg.Filter = []FilterRule{{Exclude: &tt.exclude}} })
			eventually(t, func() bool { return tr.now().Running }, nil)
			tr.stop()
			var roles []string
			for _, r := range tr.of(p.PID(), q.PID()) {
				roles = append(roles, r.Role)
			}
			if got := strings.Join(roles, " "); got != tt.want {
				t.Errorf("told of %q, want %q", got, tt.want)
			}
		})
	}
}
