package exporter

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/merge"
	"github.com/connspan/connspan/internal/owner"
)

// known is what is known of the processes of examples, all but one that had exited.
func known(o owner.ID) *owner.Process {
	if p, ok := processes[o.PID]; ok {
		return p
	}
	return &owner.Process{}
}

var processes = map[uint32]*owner.Process{
	1234: {
		ParentPID: 1200, Executable: "/usr/local/bin/curl-with-a-long-name", User: "alice",
		Args:  []string{"curl", "--oauth2-bearer", "REDACTED", "https://example.com/\n"},
		Group: owner.ParseGroup("/user.slice/user-1000.slice/session-3.scope"),
	},
	77: {
		ParentPID: 60, Executable: "/usr/lib/postgresql/17/bin/postgres",
		Group: owner.ParseGroup("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podd9d7a4c2_7c4b_4d0e_8a9c_5f2f0f5a1b3c.slice/cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope"),
		Attributes: map[string]string{
			"service.name": "orders-db", "service.namespace": "shop", "service.version": "17.2\x01", "service.instance.id": "orders-db-0",
			"deployment.environment.name": "prod", "host.name": "pod", "process.pid": "1", "container.id": "mine",
		},
	},
}

func attributesOf(cfg ResourceConfig, base pcommon.Map, o owner.ID, p *owner.Process) map[string]any {
	m := pcommon.NewMap()
	describe(cfg, base, func(owner.ID) *owner.Process { return &owner.Process{} }).fill(m, o, p)
	return m.AsRaw()
}

func TestResource(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=agent,team=a")
	t.Setenv("OTEL_SERVICE_NAME", "agent")
	base, err := newResource(ResourceConfig{Attributes: map[string]string{"team": "b\n"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	got := base.AsRaw()
	if got["host.name"] == "" {
		t.Error("no host.name")
	}
	if _, ok := got["service.name"]; ok {
		t.Errorf("service.name %v is this program's, not the traced one's", got["service.name"])
	}
	if got["deployment.environment.name"] != "prod" || got["team"] != "b\ufffd" {
		t.Errorf("attributes %v, want prod from the environment and team from the configuration", got)
	}
}

// TestResourceMalformed: what the environment says wrongly is left out, and no reason not to start.
func TestResourceMalformed(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "bad")
	base, err := newResource(ResourceConfig{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := base.Get("host.name"); !ok || v.Str() == "" {
		t.Errorf("attributes %v, want host.name all the same", base.AsRaw())
	}
}

// TestProcessAttributes: the whole Resource of processes of which much, and of which nothing, is known.
func TestProcessAttributes(t *testing.T) {
	events := examples()
	curl, postgres, nobody := ownerOf(events[0]), ownerOf(events[1]), ownerOf(events[5])
	exited := curl
	exited.PID = 1235
	for _, tt := range []struct {
		name string
		cfg  ResourceConfig
		o    owner.ID
		want map[string]any
	}{
		{"of a session", ResourceConfig{CommandLine: true}, curl, map[string]any{
			"host.name": "node-1", "service.name": "curl-with-a-long-name", "service.instance.id": "86908a40-887f-5863-b25c-18ee39cd4613",
			"process.pid": int64(1234), "process.parent_pid": int64(1200), "process.owner": "alice",
			"process.executable.name": "curl-with-a-long-name", "process.executable.path": "/usr/local/bin/curl-with-a-long-name",
			"process.command_args": []any{"curl", "--oauth2-bearer", "REDACTED", "https://example.com/\ufffd"},
			"systemd.unit.name":    "session-3.scope",
		}},
		{"in a pod", ResourceConfig{Attributes: map[string]string{"deployment.environment.name": "test"}}, postgres, map[string]any{
			"host.name": "node-1", "service.name": "orders-db", "service.namespace": "shop", "service.version": "17.2\ufffd",
			"service.instance.id": "4212b070-c601-5ef8-a8ab-ec6df9c86e16", "process.pid": int64(77), "process.parent_pid": int64(60),
			"process.executable.name": "postgres", "process.executable.path": "/usr/lib/postgresql/17/bin/postgres",
			"container.id":           "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			"container.runtime.name": "containerd", "k8s.pod.uid": "d9d7a4c2-7c4b-4d0e-8a9c-5f2f0f5a1b3c",
			"deployment.environment.name": "test",
		}},
		{"exited", ResourceConfig{}, exited, map[string]any{
			"host.name": "node-1", "service.name": "curl", "service.instance.id": "690a6738-9751-52cd-8ba0-ad62d122390f",
			"process.pid": int64(1235), "process.executable.name": "curl",
		}},
		{"of nobody", ResourceConfig{}, nobody, map[string]any{"host.name": "node-1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := hostOnly()
			for name, value := range tt.cfg.Attributes {
				base.PutStr(name, value)
			}
			if d := gocmp.Diff(tt.want, attributesOf(tt.cfg, base, tt.o, known(tt.o))); d != "" {
				t.Errorf("Resource (-want +told):\n%s", d)
			}
		})
	}
}

// TestServiceName: a rule goes before the configuration, that before what the process says, that before
// what runs it, that before its executable, and that before its comm. The kernel's threads are one service.
func TestServiceName(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	nginx := owner.ID{PID: 5, Comm: [16]byte{'n', 'g', 'i', 'n', 'x'}}
	group := func(path string) owner.Process {
		return owner.Process{Executable: "/usr/sbin/nginx-debug", Group: owner.ParseGroup(path)}
	}
	said := group("/system.slice/web.service")
	said.Attributes = map[string]string{"service.name": "said"}
	typed := group("/user.slice/user-0.slice/session-1.scope")
	typed.Args = []string{"nginx", "-c", "/etc/shop.conf"}
	rule := func(m ServiceMatch) []ServiceRule { return []ServiceRule{{Match: m, Name: "ruled"}} }
	for _, tt := range []struct {
		name    string
		process owner.Process
		rules   []ServiceRule
		set     string // of resource.attributes
		want    string
	}{
		{"comm", owner.Process{}, nil, "", "nginx"},
		{"executable", group("/"), nil, "", "nginx-debug"},
		{"thread of the kernel", owner.Process{ParentPID: 2}, nil, "", "kernel"},
		{"child of the second process of a container", owner.Process{ParentPID: 2, Executable: "/usr/sbin/nginx-debug"}, nil, "", "nginx-debug"},
		{"rule for a thread of the kernel", owner.Process{ParentPID: 2}, rule(ServiceMatch{Executable: "ngin?"}), "", "ruled"},
		{"unit", group("/system.slice/web.service"), nil, "", "web"},
		{"template", group("/system.slice/system-web.slice/web@8080.service"), nil, "", "web"},
		{"user's unit", group("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service"), nil, "", "web"},
		{"user's manager", group("/user.slice/user-1000.slice/user@1000.service/init.scope"), nil, "", "nginx-debug"},
		{"user's old manager", group("/user.slice/user-1000.slice/user@1000.service"), nil, "", "nginx-debug"},
		{"session", group("/user.slice/user-1000.slice/session-3.scope"), nil, "", "nginx-debug"},
		{"systemd-run", group("/system.slice/run-u42.service"), nil, "", "nginx-debug"},
		{"older systemd-run", group("/system.slice/run-r0123456789abcdef0123456789abcdef.service"), nil, "", "nginx-debug"},
		{"container with an id", group("/system.slice/docker-" + id + ".scope"), nil, "", "nginx-debug"},
		{"container with a name", group("/lxc.payload.web1"), nil, "", "web1"},
		{"unit in a container", group("/lxc.payload.web1/system.slice/web.service"), nil, "", "web"},
		{"quadlet", group("/system.slice/web.service/libpod-payload-" + id), nil, "", "web"},
		{"environment", said, nil, "", "said"},
		{"configuration", said, nil, "set", "set"},
		{"rule", said, rule(ServiceMatch{Unit: "w?b.service"}), "set", "ruled"},
		{"no rule for it", said, rule(ServiceMatch{Unit: "w?b"}), "", "said"},
		{"first rule", said, append(rule(ServiceMatch{Unit: "web.*"}), ServiceRule{Match: ServiceMatch{Unit: "*"}, Name: "second"}), "", "ruled"},
		{"rule for a name", said, rule(ServiceMatch{Executable: "nginx-debug"}), "", "ruled"},
		{"rule for a path", said, rule(ServiceMatch{Executable: "/usr/*/nginx*"}), "", "ruled"},
		{"rule for comm", owner.Process{}, rule(ServiceMatch{Executable: "nginx"}), "", "ruled"},
		{"rule for a container", group("/docker/" + id), rule(ServiceMatch{Container: "01234567*"}), "", "ruled"},
		{"rule for a container by what runtimes show", group("/docker/" + id), rule(ServiceMatch{Container: id[:12]}), "", "ruled"},
		{"rule for a container's name", group("/lxc.payload.web1"), rule(ServiceMatch{Container: "web?"}), "", "ruled"},
		{"rule for a group", said, rule(ServiceMatch{Cgroup: "/system.slice/*"}), "", "ruled"},
		{"rule for a command", typed, rule(ServiceMatch{Command: "*shop.conf"}), "", "ruled"},
		{"rule for what is not known", owner.Process{}, rule(ServiceMatch{Unit: "*"}), "", "nginx"},
		{"all of a rule", said, rule(ServiceMatch{Unit: "web.service", Executable: "apache*"}), "", "said"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base, cfg := hostOnly(), ResourceConfig{Services: tt.rules}
			if tt.set != "" {
				cfg.Attributes = map[string]string{"service.name": tt.set}
				base.PutStr("service.name", tt.set)
			}
			if got := attributesOf(cfg, base, nginx, &tt.process)["service.name"]; got != tt.want {
				t.Errorf("service.name %q, want %q", got, tt.want)
			}
		})
	}
}

// TestRuleNamespace: a rule may set the namespace, and leaves the process's own where it does not.
func TestRuleNamespace(t *testing.T) {
	o := ownerOf(examples()[1])
	for namespace, want := range map[string]string{"": "shop", "data": "data"} {
		cfg := ResourceConfig{Services: []ServiceRule{{Match: ServiceMatch{Executable: "postgres"}, Name: "db", Namespace: namespace}}}
		got := attributesOf(cfg, hostOnly(), o, known(o))
		if got["service.name"] != "db" || got["service.namespace"] != want {
			t.Errorf("service %v in %v, want db in %s", got["service.name"], got["service.namespace"], want)
		}
	}
}

// TestLogRecordNamesExecutable: a log record and the metrics have the whole name, as its Resource.
func TestLogRecordNamesExecutable(t *testing.T) {
	s := newTestSignals(t, nil)
	table := fill(s, examples()[:1])
	lr := s.logs.take().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()
	if lr[attrExecutable] != "curl-with-a-long-name" || lr[attrPath] != "/usr/local/bin/curl-with-a-long-name" {
		t.Errorf("log record of %v at %v", lr[attrExecutable], lr[attrPath])
	}
	m := collected(s.metrics, 0, table.Each).ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	for i := range m.Len() {
		if m.At(i).Name() != "tcp.connection.opened" {
			continue
		}
		if got := m.At(i).Sum().DataPoints().At(0).Attributes().AsRaw()[attrExecutable]; got != "curl-with-a-long-name" {
			t.Errorf("%s of %v", m.At(i).Name(), got)
		}
		return
	}
	t.Error("no tcp.connection.opened")
}

// TestLookedAtWhenRead: the owner of an event is looked at when the event is read, not when it is its turn.
func TestLookedAtWhenRead(t *testing.T) {
	m, err := merge.New(merge.Config{CPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	var looked []uint32
	x := &Exporter{merge: m, loss: newLoss(1, slog.New(slog.DiscardHandler))}
	x.processes = describe(ResourceConfig{}, hostOnly(), func(o owner.ID) *owner.Process {
		looked = append(looked, o.PID)
		return &owner.Process{}
	})
	sample := make([]byte, event.Size)
	sample[76], sample[80], sample[172] = 1, 42, 2 // ordinal, pid, family
	sample[176], sample[179] = byte(event.Opened), byte(event.SynSent)
	x.take(0, sample)
	if x.malformed != 0 || m.Stats().Pending != 1 || !slices.Equal(looked, []uint32{42}) {
		t.Errorf("%d malformed, %d pending, looked at %v, want 42", x.malformed, m.Stats().Pending, looked)
	}
}

// resourcesOf runs an Exporter until the function that it gives is called, which then gives the Resource of
// each process that was told of.
func resourcesOf(t *testing.T, change func(*Config)) func() map[int64]map[string]any {
	t.Helper()
	cfg := NewDefaultConfig()
	if change != nil {
		change(&cfg)
	}
	var mu sync.Mutex
	told := map[int64]map[string]any{}
	sink, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		mu.Lock()
		defer mu.Unlock()
		for _, rl := range ld.ResourceLogs().All() {
			attributes := rl.Resource().Attributes()
			if pid, ok := attributes.Get(attrPID); ok {
				told[pid.Int()] = attributes.AsRaw()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	x, err := New(cfg, Consumers{Logs: []consumer.Logs{sink}}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return func() map[int64]map[string]any {
		stop()
		return maps.Clone(told)
	}
}

// TestResourceOfProcess: a real process is told of by what it calls itself, and by a rule.
func TestResourceOfProcess(t *testing.T) {
	t.Setenv("OTEL_SERVICE_NAME", "orders")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=shop,service.version=1.2")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		want   map[string]any
	}{
		"environment": {nil, map[string]any{attrServiceName: "orders", attrServiceNamespace: "shop", "service.version": "1.2", "process.command_args": nil}},
		"no environment": {func(c *Config) { c.Resource.Environment = false }, map[string]any{
			attrServiceName: filepath.Base(self), attrServiceNamespace: nil, "service.version": nil,
		}},
		"a rule, and the command line": {func(c *Config) {
			c.Resource.CommandLine = true
			c.Resource.Services = []ServiceRule{{Match: ServiceMatch{Command: self}, Name: "ruled"}}
		}, map[string]any{attrServiceName: "ruled", attrServiceNamespace: "shop", "process.command_args": []any{self}}},
	} {
		t.Run(name, func(t *testing.T) {
			told := resourcesOf(t, tt.change)
			p := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 1, Request: 1, Reply: 1})
			p.Report()
			time.Sleep(200 * time.Millisecond) // for several rounds, the process is there
			p.Kill()
			got := told()[int64(p.PID())]
			tt.want[attrExecutable], tt.want[attrPath], tt.want["process.parent_pid"] = filepath.Base(self), self, int64(os.Getpid())
			for attribute, want := range tt.want {
				if d := gocmp.Diff(want, got[attribute]); d != "" {
					t.Errorf("%s (-want +told):\n%s", attribute, d)
				}
			}
		})
	}
}
