package exporter

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/connspan/connspan/internal/actor"
)

const (
	handmadeID  = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	handmadePod = "87a18a64-b74a-454a-b10b-a4a36059d0a3"
	handmadeIn  = "kubepods-burstable-pod87a18a64_b74a_454a_b10b_a4a36059d0a3.slice/"
)

// handmade are the control groups of containers, and what is told of who is in them beside the container's id.
var handmade = []struct {
	version, path string
	want          map[string]any
}{
	{"version 2", "system.slice/docker-" + handmadeID + ".scope", map[string]any{"container.runtime.name": "docker"}},
	{"version 2", handmadeIn + "cri-containerd-" + handmadeID + ".scope", map[string]any{"container.runtime.name": "containerd", "k8s.pod.uid": handmadePod}},
	{"version 2", handmadeIn + "crio-" + handmadeID + ".scope/container", map[string]any{"container.runtime.name": "cri-o", "k8s.pod.uid": handmadePod}},
	{"version 2", "machine.slice/libpod-" + handmadeID + ".scope/container", map[string]any{"container.runtime.name": "podman"}},
	{"version 2", "docker/" + handmadeID + "/system.slice/web.service", map[string]any{"container.runtime.name": "docker", attrUnit: "web.service", attrServiceName: "web"}},
	{"version 1", "docker/" + handmadeID, map[string]any{"container.runtime.name": "docker"}},
	{"version 1", "kubepods/burstable/pod" + handmadePod + "/" + handmadeID, map[string]any{"k8s.pod.uid": handmadePod}},
	{"version 1", "docker/0" + handmadeID[1:] + "/kubelet/kubepods/besteffort/pod" + handmadePod + "/" + handmadeID, map[string]any{"k8s.pod.uid": handmadePod}},
}

// TestContainers: containers made as runtimes make them, each with a control group, namespaces of its own of all
// kinds but for users, and an executable that is in its own file system alone. From outside each is told with
// what its control group says, and with what it executes; also when it exits at once.
func TestContainers(t *testing.T) {
	for _, tool := range []string{"bash", "unshare", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v; it is in the packages bash, util-linux and mount", err)
		}
	}
	for _, stays := range []bool{true, false} {
		t.Run(fmt.Sprintf("stays %v", stays), func(t *testing.T) {
			root := t.TempDir()
			told := resourcesOf(t, func(cfg *Config) {
				cfg.Tracer.RingSize = 16 << 20 // whatever else happens on the machine
				cfg.Filter = []FilterRule{
					{Include: &FilterMatch{Executable: []string{root + "/*"}}},
					{Exclude: &FilterMatch{CIDR: []string{"0.0.0.0/0", "::/0"}}},
				}
			})
			ran := map[int]bool{} // some control groups there may not be
			for i, c := range handmade {
				t.Run(c.version+", "+c.path, func(t *testing.T) {
					runContainer(t, makeGroups(t, c.version, c.path), filepath.Join(root, fmt.Sprint("app", i)), stays)
					ran[i] = true
				})
			}
			byPath := map[any]map[string]any{}
			for _, attributes := range told() {
				byPath[attributes[attrPath]] = attributes
			}
			for i, c := range handmade {
				name := fmt.Sprint("app", i)
				path := filepath.Join(root, name)
				want := map[string]any{
					attrPath: path, attrExecutable: name, attrServiceName: name, "container.id": handmadeID,
					"container.runtime.name": nil, "k8s.pod.uid": nil, attrUnit: nil, "process.owner": nil,
				}
				maps.Copy(want, c.want)
				if !ran[i] {
					continue
				}
				for attribute, value := range want {
					if d := gocmp.Diff(value, byPath[path][attribute]); d != "" {
						t.Errorf("%s, %s: %s (-want +told):\n%s", c.version, c.path, attribute, d)
					}
				}
			}
		})
	}
}

// makeGroups makes a path of control groups, and gives the directory of the last.
func makeGroups(t *testing.T, version, path string) string {
	t.Helper()
	names := strings.Split(path, "/")
	dir := makeGroup(t, version, names[0])
	for _, name := range names[1:] {
		made := filepath.Join(dir, name)
		if err := os.Mkdir(made, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // as soon as the kernel has buried the last process in it
			eventually(t, func() bool { return os.Remove(made) == nil }, nil)
		})
		dir = made
	}
	return dir
}

// runContainer has a container's only process connect, stay for a while or exit at once, and waits for its end.
func runContainer(t *testing.T, group, app string, stays bool) {
	t.Helper()
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	here := actor.NewNetNS(t)
	var server net.Listener
	here.Do("listening", func() (err error) {
		server, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	t.Cleanup(func() { _ = server.Close() })
	connect := fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", server.Addr().(*net.TCPAddr).Port)
	if stays {
		connect += "; read -u 3; true"
	}
	cmd := exec.Command(shell, "-c", fmt.Sprintf(
		`echo $$ >%s/cgroup.procs && exec unshare --cgroup --mount --uts --ipc --pid --fork --kill-child %s -c '
			mount --make-rprivate / && mount -t tmpfs tmpfs %s && cp %s %s && exec %[5]s -c "%s"'`,
		group, shell, filepath.Dir(app), shell, app, connect))
	cmd.Stderr = t.Output()
	here.Do("starting a container", cmd.Start)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if conn, err := server.Accept(); err == nil {
			accepted <- conn
		}
	}()
	select {
	case conn := <-accepted:
		if stays { // for several rounds: it is seen in /proc
			time.Sleep(200 * time.Millisecond)
		}
		_ = conn.Close()
		err = <-ended
	case err = <-ended:
		_ = server.Close()
		if conn, ok := <-accepted; ok {
			_ = conn.Close()
		}
	}
	if err != nil {
		t.Errorf("running a container: %v", err)
	}
}
