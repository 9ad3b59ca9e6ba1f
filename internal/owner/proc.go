package owner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

const (
	// tick is the unit of the start time in /proc/PID/stat, in nanoseconds: USER_HZ is 100.
	tick = 1e7
	// How the kernel numbers the initial namespaces (include/linux/proc_ns.h).
	initialNamespace  = "pid:[4026531836]"
	initialCgroupRoot = "cgroup:[4026531835]"
)

// errOther: the process is gone, and its pid is another's.
var errOther = errors.New("another process")

// source is a /proc.
type source struct {
	path  string
	shift int64 // what a time namespace adds to times since boot, in nanoseconds
}

// openSource checks that the pids in /proc are those that the kernel's programs tell: those of the
// initial PID namespace. In another one every pid would be a stranger's.
func openSource() (source, error) {
	s := source{path: "/proc"}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return s, fmt.Errorf("finding out about this PID namespace: %w", err)
	}
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return s, fmt.Errorf("finding this process in /proc: %w", err)
	}
	if namespace != initialNamespace || self != strconv.Itoa(os.Getpid()) {
		return s, fmt.Errorf("the PID namespace of /proc, %s, is not the initial one, %s", namespace, initialNamespace)
	}
	// A kernel without time namespaces has no such file.
	offsets, err := os.ReadFile("/proc/self/timens_offsets")
	if err == nil {
		s.shift = parseOffsets(string(offsets))
	}
	return s, nil
}

// passwd is the file with this host's users: as the init process has it, for this one may be in a
// container, with users of its own. Where there is no right to look there, this process's own, if it is
// in no container.
func (s source) passwd() string {
	path := s.path + "/1/root/etc/passwd"
	if _, err := os.Lstat(path); err == nil {
		return path
	}
	namespace, err := os.Readlink(s.path + "/self/ns/cgroup")
	if err != nil || namespace != initialCgroupRoot {
		return ""
	}
	text, err := os.ReadFile(s.path + "/self/cgroup")
	if err != nil || ParseGroups(string(text)).contained() {
		return ""
	}
	return "/etc/passwd"
}

// parseOffsets gives that of the time since boot.
func parseOffsets(text string) int64 {
	for line := range strings.Lines(text) {
		var seconds, nanoseconds int64
		if n, _ := fmt.Sscanf(line, "boottime %d %d", &seconds, &nanoseconds); n == 2 {
			return seconds*1e9 + nanoseconds
		}
	}
	return 0
}

// process is a directory /proc/PID that is held open. Once its process is gone nothing can be read
// through it, whoever has the pid then: so what is read is of the process that was checked.
type process struct {
	dir  *os.Root
	stat stat
}

// open finds the process with that id, and that start.
func (s source) open(id ID) (*process, error) {
	dir, err := os.OpenRoot(s.path + "/" + strconv.FormatUint(uint64(id.PID), 10))
	if err != nil {
		return nil, err
	}
	p := &process{dir: dir}
	text, err := p.read("stat", maxStat)
	if err == nil {
		p.stat, err = parseStat(text)
	}
	if err == nil && p.stat.started != (id.Started+uint64(s.shift))/tick {
		err = errOther
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *process) close() { _ = p.dir.Close() }

// read gives at most limit octets of one of its files.
func (p *process) read(name string, limit int) (string, error) {
	f, err := p.dir.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 0, min(limit, 4096))
	for len(b) < limit {
		if len(b) == cap(b) {
			b = append(make([]byte, 0, min(limit, 4*cap(b))), b...)
		}
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	return string(b), nil
}

// text is read for what may be missing: no right to read it, or the process has just exited.
func (p *process) text(name string, limit int) string {
	text, err := p.read(name, limit)
	if err != nil {
		return ""
	}
	return text
}

// executable is the path of what it executes. A zombie has none.
func (p *process) executable() string {
	path, err := p.dir.Readlink("exe")
	if err != nil {
		return ""
	}
	return executable(strings.TrimSuffix(path, " (deleted)"))
}

// executable leaves out what is in memory alone.
func executable(path string) string {
	if strings.HasPrefix(path, "/memfd:") {
		return ""
	}
	return path
}

const maxStat = 1024

// stat is what is taken from a /proc/PID/stat.
type stat struct {
	parent  uint32
	started uint64 // ticks since boot
}

var errStat = errors.New("malformed stat")

// parseStat: the fields are counted from the last parenthesis, for a process may call itself anything.
func parseStat(text string) (stat, error) {
	const state, parent, started = 0, 1, 19 // fields 3, 4 and 22 of proc_pid_stat(5)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= started || len(fields[state]) != 1 {
		return stat{}, fmt.Errorf("%w: %d fields behind the name", errStat, len(fields))
	}
	ppid, err := strconv.ParseUint(fields[parent], 10, 32)
	if err != nil {
		return stat{}, fmt.Errorf("%w: parent %q", errStat, fields[parent])
	}
	ticks, err := strconv.ParseUint(fields[started], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("%w: start %q", errStat, fields[started])
	}
	return stat{parent: uint32(ppid), started: ticks}, nil
}
