package exporter

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// A site is a host by all that TCP can tell: a network namespace, and an agent that is told of nothing
// else. What the agent sends goes to the site's own place, as OTLP.
type site struct {
	name  string // of the namespace
	agent *Exporter
	end   func() // of the agent

	mu     sync.Mutex
	traces [][]byte // ExportTraceServiceRequest
	logs   [][]byte // ExportLogsServiceRequest
	spans  int
	told   uint64 // log records
}

func (*site) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *site) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	b, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.traces = append(s.traces, b)
	s.spans += td.SpanCount()
	return err
}

func (s *site) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = append(s.logs, b)
	s.told += uint64(ld.LogRecordCount())
	return err
}

// ended is how many spans there are.
func (s *site) ended() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spans
}

// trace has an agent trace the site until end is called.
func (s *site) trace(t *testing.T, pairing string) {
	t.Helper()
	cfg := NewDefaultConfig()
	cfg.Tracer.Interval = 5 * time.Millisecond
	cfg.Tracer.RingSize = 16 << 20 // whatever else happens on the machine
	cfg.Metrics.Interval = 0
	cfg.Traces.Pairing = pairing
	cfg.Filter = []FilterRule{
		{Include: &FilterMatch{NetNS: []NetNS{NetNS(filepath.Join("/run/netns", s.name))}}},
		{Exclude: &FilterMatch{CIDR: []string{"0.0.0.0/0", "::/0"}}},
	}
	x, err := New(cfg, Consumers{Logs: []consumer.Logs{s}, Traces: []consumer.Traces{s}}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	*x.clock = *fixedClock(t) // the kernel's own time, which all sites share
	s.agent, s.traces, s.logs, s.spans, s.told = x, nil, nil, 0, 0
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	s.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("running: %v", err)
		}
		checkBalance(t, x, s.told)
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.end)
	eventually(t, func() bool { stats, err := x.Stats(); return err == nil && stats.Running }, nil)
}

// start runs an actor at the site, as a service of that name.
func (s *site) start(t *testing.T, service, name string, plan actor.Plan) *actor.Process {
	t.Helper()
	t.Setenv("OTEL_SERVICE_NAME", service)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back := openNetNS(t, "/proc/thread-self/ns/net")
	defer func() { _ = unix.Close(back) }()
	there := openNetNS(t, filepath.Join("/run/netns", s.name))
	defer func() { _ = unix.Close(there) }()
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	p := actor.Start(t, name, plan)
	if err := unix.Setns(back, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	return p
}

func openNetNS(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("opening %s: %v", path, err)
	}
	return fd
}

// The router between the sites forwards, and translates both addresses of what comes to its own port 8000.
const (
	servicePort, translatedPort = 9000, 8000

	translation = `table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat
		ip daddr 10.1.0.1 tcp dport 8000 dnat to 10.2.0.2:9000
		ip daddr 10.2.0.1 tcp dport 8000 dnat to 10.1.0.2:9000
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		ct status dnat masquerade
	}
}`
)

// twoSites makes the sites, 10.1.0.2 and 10.2.0.2, with a router between them.
func twoSites(t *testing.T) (sites [2]*site) {
	t.Helper()
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v; it is in the packages iproute2 and nftables", err)
		}
	}
	router := newNetNS(t, "router")
	ip(t, "", "netns", "exec", router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	ip(t, translation, "netns", "exec", router, "nft", "-f", "-")
	for i := range sites {
		name := newNetNS(t, string(rune('a'+i)))
		port, net := fmt.Sprintf("port%d", i+1), fmt.Sprintf("10.%d.0.", i+1)
		for _, command := range [][]string{
			{"-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", router},
			{"-n", name, "addr", "add", net + "2/24", "dev", "eth0"},
			{"-n", router, "addr", "add", net + "1/24", "dev", port},
			{"-n", name, "link", "set", "eth0", "up"},
			{"-n", router, "link", "set", port, "up"},
			{"-n", name, "route", "add", "default", "via", net + "1"},
		} {
			ip(t, "", command...)
		}
		sites[i] = &site{name: name}
	}
	return sites
}

// newNetNS makes a network namespace that has a name until the test ends.
func newNetNS(t *testing.T, name string) string {
	t.Helper()
	name = fmt.Sprintf("connspan-%d-%s", os.Getpid(), name)
	ip(t, "", "netns", "add", name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil { //nolint:usetesting // the test's context has ended
			t.Errorf("ip netns del %s: %v: %s", name, err, out)
		}
	})
	return name
}

func ip(t *testing.T, input string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ip", args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// converse makes four times each connections: from either site to the other, with and without translation.
// It returns when both agents have told of them, or do not seem to.
func converse(t *testing.T, sites [2]*site, each int) {
	t.Helper()
	var hosts, calls []*actor.Process
	for i, s := range sites {
		hosts = append(hosts, s.start(t, fmt.Sprintf("host-%d", i+1), "host", actor.Plan{
			Listen: fmt.Sprintf("0.0.0.0:%d", servicePort), Connections: 2 * each, Reply: 300,
		}))
		hosts[i].Report()
	}
	for i, s := range sites {
		for way, to := range []string{
			fmt.Sprintf("10.%d.0.2:%d", 2-i, servicePort),
			fmt.Sprintf("10.%d.0.1:%d", 1+i, translatedPort),
		} {
			calls = append(calls, s.start(t, fmt.Sprintf("caller-%d", i+1), "callers", actor.Plan{
				Connect: to, Connections: each, Workers: 4, Request: (2*i + way) * each,
			}))
		}
	}
	for _, p := range append(calls, hosts...) {
		p.Report()
		p.Wait()
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if sites[0].ended() >= 4*each && sites[1].ended() >= 4*each {
			return
		}
	}
}

// joined is a span, and where it was told.
type joined struct {
	ptrace.Span
	service string
	site    int
}

func (j joined) num(key string) int64 {
	v, _ := j.Attributes().Get(key)
	return v.Int()
}

func (j joined) str(key string) string {
	v, _ := j.Attributes().Get(key)
	return v.AsString()
}

// established is when the connection was.
func (j joined) established() int64 { return int64(j.Events().At(0).Timestamp()) }

// join puts what the sites have sent into one store.
func join(t *testing.T, sites ...*site) (traces map[string][]joined) {
	t.Helper()
	traces = map[string][]joined{}
	for i, s := range sites {
		for _, b := range s.traces {
			request := ptraceotlp.NewExportRequest()
			if err := request.UnmarshalProto(b); err != nil {
				t.Fatal(err)
			}
			for _, rs := range request.Traces().ResourceSpans().All() {
				service, _ := rs.Resource().Attributes().Get(attrServiceName)
				for _, sp := range rs.ScopeSpans().At(0).Spans().All() {
					id := sp.TraceID().String()
					traces[id] = append(traces[id], joined{sp, service.Str(), i})
				}
			}
		}
	}
	return traces
}

// dependencies counts the calls from service to service as Jaeger and Tempo do: a span is a call of the
// service of its parent, the span of the same trace that has its parent's id.
func dependencies(traces map[string][]joined) map[string]int {
	calls := map[string]int{}
	for _, spans := range traces {
		services := map[string]string{}
		for _, sp := range spans {
			services[sp.SpanID().String()] = sp.service
		}
		for _, sp := range spans {
			if caller, ok := services[sp.ParentSpanID().String()]; ok {
				calls[caller+" -> "+sp.service]++
			}
		}
	}
	return calls
}

// wrong says what is not as it should be with the spans of a trace.
func wrong(spans []joined) string {
	if len(spans) != 2 {
		return fmt.Sprintf("%d spans", len(spans))
	}
	c, s := spans[0], spans[1]
	if c.Kind() != ptrace.SpanKindClient {
		c, s = s, c
	}
	switch {
	case c.Kind() != ptrace.SpanKindClient || s.Kind() != ptrace.SpanKindServer || c.site == s.site:
		return fmt.Sprintf("a %s span of site %d and a %s span of site %d", c.Kind(), c.site, s.Kind(), s.site)
	case !c.ParentSpanID().IsEmpty() || s.ParentSpanID() != c.SpanID() || s.SpanID() == c.SpanID():
		return fmt.Sprintf("client %s below %q, server %s below %s", c.SpanID(), c.ParentSpanID(), s.SpanID(), s.ParentSpanID())
	case c.num(attrBytesSent) != s.num(attrBytesRecv) || c.num(attrBytesRecv) != s.num(attrBytesSent):
		return fmt.Sprintf("%d octets sent, %d received: they are of two connections", c.num(attrBytesSent), s.num(attrBytesRecv))
	case s.StartTimestamp() < c.StartTimestamp()-1000: // the kernel's round-trip time is in whole µs
		return fmt.Sprintf("the server begins %d ns before the client", c.StartTimestamp()-s.StartTimestamp())
	case s.established() < c.established():
		return fmt.Sprintf("the server is established %d ns before the client", c.established()-s.established())
	case c.str(attrConnectionID) == "" || c.str(attrConnectionID) != s.str(attrConnectionID):
		return fmt.Sprintf("the connection is %q and %q", c.str(attrConnectionID), s.str(attrConnectionID))
	}
	return ""
}

// stories gives for each connection id what the log records of a site tell, with the trace, in order.
func (s *site) stories(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, b := range s.logs {
		request := plogotlp.NewExportRequest()
		if err := request.UnmarshalProto(b); err != nil {
			t.Fatal(err)
		}
		for _, rl := range request.Logs().ResourceLogs().All() {
			for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
				id, _ := lr.Attributes().Get(attrConnectionID)
				all[id.Str()] += lr.EventName() + " " + lr.TraceID().String() + "\n"
			}
		}
	}
	return all
}

// TestBothEndsAreOneTrace: two agents on two hosts, which never talk to each other, and 1,000 connections
// between these in both directions, half of them through address translation: each is one trace of two
// spans.
func TestBothEndsAreOneTrace(t *testing.T) {
	const each = 250
	sites := twoSites(t)
	for _, cookies := range []bool{false, true} {
		t.Run(fmt.Sprintf("SYN cookies %v", cookies), func(t *testing.T) {
			for _, s := range sites {
				mode := map[bool]string{false: "1", true: "2"}[cookies] // 2: for every connection
				ip(t, "", "netns", "exec", s.name, "sh", "-c", "echo "+mode+" >/proc/sys/net/ipv4/tcp_syncookies")
				s.trace(t, PairingBothEnds)
			}
			before := syncookies(t, sites)
			blind := actor.Blind(t)
			converse(t, sites, each)
			if got := syncookies(t, sites) - before; cookies != (got >= 4*each) {
				t.Errorf("%d handshakes by SYN cookie: this test shows nothing", got)
			}
			sites[0].end()
			sites[1].end()
			traces := join(t, sites[:]...)
			problems, translated := checkTraces(t, traces, 4*each)
			if translated < 2*each-blind() {
				t.Errorf("%d connections were translated, want %d", translated, 2*each)
			}
			want := map[string]int{"caller-1 -> host-2": 2 * each, "caller-2 -> host-1": 2 * each}
			if d := gocmp.Diff(want, dependencies(traces)); d != "" {
				problems = append(problems, "dependencies (-want +got):\n"+d)
			}
			problems = append(problems, checkStories(t, sites, traces)...)
			if unseen := blind(); unseen > 0 {
				t.Logf("the kernel has run no program for %d state changes: %v", unseen, problems)
				return
			}
			for _, p := range problems {
				t.Error(p)
			}
		})
	}
}

// checkTraces wants n traces, and says how many connections had their addresses translated.
func checkTraces(t *testing.T, traces map[string][]joined, n int) (problems []string, translated int) {
	t.Helper()
	if len(traces) != n {
		problems = append(problems, fmt.Sprintf("%d traces, want %d", len(traces), n))
	}
	sent := map[int64]bool{} // by the clients, each another number of octets
	for id, spans := range traces {
		if w := wrong(spans); w != "" {
			problems = append(problems, "trace "+id+": "+w)
			continue
		}
		for _, sp := range spans {
			if sp.Kind() == ptrace.SpanKindClient {
				sent[sp.num(attrBytesSent)] = true
			}
		}
		if spans[0].str(attrLocalAddr) != spans[1].str(attrPeerAddr) {
			translated++
		}
	}
	if len(sent) != n {
		problems = append(problems, fmt.Sprintf("%d connections are told apart by what they carry, want %d", len(sent), n))
	}
	return problems, translated
}

// checkStories wants the log records of both sites to tell the same of the same connections, each of which is
// a trace.
func checkStories(t *testing.T, sites [2]*site, traces map[string][]joined) (problems []string) {
	t.Helper()
	here, there := sites[0].stories(t), sites[1].stories(t)
	if d := gocmp.Diff(here, there); d != "" {
		problems = append(problems, "log records of one site (-) and the other (+):\n"+d)
	}
	for id, story := range here {
		lines := strings.Fields(story)
		if len(lines) != 4 || lines[0] != nameOpen || lines[2] != nameClose || lines[1] != lines[3] || traces[lines[1]] == nil {
			problems = append(problems, "connection "+id+": "+story)
		}
	}
	return problems
}

// syncookies is how many handshakes have been completed by a SYN cookie.
func syncookies(t *testing.T, sites [2]*site) (n int) {
	t.Helper()
	for _, s := range sites {
		out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", s.name, "cat", "/proc/net/netstat").Output()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if fields[0] != "TcpExt:" {
				continue
			}
			for i, name := range names {
				if value, err := strconv.Atoi(fields[i]); err == nil && name == "SyncookiesRecv" {
					n += value
				}
			}
			names = fields
		}
	}
	return n
}

// conversePaired has the sites converse with and without pairing, and calls check when all is told.
func conversePaired(t *testing.T, sites [2]*site, each int, check func(t *testing.T, pairing string)) {
	for _, pairing := range []string{PairingBothEnds, PairingNone} {
		t.Run(pairing, func(t *testing.T) {
			for _, s := range sites {
				s.trace(t, pairing)
			}
			blind := actor.Blind(t)
			converse(t, sites, each)
			sites[0].end()
			sites[1].end()
			if unseen := blind(); unseen > 0 {
				t.Skipf("the kernel has run no program for %d state changes", unseen)
			}
			check(t, pairing)
		})
	}
}

// TestEachEndAlone: where only one end is traced, a connection is a trace of its own: a client's span is its
// root, a server's has a parent that nobody tells of. Without pairing each end is a trace, and its span the
// root; the ends can be found by the id of the connection still.
func TestEachEndAlone(t *testing.T) {
	const each = 20
	sites := twoSites(t)
	conversePaired(t, sites, each, func(t *testing.T, pairing string) {
		for i := range sites {
			traces := join(t, sites[i])
			if len(traces) != 4*each {
				t.Errorf("site %d: %d traces, want %d", i, len(traces), 4*each)
			}
			for id, spans := range traces {
				isRoot := spans[0].ParentSpanID().IsEmpty()
				if wantRoot := pairing == PairingNone || spans[0].Kind() == ptrace.SpanKindClient; len(spans) != 1 || isRoot != wantRoot {
					t.Errorf("site %d, trace %s: %d spans, root %v, want 1, %v", i, id, len(spans), isRoot, wantRoot)
				}
			}
			if n := len(dependencies(traces)); n != 0 {
				t.Errorf("site %d: %d dependencies of one end alone", i, n)
			}
		}
		if n := len(join(t, sites[:]...)); pairing == PairingNone && n != 8*each {
			t.Errorf("%d traces of both ends, want %d", n, 8*each)
		}
		here, there := sites[0].stories(t), sites[1].stories(t)
		for id := range here {
			if _, ok := there[id]; !ok || id == "" {
				t.Errorf("connection %q is told of at one end alone", id)
			}
		}
		if len(here) != 4*each || len(there) != 4*each {
			t.Errorf("%d and %d connections in the log records, want %d", len(here), len(there), 4*each)
		}
	})
}
