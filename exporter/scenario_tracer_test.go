package exporter

import (
	"fmt"
	"maps"
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
	{"C39 renamed kernel functions", renamed},
}

// attachment is what one of this process's links is: its type, the tracepoint that it names, and how else it
// is attached, as in enum bpf_attach_type.
type attachment struct{ Kind, Tracepoint, Type string }

// attachments counts them.
func (s *scene) attachments() map[attachment]int {
	s.t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	links := map[attachment]int{}
	field := func(b []byte, name string) string {
		if m := regexp.MustCompile(`(?m)^` + name + `:\s*(\S+)$`).FindSubmatch(b); m != nil {
			return string(m[1])
		}
		return ""
	}
	for _, fd := range fds {
		b, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue // closed meanwhile
		}
		if kind := field(b, "link_type"); kind != "" {
			links[attachment{kind, field(b, "tp_name"), field(b, "attach_type")}]++
		}
	}
	return links
}

// attachedTo: typed tracepoints, iterators, and fexit, which the kernel keeps: nothing has a number of
// instances that could be exhausted.
func attachedTo(s *scene) {
	total := 0
	for link, n := range s.attachments() {
		if link.Kind != "raw_tracepoint" && link.Kind != "tracing" && link.Kind != "iter" {
			s.t.Errorf("a link of type %s, want tracepoints, fexit and iterators alone", link.Kind)
		}
		total += n
	}
	if total == 0 {
		s.t.Error("no links, want the tracepoint's")
	}
}

// renamed: the one function of the kernel that is named is that of accept, where the kernel lets programs
// see its end. The tracepoint is attached twice, whatever functions there are.
func renamed(s *scene) {
	want := map[attachment]int{{Kind: "raw_tracepoint", Tracepoint: "inet_sock_set_state"}: 2}
	if s.tr.foundBy("close") == "accept" {
		want[attachment{Kind: "tracing", Type: fmt.Sprint(unix.BPF_TRACE_FEXIT)}] = 1
	}
	got := s.attachments()
	maps.DeleteFunc(got, func(link attachment, _ int) bool { return link.Kind == "iter" })
	if d := gocmp.Diff(want, got); d != "" {
		s.t.Errorf("what is attached (-want +is):\n%s", d)
	}
}

// receiveOn has the namespace's packets received on that CPU (receive packet steering), whatever it does.
func (s *scene) receiveOn(cpu int) {
	s.t.Helper()
	s.ns.Do("steering packets", func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return err
		}
		if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			return err
		}
		mask := fmt.Sprintf("%x%s", 1<<(cpu%32), strings.Repeat(",0", cpu/32))
		return os.WriteFile("/sys/class/net/lo/queues/rx-0/rps_cpus", []byte(mask), 0)
	})
}

// nested: crowds on loopback have softirqs change states on top of each other, until the kernel has skipped
// a program for that. What it skipped is counted, and nothing is missing that is not. So that it happens soon
// one CPU receives what the others send.
func nested(s *scene) {
	cpus := allowedCPUs(s.t)
	s.receiveOn(cpus[0])
	const crowds, each = 10, 300
	before := s.tr.now()
	after, n := before, 0
	for n < crowds*each && after.Misses == before.Misses {
		p := s.ns.Start("crowd", actor.Plan{Listen: anyPort, Request: 1, Reply: 1, How: actor.ClientCloses, Connections: each, Workers: 8})
		p.Report()
		p.Wait()
		n += each
		s.countPairs(n, 1, 1)
		after = s.tr.now()
	}
	misses := after.Misses - before.Misses
	s.needs(misses > 0 || len(cpus) > 1 && os.Getenv(guestEnv) == "", "softirqs that interrupt a program: a second CPU, and none that is emulated")
	if misses == 0 {
		s.t.Errorf("the kernel skipped no program in %d connections: nothing is shown", n)
	}
	s.t.Logf("of the state changes of %d connections the kernel skipped the first program for %d, and the second for %d of these",
		n, misses, after.Skipped-before.Skipped)
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
