package exporter

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

const (
	curlPID, postgresPID, namelessPID = 1234, 77, 4
	postgresContainer                 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// candidates are a client, a server, one whose owner has left nothing but its name, and one of which
// neither owner nor role is known.
func candidates() map[string]*event.Event {
	ends := func(local, peer string) event.Event {
		return event.Event{Kind: event.Opened, NetNS: 4026531840, Local: netip.MustParseAddrPort(local), Peer: netip.MustParseAddrPort(peer)}
	}
	client := ends("10.0.0.1:4242", "10.1.0.1:5432")
	client.Role, client.PID, client.OwnerStarted = event.Client, curlPID, 5
	server := ends("[fd00::1]:5432", "[fd00::2]:443")
	server.Role, server.PID, server.OwnerStarted, server.NetNS = event.Server, postgresPID, 5, 4026532000
	nameless := ends("127.0.0.1:4242", "127.0.0.1:80")
	nameless.Role, nameless.PID, nameless.Comm = event.Client, namelessPID, event.Comm{'n', 'c'}
	unknown := ends("10.0.0.1:4242", "192.0.2.1:443")
	return map[string]*event.Event{"client": &client, "server": &server, "nameless": &nameless, "unknown": &unknown}
}

// TestFilter: which connections the first rule that matches leaves, and which it takes.
func TestFilter(t *testing.T) {
	include := func(m FilterMatch) FilterRule { return FilterRule{Include: &m} }
	exclude := func(m FilterMatch) FilterRule { return FilterRule{Exclude: &m} }
	rest := exclude(FilterMatch{CIDR: []string{"0.0.0.0/0", "::/0"}})
	for _, tt := range []struct {
		name  string
		rules []FilterRule
		want  string // who is told of, in alphabetical order
	}{
		{"no rule", nil, "client nameless server unknown"},
		{"all are excluded", []FilterRule{rest}, ""},
		{"none is excluded", []FilterRule{include(FilterMatch{CIDR: []string{"::/0"}})}, "client nameless server unknown"},
		{"loopback", []FilterRule{exclude(FilterMatch{CIDR: []string{"127.0.0.0/8", "::1/128"}})}, "client server unknown"},
		{"the peer's address, not the local one", []FilterRule{include(FilterMatch{CIDR: []string{"10.0.0.0/24"}}), rest}, ""},
		{"a prefix with more than it needs", []FilterRule{include(FilterMatch{CIDR: []string{"10.1.2.3/16"}}), rest}, "client"},
		{"IPv6", []FilterRule{include(FilterMatch{CIDR: []string{"fd00::/8"}}), rest}, "server"},
		{"the server's port", []FilterRule{include(FilterMatch{Port: []int{5432}}), rest}, "client server"},
		{"the client's port is none", []FilterRule{include(FilterMatch{Port: []int{4242, 443}}), rest}, "unknown"},
		{"role", []FilterRule{include(FilterMatch{Role: []string{"client"}}), rest}, "client nameless"},
		{"either role is not unknown", []FilterRule{include(FilterMatch{Role: []string{"client", "server"}}), rest}, "client nameless server"},
		{"netns", []FilterRule{exclude(FilterMatch{NetNS: []NetNS{"4026532000", "1"}})}, "client nameless unknown"},
		{"executable", []FilterRule{include(FilterMatch{Executable: []string{"postgres"}}), rest}, "server"},
		{"executable by path", []FilterRule{include(FilterMatch{Executable: []string{"/usr/lib/*/postgres"}}), rest}, "server"},
		{"executable by another path", []FilterRule{include(FilterMatch{Executable: []string{"/opt/*"}}), rest}, ""},
		{"executable that has exited", []FilterRule{include(FilterMatch{Executable: []string{"n?"}}), rest}, "nameless"},
		{"any executable", []FilterRule{exclude(FilterMatch{Executable: []string{"*"}})}, "unknown"},
		{"container", []FilterRule{include(FilterMatch{Container: []string{postgresContainer}}), rest}, "server"},
		{"container by short id", []FilterRule{include(FilterMatch{Container: []string{postgresContainer[:12]}}), rest}, "server"},
		{"container by too short an id", []FilterRule{include(FilterMatch{Container: []string{postgresContainer[:11]}}), rest}, ""},
		{"any container", []FilterRule{exclude(FilterMatch{Container: []string{"*"}})}, "client nameless unknown"},
		{"service, as the process says", []FilterRule{include(FilterMatch{Service: []string{"orders-*"}}), rest}, "server"},
		{"service, as a rule says", []FilterRule{include(FilterMatch{Service: []string{"downloads"}}), rest}, "client"},
		{"service by executable", []FilterRule{include(FilterMatch{Service: []string{"nc"}}), rest}, "nameless"},
		{"all criteria", []FilterRule{include(FilterMatch{Port: []int{5432}, Role: []string{"client"}, Executable: []string{"curl*"}}), rest}, "client"},
		{"not all criteria", []FilterRule{include(FilterMatch{Port: []int{5432}, Role: []string{"server"}, Executable: []string{"curl*"}}), rest}, ""},
		{
			"the first rule", []FilterRule{include(FilterMatch{Port: []int{5432}}), exclude(FilterMatch{Role: []string{"client"}})}, "client server unknown",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := NewDefaultConfig()
			cfg.Filter = tt.rules
			cfg.Resource.Services = []ServiceRule{{Name: "downloads", Match: ServiceMatch{Executable: "curl*"}}}
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			f, err := newFilter(cfg.Filter, describe(cfg.Resource, hostOnly(), known))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, name := range []string{"client", "nameless", "server", "unknown"} {
				if f.wants(candidates()[name]) {
					got = append(got, name)
				}
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("told of %q, want %q", got, tt.want)
			}
		})
	}
}

// TestFilterPorts: a port is taken as it is written, or not at all.
func TestFilterPorts(t *testing.T) {
	for _, tt := range []struct {
		given any
		want  string // the end of the error; empty: none
	}{
		{80, ""},
		{65535.0, ""},
		{80.5, "80.5, want a whole number, 1 to 65535"},
		{-0.5, "-0.5, want a whole number, 1 to 65535"},
		{65536.0, "65536, want a whole number, 1 to 65535"},
		{1e20, "1e+20, want a whole number, 1 to 65535"},
		{math.NaN(), "NaN, want a whole number, 1 to 65535"},
		{65536, "filter::0::exclude::port: 65536, want 1 to 65535"},
	} {
		cfg := NewDefaultConfig()
		err := confmap.NewFromStringMap(map[string]any{
			"filter": []any{map[string]any{"exclude": map[string]any{"port": []any{22, tt.given}}}},
		}).Unmarshal(&cfg)
		if err == nil {
			err = cfg.Validate()
		}
		if tt.want != "" {
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("%v: error %v, want %s", tt.given, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", tt.given, err)
		} else if got := fmt.Sprint(cfg.Filter[0].Exclude.Port); got != fmt.Sprintf("[22 %v]", tt.given) {
			t.Errorf("%v: taken as %s", tt.given, got)
		}
	}
}

// TestFilterByConfiguredService: a name that the configuration gives to all processes is that of each.
func TestFilterByConfiguredService(t *testing.T) {
	cfg := ResourceConfig{Attributes: map[string]string{attrServiceName: "all"}}
	base := hostOnly()
	base.PutStr(attrServiceName, "all")
	f, err := newFilter([]FilterRule{{Exclude: &FilterMatch{Service: []string{"all"}}}}, describe(cfg, base, known))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"client": false, "server": false, "nameless": false, "unknown": true} {
		if got := f.wants(candidates()[name]); got != want {
			t.Errorf("%s is told of: %v, want %v", name, got, want)
		}
	}
}

// TestNetNSByPath: a path is followed to its namespace, and to nothing else.
func TestNetNSByPath(t *testing.T) {
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "net")
	if err := os.Symlink("/proc/self/ns/net", link); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[NetNS]string{
		"4026532000": "4026532000", "/proc/self/ns/net": fmt.Sprint(own.Ino), NetNS(link): fmt.Sprint(own.Ino),
		"/proc/self/ns/mnt": "filter::0::exclude::netns: /proc/self/ns/mnt: want a network namespace",
		"/dev/null":         "filter::0::exclude::netns: /dev/null: want a network namespace",
		"/nonexistent":      "filter::0::exclude::netns: opening /nonexistent: no such file or directory",
	} {
		f, err := newFilter([]FilterRule{{Exclude: &FilterMatch{NetNS: []NetNS{n}}}}, nil)
		got := fmt.Sprint(err)
		for _, inode := range []uint32{uint32(own.Ino), 4026532000} {
			if err == nil && !f.wants(&event.Event{NetNS: inode}) {
				got = fmt.Sprint(inode)
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", n, got, want)
		}
	}
}

// TestFilteredSignals: of a connection that is filtered no signal tells anything, of another each tells all,
// whatever becomes known of its owner later. The metrics say so while it is open, too.
func TestFilteredSignals(t *testing.T) {
	s := &sinks{}
	to := Consumers{Logs: []consumer.Logs{s}, Metrics: []consumer.Metrics{s}, Traces: []consumer.Traces{s}}
	x := withoutTracer(t, to, 0)
	f, err := newFilter([]FilterRule{{Exclude: &FilterMatch{Executable: []string{"postgres"}}}}, x.processes)
	if err != nil {
		t.Fatal(err)
	}
	x.table.Filter = f.wants
	// Two servers that postgres, or curl, listened for; a worker of the other kind ends each of them.
	for i, pids := range [][2]uint32{{postgresPID, curlPID}, {curlPID, postgresPID}} {
		events := life(pids[0], uint64(i+1), second, time.Second, 100)
		events[1].PID, events[1].OwnerSource = pids[1], event.OwnerClose
		beat := *events[0]
		beat.Kind, beat.PID, beat.BytesSent = event.Sampled, pids[1], 50
		x.apply(t.Context(), events[0])
		x.apply(t.Context(), &beat)
		beats := int64(0)
		x.table.Heartbeat(2*second, 0, func(*conn.Record) { beats++ })
		x.collect(t.Context(), 2*second)
		if active := s.sum(int(pids[1]), "tcp.connection.active", "", ""); active != int64(i) || beats != active {
			t.Errorf("%d connections active, %d heartbeats, want %d", active, beats, i)
		}
		x.apply(t.Context(), events[1])
	}
	failed := life(postgresPID, 3, second, 0, 0)[0]
	failed.Kind = event.Failed
	stray := life(postgresPID, 4, second, time.Second, 0)[1]
	gone := life(postgresPID, 5, second, 0, 0)[0]
	for _, e := range []*event.Event{failed, stray, gone} {
		x.apply(t.Context(), e)
	}
	x.table.Reconcile(3*second, 3*second, func(uint64) bool { return false }, x.tell(t.Context(), x.signals.add))
	x.collect(t.Context(), 3*second)
	x.ship(t.Context())
	var names []string
	for _, lr := range s.logs {
		names = append(names, lr.EventName())
	}
	if d := gocmp.Diff([]string{nameOpen, nameClose}, names); d != "" {
		t.Errorf("log records (-want +got):\n%s", d)
	}
	last := s.metrics[len(s.metrics)-1]
	sent := 0.0
	for _, p := range points(last, "tcp.connection.io") {
		sent += p.Value
	}
	if opened := points(last, "tcp.connection.opened"); len(s.spans) != 1 || len(opened) != 1 || sent != 100 {
		t.Errorf("%d spans, opened %v, %v octets; want 1, 1 and 100", len(s.spans), opened, sent)
	}
	want := conn.Stats{Opened: 2, Closed: 2, Failed: 1, Sampled: 1, Strays: 1, Synthesized: 1}
	if d := gocmp.Diff(want, x.table.Filtered()); d != "" {
		t.Errorf("filtered (-want +got):\n%s", d)
	}
}

// TestFilteredTrace: of real connections, found open and new ones, those that are filtered are all counted,
// and nothing is told of them, be it the programs that leave them out or user space. The counters account for
// each of the others, as startTrace sees to.
func TestFilteredTrace(t *testing.T) {
	const held, turns = 10, 3
	for _, tt := range []struct {
		name   string
		rules  func(FilterMatch) []FilterRule // that exclude what matches
		events bool                           // user space has seen some of it
	}{
		{"by the programs", func(m FilterMatch) []FilterRule { return []FilterRule{{Exclude: &m}} }, false},
		{"by user space", func(m FilterMatch) []FilterRule {
			return []FilterRule{{Include: &FilterMatch{Executable: []string{"none of them"}}}, {Exclude: &m}}
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := actor.Plan{Listen: "127.0.0.1:0", Connections: held, Request: 10}
			left := actor.Start(t, "hold", plan)
			port := left.Report().Local.Port()
			told := actor.Start(t, "hold", plan)
			told.Report()
			blind := actor.Blind(t)
			tr := startTrace(t, func(cfg *Config) {
				cfg.Tracer.RingSize = 16 << 20 // whatever else happens on the machine
				cfg.Logs.Heartbeat = time.Second
				cfg.Filter = tt.rules(FilterMatch{Port: []int{int(port)}})
			})
			tr.await(2*held, told.PID())
			for range turns {
				for _, p := range []*actor.Process{left, told} {
					p.Cue()
					p.Report()
				}
			}
			// Two ends each: half of the connections have ended, and as many are new, in each turn.
			tr.await(2*(held+turns*held), told.PID())
			left.Kill()
			told.Kill()
			tr.await(2*(held+turns*held/2)*2, told.PID())
			tr.stop()
			if got := tr.of(left.PID()); len(got) != 0 {
				t.Errorf("told, and not to be: %+v", got)
			}
			made := 2 * (held + turns*held/2)
			if missing := made - int(tr.stats.Filtered); missing < 0 || missing > blind() {
				t.Errorf("%d connections are filtered, want %d; stats %+v", tr.stats.Filtered, made, tr.stats)
			}
			if (tr.stats.FilteredEvents != 0) != tt.events {
				t.Errorf("%d events of connections that are filtered", tr.stats.FilteredEvents)
			}
		})
	}
}

// TestFilteredAgain: a socket that carries two connections, one after the other, has both counted, at both
// ends.
func TestFilteredAgain(t *testing.T) {
	here := actor.NewNetNS(t)
	tr := startTrace(t, func(cfg *Config) {
		cfg.Filter = []FilterRule{{Exclude: &FilterMatch{NetNS: []NetNS{NetNS(fmt.Sprint(here.Inode()))}}}}
	})
	blind := actor.Blind(t)
	again := here.Caller()
	l := again.Listen("127.0.0.1:0", 16)
	c := again.Socket(unix.AF_INET, 0)
	for range 2 {
		c.Connect(l.Local)
		a := l.Accept()
		c.Disconnect()
		a.Close()
	}
	tr.stop()
	if missing := 4 - int(tr.stats.Filtered); missing < 0 || missing > blind() {
		t.Errorf("%d connections are filtered, want 4; stats %+v", tr.stats.Filtered, tr.stats)
	}
	if got := tr.of(again.PID()); len(got) != 0 {
		t.Errorf("told, and not to be: %+v", got)
	}
}

// TestEarlyFilter: the programs decide as user space would, by each thing that they know of a connection.
func TestEarlyFilter(t *testing.T) {
	here := ownNetNS(t)
	four := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 1})
	six := actor.Start(t, "hold", actor.Plan{Listen: "[::1]:0", Connections: 1})
	port := int(six.Report().Local.Port())
	four.Report()
	only := func(m FilterMatch) []FilterRule {
		if m.NetNS == nil {
			m.NetNS = []NetNS{here} // whatever else happens on the machine
		}
		return []FilterRule{{Include: &m}, {Exclude: &FilterMatch{CIDR: []string{"0.0.0.0/0", "::/0"}}}}
	}
	for _, tt := range []struct {
		name  string
		rules []FilterRule
		want  string // the ends that are told of, in alphabetical order
	}{
		{"prefix", only(FilterMatch{CIDR: []string{"127.0.0.0/8"}}), "client4 server4"},
		{"long prefix", only(FilterMatch{CIDR: []string{"127.0.0.2/31", "::/127", "::1/128"}}), "client6 server6"},
		{"the other family's octets", only(FilterMatch{CIDR: []string{"7f00::/8", "0.0.0.1/32"}}), ""},
		{"port", only(FilterMatch{Port: []int{1, port}}), "client6 server6"},
		{"role", only(FilterMatch{Role: []string{"client"}}), "client4 client6"},
		{"both roles", only(FilterMatch{Role: []string{"client", "server"}}), "client4 client6 server4 server6"},
		{"netns", only(FilterMatch{NetNS: []NetNS{"1", here}}), "client4 client6 server4 server6"},
		{"another netns", only(FilterMatch{NetNS: []NetNS{"1"}}), ""},
		{"all of them", only(FilterMatch{NetNS: []NetNS{here}, Role: []string{"server"}, Port: []int{port}, CIDR: []string{"::/0"}}), "server6"},
		{
			"the first rule", []FilterRule{
				{Exclude: &FilterMatch{Port: []int{port}, Role: []string{"client"}}},
				{Include: &FilterMatch{CIDR: []string{"::/0"}, NetNS: []NetNS{here}}},
				{Exclude: &FilterMatch{CIDR: []string{"0.0.0.0/0", "::/0"}}},
			}, "server6",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := newFilter(tt.rules, nil)
			if err != nil || len(f.early()) != len(tt.rules) {
				t.Fatalf("%d rules for the programs of %d, error %v", len(f.early()), len(tt.rules), err)
			}
			tr := startTrace(t, func(cfg *Config) { cfg.Filter = tt.rules })
			eventually(t, func() bool { return tr.now().Running }, nil)
			tr.stop()
			var got []string
			for _, r := range tr.of(four.PID(), six.PID()) {
				got = append(got, r.Role+map[bool]string{true: "4", false: "6"}[r.Local.Addr().Is4()])
			}
			slices.Sort(got)
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("told of %q, want %q; stats %+v", got, tt.want, tr.stats)
			}
			if tr.stats.FilteredEvents != 0 {
				t.Errorf("%d events are left for user space", tr.stats.FilteredEvents)
			}
		})
	}
}

// ownNetNS gives the calling goroutine, and the actors that it starts, a network namespace of their own.
func ownNetNS(t *testing.T) NetNS {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the namespace ends with the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ip(t, "", "link", "set", "lo", "up")
	var own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		t.Fatal(err)
	}
	return NetNS(fmt.Sprint(own.Ino))
}

// TestEarlyRules: the programs get what they can decide and have room for, and nothing that would change
// nothing.
func TestEarlyRules(t *testing.T) {
	port := FilterRule{Exclude: &FilterMatch{Port: []int{22}}}
	name := FilterRule{Exclude: &FilterMatch{Port: []int{22}, Executable: []string{"sshd"}}}
	include := FilterRule{Include: &FilterMatch{Role: []string{"client"}}}
	full := FilterRule{Exclude: &FilterMatch{Port: []int{1, 2, 3, 4, 5, 6, 7, 8, 9}}}
	for _, tt := range []struct {
		name  string
		rules []FilterRule
		want  int
	}{
		{"none", nil, 0},
		{"all", []FilterRule{port, include, port}, 3},
		{"up to a name", []FilterRule{port, name, port}, 1},
		{"up to one that is too large", []FilterRule{port, full, port}, 1},
		{"nothing is excluded", []FilterRule{include, include}, 0},
		{"nothing is excluded at the end", []FilterRule{include, port, include}, 2},
		{"too many", slices.Repeat([]FilterRule{port}, 20), 8},
	} {
		f, err := newFilter(tt.rules, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(f.early()); got != tt.want {
			t.Errorf("%s: %d rules for the programs, want %d", tt.name, got, tt.want)
		}
	}
}
