package owner

import "strings"

// Group is what the control group of a process says of it. What it does not say is empty.
type Group struct {
	Path string // the one that says most, as /proc/PID/cgroup has it

	ContainerID   string // 64 hexadecimal digits for most runtimes
	ContainerName string // of the runtimes whose paths have a name (LXC, systemd-nspawn, Nomad)
	Runtime       string // docker, containerd, cri-o, podman, lxc, systemd-nspawn, garden, mesos, nomad
	PodUID        string // of the Kubernetes pod: a UUID, or the digest of a static pod's manifest

	// Unit is the systemd unit, of the system's or a user's manager, or of the one in the container.
	Unit string
}

// runtimes are by what they put before a container's id.
var runtimes = map[string]string{
	"docker": "docker", "cri-containerd": "containerd", "containerd": "containerd", "nerdctl": "containerd",
	"crio": "cri-o", "libpod": "podman", "libpod-payload": "podman",
}

// parents are by the directory that holds a container's, where only one runtime has such.
var parents = map[string]string{"docker": "docker", "libpod_parent": "podman"}

// ParseGroups reads a file /proc/PID/cgroup.
func ParseGroups(text string) Group {
	var paths []string
	for line := range strings.Lines(text) {
		if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(fields) == 3 {
			paths = append(paths, fields[2])
		}
	}
	return bestGroup(paths)
}

// bestGroup: the hierarchies of version 1 may differ. The first that knows the container counts, else the
// first that knows the pod, or the unit.
func bestGroup(paths []string) Group {
	var best Group
	for _, path := range paths {
		if path == best.Path {
			continue
		}
		if g := ParseGroup(path); g.rank() > best.rank() {
			best = g
		}
	}
	return ParseGroup(strings.Clone(best.Path)) // or the whole text would be kept
}

// contained reports whether it is in a container, which has users of its own.
func (g Group) contained() bool { return g.ContainerID != "" || g.ContainerName != "" }

// rank is the higher, the more g says.
func (g Group) rank() int {
	switch {
	case g.ContainerID != "":
		return 5
	case g.ContainerName != "":
		return 4
	case g.PodUID != "":
		return 3
	case g.Unit != "":
		return 2
	case len(g.Path) > 1:
		return 1
	}
	return 0 // the root: every process that exits is in that of version 1
}

// ParseGroup reads the path of one control group. Where containers are within containers, the
// innermost counts.
func ParseGroup(path string) Group {
	g := Group{Path: path}
	parts := strings.Split(strings.TrimSuffix(path, " (deleted)"), "/")
	for i, part := range parts {
		above := parts[:i]
		g.addPod(part)
		if !g.addContainer(part, above) && !g.addMachine(part, above) {
			g.addUnit(part)
		}
	}
	return g
}

// addPod knows pod<uid>, and kubepods-burstable-pod<uid>.slice with underscores for dashes.
func (g *Group) addPod(part string) {
	part, _, _ = strings.Cut(part, ":") // the slice in slice:runtime:id
	part = strings.TrimSuffix(part, ".slice")
	i := strings.LastIndex(part, "pod")
	if i < 0 || i > 0 && part[i-1] != '-' {
		return
	}
	if uid := strings.ReplaceAll(part[i+len("pod"):], "_", "-"); isUUID(uid) || isHex(uid, 32) {
		g.PodUID = uid
	}
}

// addContainer knows the containers that have an id. The driver cgroupfs makes plain directories of
// ids, the driver systemd runtime-id.scope; slice:runtime:id is the one's path, read by the other.
func (g *Group) addContainer(part string, above []string) bool {
	name, scope := strings.CutSuffix(part, ".scope")
	if names := strings.Split(name, ":"); len(names) == 3 {
		name = names[1] + "-" + names[2]
	}
	i := max(len(name)-64, 0)
	prefix, id := name[:i], name[i:]
	switch {
	case !isHex(id, 64):
		return g.addOther(part, above)
	case prefix == "":
		g.contain(id, "", parents[at(above, 1)])
		return true
	case strings.HasSuffix(prefix, "-conmon-"): // what watches the container, outside of it
		return true
	}
	runtime, known := runtimes[strings.TrimSuffix(prefix, "-")]
	if !strings.HasSuffix(prefix, "-") || !known && !scope {
		return false
	}
	unit := g.Unit
	g.contain(id, "", runtime)
	if prefix == "libpod-payload-" { // within a unit of its own, a quadlet
		g.Unit = unit
	}
	return true
}

// addOther knows the ids that are no digest: tasks of AWS Fargate, garden, Mesos.
func (g *Group) addOther(part string, above []string) bool {
	task, number, ok := strings.Cut(part, "-")
	parent := at(above, 1)
	garden := parent == "garden" || (parent == "good" || parent == "bad") && at(above, 2) == "garden"
	switch {
	case ok && isHex(task, 32) && task == parent && isNumber(number):
		g.contain(part, "", "")
	case garden && len(part) >= 20 && isHex(strings.ReplaceAll(part, "-", ""), 0):
		g.contain(part, "", "garden")
	case parent == "mesos" && isUUID(part):
		g.contain(part, "", "mesos")
	default:
		return false
	}
	return true
}

// addMachine knows what has a name: system containers, and tasks of Nomad.
func (g *Group) addMachine(part string, above []string) bool {
	parent := at(above, 1)
	if name, ok := strings.CutPrefix(part, "lxc.payload."); ok && name != "" {
		g.contain("", name, "lxc")
		return true
	}
	if part != "" && (parent == "lxc" || parent == "lxc.payload") {
		g.contain("", part, "lxc")
		return true
	}
	if name, ok := between(part, "systemd-nspawn@", ".service"); ok {
		g.contain("", unescape(name), "systemd-nspawn")
		return true
	}
	if name, ok := between(part, "machine-", ".scope"); ok {
		return g.addRegistered(unescape(name))
	}
	task := strings.TrimSuffix(part, ".scope")
	if len(task) > 37 && task[36] == '.' && isUUID(task[:36]) {
		g.contain("", task[37:], "nomad")
		return true
	}
	return false
}

// addRegistered is for the scopes of systemd-machined: libvirt's begin with its driver and a number.
func (g *Group) addRegistered(name string) bool {
	driver, rest, _ := strings.Cut(name, "-")
	number, guest, ok := strings.Cut(rest, "-")
	switch {
	case !ok || !isNumber(number) || guest == "":
		g.contain("", name, "systemd-nspawn")
	case driver == "lxc":
		g.contain("", guest, "lxc")
	case driver == "qemu": // no container: the emulator
		return false
	default:
		g.contain("", name, "systemd-nspawn")
	}
	return true
}

func (g *Group) addUnit(part string) {
	for _, suffix := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
		if len(part) > len(suffix) && strings.HasSuffix(part, suffix) {
			g.Unit = part
		}
	}
}

// contain enters a container: the unit outside is the runtime's.
func (g *Group) contain(id, name, runtime string) {
	g.ContainerID, g.ContainerName, g.Runtime, g.Unit = id, name, runtime, ""
}

// at gives the n-th of parts from their end.
func at(parts []string, n int) string {
	if len(parts) < n {
		return ""
	}
	return parts[len(parts)-n]
}

func between(s, prefix, suffix string) (string, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", false
	}
	s, ok = strings.CutSuffix(s, suffix)
	return s, ok && s != ""
}

// isHex reports whether s is n lower-case hexadecimal digits; with n 0, any number of them but none.
func isHex(s string, n int) bool {
	if len(s) != n && n != 0 || s == "" {
		return false
	}
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}

func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return isHex(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:], 32)
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// unescape undoes what systemd does to a dash in a name (systemd.unit(5)).
func unescape(name string) string { return strings.ReplaceAll(name, `\x2d`, "-") }
