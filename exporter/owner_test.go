package exporter

import (
	"net/netip"
	"testing"
	"time"

	"github.com/connspan/connspan/internal/actor"
)

// TestPrefork: one process listens, others accept. The opening can name the listener's alone, the end
// names the worker that served the connection.
func TestPrefork(t *testing.T) {
	const each = 6
	// An audit would find the worker by the file that it has open, where there is time for one.
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.Audit = time.Hour })
	for _, how := range []actor.How{actor.ClientCloses, actor.ServerCloses, actor.HalfClose, actor.ServerUnread} {
		t.Run(string(how), func(t *testing.T) {
			plan := actor.Plan{Listen: "127.0.0.1:0", Workers: 4, Request: 120, Reply: 5300, How: how}
			if how == actor.ServerUnread {
				plan.Reply = 0
			}
			server := actor.Start(t, "prefork", plan)
			plan.Connect = server.Report().Local.String()
			worker := map[netip.AddrPort]int{}
			for range each {
				client := actor.Start(t, "client", plan)
				act(client, nil)
				r := server.Report()
				worker[r.Peer] = r.PID
			}
			var pids []int
			for _, pid := range worker {
				pids = append(pids, pid)
			}
			tr.await(each, server.PID())
			eventually(t, func() bool { return tr.count(pids...) >= each }, func() any { return tr.of(append(pids, server.PID())...) })
			for _, r := range tr.of(append(pids, server.PID())...) {
				pid, source := server.PID(), "listen"
				if r.Event == nameClose {
					pid, source = worker[r.Peer], tr.foundBy("close")
				}
				if r.PID != int64(pid) || r.OwnerSource != source || r.Role != "server" {
					t.Errorf("%+v, want the owner %d, found by %s", r, pid, source)
				}
			}
		})
	}
}

// foundBy is how a worker is found that accepts what another process listens for: otherwise where the kernel
// does not let a program see it accept.
func (tr *trace) foundBy(otherwise string) string {
	if tr.x.tracer.AcceptUnseen == nil {
		return "accept"
	}
	return otherwise
}

// TestWorkerWhileOpen: who serves a connection is found while it is open, by who has it open.
func TestWorkerWhileOpen(t *testing.T) {
	tr := startTrace(t, func(c *Config) { c.Logs.Heartbeat = time.Second })
	plan := actor.Plan{Listen: "127.0.0.1:0", Workers: 2, Request: 120, Reply: 5300, How: actor.ClientKilled}
	server := actor.Start(t, "prefork", plan)
	plan.Connect = server.Report().Local.String()
	client := actor.Start(t, "client", plan)
	r := client.Report()
	client.Cue()
	client.Report()
	var worker int64
	eventually(t, func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, told := range tr.records {
			if told.Event == nameHeartbeat && told.Peer == r.Local && told.OwnerSource == tr.foundBy("file") {
				worker = told.PID
			}
		}
		return worker != 0
	}, nil)
	client.Kill()
	if got := server.Report(); int64(got.PID) != worker {
		t.Errorf("the open connection is told to be served by %d, want %d", worker, got.PID)
	}
}
