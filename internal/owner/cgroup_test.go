package owner

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	id1      = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	id2      = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	uid      = "87a18a64-b74a-454a-b10b-a4a36059d0a3"
	uidSlice = "87a18a64_b74a_454a_b10b_a4a36059d0a3"
	task     = "529630467358463ab6bbba4e73afe704"
)

// groups are the paths that runtimes and service managers make.
var groups = []struct {
	name, path string
	want       Group // but for its Path
}{
	{"none", "", Group{}},
	{"root", "/", Group{}},
	{"outside of the reader's namespace", "/../..", Group{}},

	{"docker, cgroupfs", "/docker/" + id1, Group{ContainerID: id1, Runtime: "docker"}},
	{"docker, systemd", "/system.slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker"}},
	{"docker, systemd, its own slice", "/docker.slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker"}},
	{"docker, systemd's path with cgroupfs", "/system.slice:docker:" + id1, Group{ContainerID: id1, Runtime: "docker"}},
	{"docker, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker"}},
	{"docker, rootless, cgroupfs", "/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service/docker/" + id1, Group{ContainerID: id1, Runtime: "docker"}},
	{"docker, deleted", "/system.slice/docker-" + id1 + ".scope (deleted)", Group{ContainerID: id1, Runtime: "docker"}},
	{"docker, a systemd in it", "/docker/" + id1 + "/system.slice/nginx.service", Group{ContainerID: id1, Runtime: "docker", Unit: "nginx.service"}},
	{"docker, an init in it", "/system.slice/docker-" + id1 + ".scope/init.scope", Group{ContainerID: id1, Runtime: "docker", Unit: "init.scope"}},
	{"docker in docker", "/docker/" + id1 + "/docker/" + id2, Group{ContainerID: id2, Runtime: "docker"}},
	{"docker in docker, systemd", "/system.slice/docker-" + id1 + ".scope/system.slice/docker-" + id2 + ".scope", Group{ContainerID: id2, Runtime: "docker"}},
	{"docker's daemon", "/system.slice/docker.service", Group{Unit: "docker.service"}},
	{"docker's build", "/docker/buildkit/jfovfdtv1bm3qfbmzg2g9yk5s", Group{}},
	{"GitHub's runner", "/actions_job/" + id1, Group{ContainerID: id1}},

	{"containerd, nerdctl", "/system.slice/nerdctl-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "containerd"}},
	{"containerd, a namespace", "/default/" + id1, Group{ContainerID: id1}},

	{"podman", "/machine.slice/libpod-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "podman"}},
	{"podman, crun", "/machine.slice/libpod-" + id1 + ".scope/container", Group{ContainerID: id1, Runtime: "podman"}},
	{"podman, its monitor", "/machine.slice/libpod-conmon-" + id1 + ".scope", Group{}},
	{"podman, cgroupfs", "/libpod_parent/libpod-" + id1, Group{ContainerID: id1, Runtime: "podman"}},
	{"podman, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id1 + ".scope/container", Group{ContainerID: id1, Runtime: "podman"}},
	{"podman, rootless, in a pod", "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_" + id2 + ".slice/libpod-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "podman"}},
	{"podman, a quadlet", "/system.slice/nginx.service/libpod-payload-" + id1, Group{ContainerID: id1, Runtime: "podman", Unit: "nginx.service"}},
	{"podman, a user's quadlet", "/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service/libpod-payload-" + id1, Group{ContainerID: id1, Runtime: "podman", Unit: "redis.service"}},
	{"podman, beside a quadlet", "/system.slice/nginx.service/runtime", Group{Unit: "nginx.service"}},

	{"Kubernetes, cgroupfs", "/kubepods/burstable/pod" + uid + "/" + id1, Group{ContainerID: id1, PodUID: uid}},
	{"Kubernetes, cgroupfs, guaranteed", "/kubepods/pod" + uid + "/" + id1, Group{ContainerID: id1, PodUID: uid}},
	{"Kubernetes, containerd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSlice + ".slice/cri-containerd-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "containerd", PodUID: uid}},
	{"Kubernetes, containerd, guaranteed", "/kubepods.slice/kubepods-pod" + uidSlice + ".slice/cri-containerd-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "containerd", PodUID: uid}},
	{"Kubernetes, containerd, systemd's path with cgroupfs", "/system.slice/containerd.service/kubepods-besteffort-pod" + uidSlice + ".slice:cri-containerd:" + id1, Group{ContainerID: id1, Runtime: "containerd", PodUID: uid}},
	{"Kubernetes, containerd, the same without slice", "/kuberuntime/containerd/kubepods-pod" + uidSlice + ":cri-containerd:" + id1, Group{ContainerID: id1, Runtime: "containerd", PodUID: uid}},
	{"Kubernetes, cri-o", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uidSlice + ".slice/crio-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "cri-o", PodUID: uid}},
	{"Kubernetes, cri-o, crun", "/kubepods.slice/kubepods-pod" + uidSlice + ".slice/crio-" + id1 + ".scope/container", Group{ContainerID: id1, Runtime: "cri-o", PodUID: uid}},
	{"Kubernetes, cri-o, its monitor", "/kubepods.slice/kubepods-pod" + uidSlice + ".slice/crio-conmon-" + id1 + ".scope", Group{PodUID: uid}},
	{"Kubernetes, cri-o, cgroupfs", "/kubepods/burstable/pod" + uid + "/crio-" + id1, Group{ContainerID: id1, Runtime: "cri-o", PodUID: uid}},
	{"Kubernetes, docker", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSlice + ".slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker", PodUID: uid}},
	{"Kubernetes, a static pod", "/kubepods/burstable/pod" + task + "/" + id1, Group{ContainerID: id1, PodUID: task}},
	{"Kubernetes, a static pod, systemd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + task + ".slice/cri-containerd-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "containerd", PodUID: task}},
	{"Kubernetes, seen from a pod", "/../../kubepods-besteffort-pod" + uidSlice + ".slice/cri-containerd-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "containerd", PodUID: uid}},
	{"Kubernetes, seen from the same pod", "/../cri-containerd-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "containerd"}},
	{"Kubernetes, docker in a pod", "/kubepods/besteffort/pod" + uid + "/" + id1 + "/docker/" + id2, Group{ContainerID: id2, Runtime: "docker", PodUID: uid}},
	{"the kubelet", "/system.slice/kubelet.service", Group{Unit: "kubelet.service"}},
	{"kind", "/docker/" + id2 + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + uidSlice + ".slice/cri-containerd-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "containerd", PodUID: uid}},
	{"kind, cgroupfs", "/docker/" + id2 + "/kubelet/kubepods/besteffort/pod" + uid + "/" + id1, Group{ContainerID: id1, PodUID: uid}},
	{"kind, its kubelet", "/system.slice/docker-" + id1 + ".scope/kubelet.slice/kubelet.service", Group{ContainerID: id1, Runtime: "docker", Unit: "kubelet.service"}},
	{"minikube", "/system.slice/docker-" + id2 + ".scope/kubepods.slice/kubepods-pod" + uidSlice + ".slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker", PodUID: uid}},
	{"k3d", "/docker/" + id2 + "/kubepods/besteffort/pod" + uid + "/" + id1, Group{ContainerID: id1, PodUID: uid}},
	{"k3s, rootless", "/user.slice/user-1000.slice/user@1000.service/app.slice/k3s-rootless.service/k3s_evac/kubepods/burstable/pod" + uid + "/" + id1, Group{ContainerID: id1, PodUID: uid}},
	{"k3s itself", "/system.slice/k3s.service", Group{Unit: "k3s.service"}},
	{"EKS on Fargate", "/kubepods/burstable/pod" + uid + "/" + id1, Group{ContainerID: id1, PodUID: uid}},
	{"MicroK8s", "/system.slice/snap.microk8s.daemon-containerd.service/kubepods/besteffort/pod" + uid + "/" + id1, Group{ContainerID: id1, PodUID: uid}},

	{"ECS", "/ecs/" + task + "/" + id1, Group{ContainerID: id1}},
	{"ECS with the cluster", "/ecs/production/" + task + "/" + id1, Group{ContainerID: id1}},
	{"ECS, systemd", "/ecstasks.slice/ecstasks-" + task + ".slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker"}},
	{"ECS on Fargate", "/ecs/" + task + "/" + task + "-2531612879", Group{ContainerID: task + "-2531612879"}},
	{"AWS Batch", "/ecs/" + task + "/" + task + "-0265927825", Group{ContainerID: task + "-0265927825"}},

	{"garden", "/garden/" + uid, Group{ContainerID: uid, Runtime: "garden"}},
	{"garden under systemd", "/system.slice/garden.service/garden/good/2f57368b-0eda-4e52-64d8-af5c", Group{ContainerID: "2f57368b-0eda-4e52-64d8-af5c", Runtime: "garden"}},
	{"garden, throttled", "/garden/bad/a1b2c3d4-e5f6-4789-8abc-def0", Group{ContainerID: "a1b2c3d4-e5f6-4789-8abc-def0", Runtime: "garden"}},
	{"Mesos", "/mesos/" + uid, Group{ContainerID: uid, Runtime: "mesos"}},
	{"Mesos, nested", "/mesos/11111111-2222-3333-4444-555555555555/mesos/" + uid, Group{ContainerID: uid, Runtime: "mesos"}},
	{"Nomad", "/nomad.slice/share.slice/" + uid + ".web.scope", Group{ContainerName: "web", Runtime: "nomad"}},
	{"Nomad before 1.7", "/nomad.slice/" + uid + ".py.server.scope", Group{ContainerName: "py.server", Runtime: "nomad"}},
	{"Nomad, v1", "/nomad/share/" + uid + ".web", Group{ContainerName: "web", Runtime: "nomad"}},
	{"Nomad, docker", "/nomad.slice/share.slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker"}},

	{"LXC", "/lxc.payload.web1", Group{ContainerName: "web1", Runtime: "lxc"}},
	{"LXC, a unit in it", "/lxc.payload.web1/system.slice/nginx.service", Group{ContainerName: "web1", Runtime: "lxc", Unit: "nginx.service"}},
	{"LXC, a user in it", "/lxc.payload.web1/user.slice/user-0.slice/session-c1.scope", Group{ContainerName: "web1", Runtime: "lxc", Unit: "session-c1.scope"}},
	{"LXC, v1", "/lxc/web1", Group{ContainerName: "web1", Runtime: "lxc"}},
	{"LXC, Proxmox", "/lxc/101/ns/init.scope", Group{ContainerName: "101", Runtime: "lxc", Unit: "init.scope"}},
	{"LXC 3", "/lxc.payload/web1/init.scope", Group{ContainerName: "web1", Runtime: "lxc", Unit: "init.scope"}},
	{"LXC, its monitor", "/lxc.monitor.web1", Group{}},
	{"LXC, libvirt", `/machine.slice/machine-lxc\x2d4242\x2dweb\x2d1.scope`, Group{ContainerName: "web-1", Runtime: "lxc"}},
	{"docker in LXC", "/lxc.payload.web1/system.slice/docker-" + id1 + ".scope", Group{ContainerID: id1, Runtime: "docker"}},
	{"LXC in LXC", "/lxc.payload.outer/lxc.payload.inner/init.scope", Group{ContainerName: "inner", Runtime: "lxc", Unit: "init.scope"}},
	{"nspawn", "/machine.slice/systemd-nspawn@web.service/payload", Group{ContainerName: "web", Runtime: "systemd-nspawn"}},
	{"nspawn, a unit in it", `/machine.slice/systemd-nspawn@web\x2d1.service/payload/system.slice/nginx.service`, Group{ContainerName: "web-1", Runtime: "systemd-nspawn", Unit: "nginx.service"}},
	{"nspawn by hand", `/machine.slice/machine-web\x2d1.scope/payload`, Group{ContainerName: "web-1", Runtime: "systemd-nspawn"}},
	{"libvirt, a virtual machine", `/machine.slice/machine-qemu\x2d1\x2ddebian.scope/libvirt/emulator`, Group{Unit: `machine-qemu\x2d1\x2ddebian.scope`}},

	{"systemd", "/init.scope", Group{Unit: "init.scope"}},
	{"a unit", "/system.slice/sshd.service", Group{Unit: "sshd.service"}},
	{"a template", `/system.slice/system-postgresql.slice/postgresql@17-main.service`, Group{Unit: "postgresql@17-main.service"}},
	{"a delegated unit", "/system.slice/nginx.service/worker/1", Group{Unit: "nginx.service"}},
	{"a session", "/user.slice/user-1000.slice/session-3.scope", Group{Unit: "session-3.scope"}},
	{"a user's manager", "/user.slice/user-1000.slice/user@1000.service/init.scope", Group{Unit: "init.scope"}},
	{"a user's unit", "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service", Group{Unit: "syncthing.service"}},
	{"an application", `/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4242.scope`, Group{Unit: "app-gnome-firefox-4242.scope"}},
	{"a snap", "/user.slice/user-1000.slice/user@1000.service/app.slice/snap.firefox.firefox-" + uid + ".scope", Group{Unit: "snap.firefox.firefox-" + uid + ".scope"}},
	{"a mount", "/system.slice/home.mount", Group{Unit: "home.mount"}},
	{"a slice alone", "/system.slice", Group{}},

	{"a UUID alone", "/user.slice/" + uid + ".scope", Group{Unit: uid + ".scope"}},
	{"a container without a name", "/lxc.payload.", Group{}},
	{"a digest that names nothing", "/build-" + id1, Group{}},
	{"a digest too long", "/docker/0" + id1, Group{}},
	{"capitals", "/docker/" + strings.ToUpper(id1), Group{}},
	{"a pod of another kind", "/podman/pod-x/podx", Group{}},
}

func TestParseGroup(t *testing.T) {
	for _, tt := range groups {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			want.Path = tt.path
			if d := cmp.Diff(want, ParseGroup(tt.path)); d != "" {
				t.Errorf("%s (-want +got):\n%s", tt.path, d)
			}
		})
	}
}

func TestParseGroups(t *testing.T) {
	tests := []struct {
		name, text string
		want       Group
	}{
		{"nothing", "", Group{}},
		{"no lines of this form", "x\n1:y\n\n", Group{}},
		{"version 2", "0::/system.slice/nginx.service\n", Group{Path: "/system.slice/nginx.service", Unit: "nginx.service"}},
		{"version 1", "12:pids:/docker/" + id1 + "\n11:cpu,cpuacct:/docker/" + id1 + "\n1:name=systemd:/docker/" + id1 + "\n", Group{Path: "/docker/" + id1, ContainerID: id1, Runtime: "docker"}},
		{"hybrid", "12:cpuset:/\n4:memory:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service\n0::/system.slice/nginx.service\n", Group{Path: "/system.slice/nginx.service", Unit: "nginx.service"}},
		{"a container in one hierarchy", "5:memory:/system.slice\n3:name=systemd:/system.slice/ssh.service\n2:cpu:/lxc/web1\n0::/\n", Group{Path: "/lxc/web1", ContainerName: "web1", Runtime: "lxc"}},
		{"an id before a name", "2:cpu:/lxc/web1\n1:name=systemd:/lxc/web1/docker/" + id1 + "\n", Group{Path: "/lxc/web1/docker/" + id1, ContainerID: id1, Runtime: "docker"}},
		{"colons in a path", "0::/system.slice:docker:" + id1 + "\n", Group{Path: "/system.slice:docker:" + id1, ContainerID: id1, Runtime: "docker"}},
		{"the root of all", "2:cpu:/\n0::/\n", Group{}},
		{"a pod in one hierarchy", "2:cpu:/system.slice/kubelet.service\n1:name=systemd:/kubepods/pod" + uid + "\n", Group{Path: "/kubepods/pod" + uid, PodUID: uid}},
		{"no last newline", "0::/a", Group{Path: "/a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, ParseGroups(tt.text)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// FuzzParseGroups: whatever a file says, what is taken from it is a part of it.
func FuzzParseGroups(f *testing.F) {
	for _, tt := range groups {
		f.Add("1:name=systemd:" + tt.path + "\n0::/\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		g := ParseGroups(text)
		if !strings.Contains(text, g.Path) || !strings.Contains(g.Path, g.ContainerID) || !strings.Contains(g.Path, g.Unit) ||
			!strings.Contains(unescape(g.Path), g.ContainerName) || !strings.Contains(strings.ReplaceAll(g.Path, "_", "-"), g.PodUID) {
			t.Errorf("%+v of %q", g, text)
		}
		if g.ContainerID != "" && g.ContainerName != "" || g.ContainerID+g.ContainerName == "" && g.Runtime != "" {
			t.Errorf("%+v of %q: one container, in one way", g, text)
		}
	})
}

func BenchmarkParseGroups(b *testing.B) {
	path := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSlice + ".slice/cri-containerd-" + id1 + ".scope\n"
	v1 := ""
	for _, controllers := range []string{"12:pids:", "11:cpu,cpuacct:", "10:memory:", "9:devices:", "1:name=systemd:", "0::"} {
		v1 += controllers + path
	}
	for name, text := range map[string]string{"v2": "0::" + path, "v1": v1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ParseGroups(text)
			}
		})
	}
}
