package exporter

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// tracerScenarios are what can go wrong in a tracer.
var tracerScenarios = []scenario{
	{"C11 no return probes", attachedTo},
	{"C33 state changes inside state changes", nested},
	{"C34 ring full", ringFull},
	{"C35 many attempts in flight", manyAttempts},
	{"C36 both ends on one host", bothHere},
	{"C37 wall clock set", clockSet},
	{"C38 the agent's own traffic", ownTraffic},
	{"C38 closed while the tracer looks at it", lookedAt},
	{"C39 renamed kernel functions", attachedTo},
}

// attachedTo: typed tracepoints, and iterators, which the kernel keeps; no kernel function is named, and
// nothing has a number of instances that could be exhausted.
func attachedTo(s *scene) {
	links := map[string]int{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	kind := regexp.MustCompile(`(?m)^link_type:\s*(\S+)$`)
	for _, fd := range fds {
		b, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue // closed meanwhile
		}
		if m := kind.FindSubmatch(b); m != nil {
			links[string(m[1])]++
		}
	}
	for name := range links {
		if name != "tracing" && name != "iter" && name != "raw_tracepoint" {
			s.t.Errorf("a link of type %s, want typed tracepoints and iterators alone", name)
		}
	}
	if links["tracing"]+links["raw_tracepoint"] == 0 {
		s.t.Errorf("links %v, want the tracepoint's", links)
	}
}

// nested: a crowd on loopback has softirqs change states on top of each other. What the kernel skipped
// is counted, and nothing is missing that is not.
func nested(s *scene) {
	n := 3000
	if testing.Short() {
		n = 200
	}
	before := s.tr.now()
	p := s.ns.Start("crowd", actor.Plan{Listen: anyPort, Request: 1, Reply: 1, How: actor.ClientCloses, Connections: n, Workers: 8})
	p.Report()
	p.Wait()
	s.countPairs(n, 1, 1)
	after := s.tr.now()
	s.t.Logf("of the state changes of %d connections the kernel skipped the first program for %d, and the second for %d of these",
		n, after.Misses-before.Misses, after.Skipped-before.Skipped)
}

// ringFull: what is lost is counted, and said to be lost; what is open, and what is over, is put right
// from the kernel's own sockets.
func ringFull(s *scene) {
	tr := startTrace(s.t, overflowing)
	holder := s.ns.Start("hold", actor.Plan{Listen: anyPort, Connections: 5})
	holder.Report()
	tr.await(10, holder.PID())
	goOn := tr.stand()
	n := 300
	crowd := s.ns.Start("crowd", actor.Plan{Listen: anyPort, How: actor.ClientCloses, Connections: n, Workers: 4})
	crowd.Report()
	crowd.Wait()
	goOn()
	eventually(s.t, func() bool { return tr.now().Lost > 0 }, nil)
	eventually(s.t, func() bool { return gocmp.Equal(len(openEnds(tr.of(crowd.PID(), holder.PID()))), 10) }, func() any { return tr.now() })
	tr.stop() // and looks at the balance
	if tr.stats.Lost == 0 {
		s.t.Errorf("stats %+v, want losses", tr.stats)
	}
	holder.Kill()
	s.await(4*n + 20)
}

// manyAttempts: each is remembered by its own socket, so no table can fill up.
func manyAttempts(s *scene) {
	n := 3000
	if testing.Short() {
		n = 200
	}
	l := s.silent()
	p := s.caller()
	var want []told
	for range n {
		k := p.Socket(unix.AF_INET, 0)
		k.NonBlocking()
		errnoIs(s.t, "connecting", k.TryConnect(l.Local), unix.EINPROGRESS)
		want = append(want, failed(client(k), "interrupted"))
	}
	s.expect()
	p.Kill()
	s.expect(want...)
}

// bothHere: each end is told by itself; the two have the same name.
func bothHere(s *scene) {
	p := s.caller()
	c, a := connected(p, p)
	hangUp(c, a)
	got := s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
	for _, r := range got {
		if r.id == "" || r.id != got[0].id {
			s.t.Errorf("connection id %q, want %q at both ends", r.id, got[0].id)
		}
	}
}

// clockSet: durations do not follow the wall clock.
func clockSet(s *scene) {
	s.needs(os.Getenv(guestEnv) != "", "a virtual machine, whose clock may be set: make test-kernels")
	c, a := connected(s.caller(), s.caller())
	stepWall(s.t, time.Hour)
	defer stepWall(s.t, -time.Hour)
	hangUp(c, a)
	for _, r := range s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...) {
		if r.Event == nameClose && (r.duration <= 0 || r.duration > 60) {
			s.t.Errorf("lasted %v s, want less than a minute", r.duration)
		}
	}
}

// ownTraffic: the connections of the process that traces are left out, those to it are not.
func ownTraffic(s *scene) {
	q := s.caller()
	l := q.Listen(anyPort, 16)
	var own net.Conn
	s.ns.Do("connecting", func() (err error) {
		own, err = net.Dial("tcp", l.Local.String())
		return err
	})
	a := l.Accept()
	if err := own.Close(); err != nil {
		s.t.Fatal(err)
	}
	a.Read(0)
	a.Close()
	s.explained["active_opens"] = 1
	s.expect(whole(server(a), 0, 0, orderly["peer"])...)
	if strings.Contains(fmt.Sprint(s.records()), fmt.Sprint("PID:", os.Getpid())) {
		s.t.Error("the tracer's own process is told of")
	}
}

// lookedAt: a snapshot holds each file for the moment in which it looks at it. When its process closes it
// then, the last to let go of it is the tracer, and so the tracer's process is the one that ends the connection.
func lookedAt(s *scene) {
	p, q := s.caller(), s.caller()
	c, a := connected(p, q)
	hold := func(k *actor.Socket) (release func()) {
		process, err := unix.PidfdOpen(k.By.PID(), 0)
		if err != nil {
			s.t.Fatal(err)
		}
		defer func() { _ = unix.Close(process) }()
		fd, err := unix.PidfdGetfd(process, k.FD, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		return func() { _ = unix.Close(fd) }
	}
	release := hold(a)
	a.Close()
	s.expect(opened(client(c)), opened(server(a)))
	release()
	c.Read(0)
	release = hold(c)
	c.Close()
	release()
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["peer"]), whole(server(a), 0, 0, orderly["local"]))...)
}
