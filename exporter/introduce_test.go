package exporter

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/connspan/connspan/internal/actor"
)

// TestShortLived: processes that connect once and exit at once are all named, and so is what they ran in:
// long before anybody reads the rings they are gone, and so is what /proc had of them.
func TestShortLived(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash, whose /dev/tcp connects without another program")
	}
	if shell, err = filepath.EvalSymlinks(shell); err != nil {
		t.Fatal(err)
	}
	processes := 2000
	if testing.Short() {
		processes = 200
	}
	for _, version := range []string{"version 2", "version 1"} {
		t.Run("cgroup "+version, func(t *testing.T) {
			id := strings.Repeat("0123456789abcdef", 4)
			group := makeGroup(t, version, "docker-"+id+".scope")
			missing := shortLived(t, shell, group, processes/2, map[string]string{
				attrPath: shell, attrExecutable: "bash", "container.id": id, "container.runtime.name": "docker",
			})
			if len(missing) > 0 {
				t.Errorf("%d of %d processes were not named; the first:\n%s", len(missing), processes/2, missing[0])
			}
		})
	}
}

// shortLived gives those that were not told with the attributes.
func shortLived(t *testing.T, shell, group string, processes int, attributes map[string]string) (wrong []string) {
	t.Helper()
	blind := actor.Blind(t)
	server := listen(t)
	resources := map[int64]map[string]any{} // by pid
	var mu sync.Mutex
	tr := startTraceTo(t, allowedCPUs(t), func(cfg *Config, to *Consumers, _ *trace) {
		// Whatever else happens on this host is to find room, too.
		cfg.Tracer.Interval, cfg.Tracer.RingSize = NewDefaultConfig().Tracer.Interval, 16<<20
		sink, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
			mu.Lock()
			defer mu.Unlock()
			for _, rl := range ld.ResourceLogs().All() {
				if told := read(rl.ScopeLogs().At(0).LogRecords().At(0)); told.Peer == server {
					resources[told.PID] = rl.Resource().Attributes().AsRaw()
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		to.Logs = append(to.Logs, sink)
	})
	const crowd = 4
	var shells sync.WaitGroup
	for range crowd {
		cmd := exec.Command(shell, "-c", fmt.Sprintf(
			`echo $$ > %s/cgroup.procs && for ((i = 0; i < %d; i++)); do %s -c 'exec 3<>/dev/tcp/%s/%d'; done`,
			group, processes/crowd, shell, server.Addr(), server.Port()))
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		shells.Go(func() { _ = cmd.Wait() })
	}
	shells.Wait()
	tr.stop()
	unseen := blind()
	mu.Lock()
	defer mu.Unlock()
	if len(resources) < processes-unseen || len(resources) > processes {
		t.Errorf("told of %d processes, want %d, less at most %d", len(resources), processes, unseen)
	}
	for pid, got := range resources {
		for name, want := range attributes {
			if got[name] != want {
				wrong = append(wrong, fmt.Sprintf("process %d: %s is %v, want %q; %v", pid, name, got[name], want, got))
				break
			}
		}
	}
	return wrong
}

// listen accepts whatever comes, and closes it.
func listen(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// makeGroup makes a control group as a container runtime would, below one of this test's, and gives its
// directory.
func makeGroup(t *testing.T, version, name string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		unified := version == "version 2" && fields[2] == "cgroup2"
		legacy := version == "version 1" && fields[2] == "cgroup" && strings.Contains(","+fields[3]+",", ",pids,")
		if !unified && !legacy {
			continue
		}
		parent := filepath.Join(fields[1], "connspan-test-"+strconv.Itoa(os.Getpid()))
		dir := filepath.Join(parent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // as soon as the kernel has buried the last process in it
			eventually(t, func() bool { return os.Remove(dir) == nil && os.Remove(parent) == nil }, nil)
		})
		return dir
	}
	t.Skip("needs a mounted cgroup file system of " + version)
	return ""
}
