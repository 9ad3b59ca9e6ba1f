package owner

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// asEnv makes this binary another process: one that waits until its input ends, or one that finds the
// process with the ID in its input and says what it knows.
const asEnv = "CONNSPAN_OWNER_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(asEnv) {
	case "":
		goleak.VerifyTestMain(m)
	case "wait":
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "find":
		if err := find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func find() error {
	var id ID
	if err := json.NewDecoder(os.Stdin).Decode(&id); err != nil {
		return err
	}
	ps, err := New(Config{Environment: true, CommandLine: true})
	if err != nil {
		return err
	}
	ps.patience = time.Minute
	return json.NewEncoder(os.Stdout).Encode(ps.Find(id))
}

// child is a process that waits.
type child struct {
	cmd *exec.Cmd
	in  io.Closer
}

func start(t testing.TB, change func(*exec.Cmd)) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{asEnv + "=wait", "GORACE=atexit_sleep_ms=0"}
	if change != nil {
		change(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd, in}
	t.Cleanup(c.end)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return c
}

func (c *child) end() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// id is what the kernel's programs would say of the process with that pid.
func idOf(t testing.TB, pid int) ID {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseStat(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return ID{PID: uint32(pid), UID: uint32(os.Getuid()), Started: s.started*tick + 4711, Comm: [16]byte{'x'}}
}

func newTest(t testing.TB, cfg Config) *Processes {
	t.Helper()
	ps, err := New(cfg)
	if err != nil {
		t.Skip(err)
	}
	ps.patience = time.Minute
	return ps
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// TestFind: all there is to know of a real process.
func TestFind(t *testing.T) {
	c := start(t, func(cmd *exec.Cmd) {
		cmd.Args = []string{"some service", "--verbose", "--api-token", "hunter2", "--password=x\xff"}
		cmd.Env = append(cmd.Env, "OTEL_RESOURCE_ATTRIBUTES=service.name=no,service.namespace=shop", "OTEL_SERVICE_NAME=orders")
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	want := &Process{
		ParentPID: uint32(os.Getpid()), Executable: self, Group: ParseGroups(string(group)),
		Args:       []string{"some service", "--verbose", "--api-token", redacted, "--password=" + redacted},
		Attributes: map[string]string{"service.name": "orders", "service.namespace": "shop"},
	}
	ps := newTest(t, Config{CommandLine: true, Environment: true, Redact: []string{"*token*", "*password*"}})
	if ps.users.path != "" && !want.Group.contained() {
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		want.User = me.Username
	}
	got := ps.Find(idOf(t, c.cmd.Process.Pid))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	want.Args, want.Attributes = nil, nil
	if d := cmp.Diff(want, newTest(t, Config{}).Find(idOf(t, c.cmd.Process.Pid))); d != "" {
		t.Errorf("with all switched off (-want +got):\n%s", d)
	}
	other := idOf(t, c.cmd.Process.Pid)
	other.Started += tick
	if got := ps.Find(other); got != unknown {
		t.Errorf("%+v, for a process that started a tick later", got)
	}
	if got := ps.Find(ID{}); got != unknown {
		t.Errorf("%+v, for no process", got)
	}
}

// TestFindOnce: a process is read once, also what it was before it exited, and forgotten only when
// others have been asked for.
func TestFindOnce(t *testing.T) {
	c := start(t, nil)
	id := idOf(t, c.cmd.Process.Pid)
	ps := newTest(t, Config{})
	first := ps.Find(id)
	c.end()
	if got := ps.Find(id); got != first || first == unknown {
		t.Errorf("%+v, then %+v", first, got)
	}
	renamed := id
	renamed.Comm = [16]byte{'y'}
	if got := ps.Find(renamed); got != unknown {
		t.Errorf("%+v: by another name it may execute something else", got)
	}
	for pid := range uint32(maxProcesses - 1) {
		ps.Find(ID{PID: 1<<30 + pid})
		ps.Find(id)
	}
	if got := ps.Find(id); got != first {
		t.Errorf("%+v, want what is asked for all the time", got)
	}
	for pid := range uint32(maxProcesses) {
		ps.Find(ID{PID: 1<<30 + maxProcesses + pid})
	}
	if got := ps.Find(id); got != unknown || len(ps.entries) != maxProcesses || ps.recent.Len() != maxProcesses {
		t.Errorf("%+v, and %d of %d are remembered, want %d", got, len(ps.entries), ps.recent.Len(), maxProcesses)
	}
}

// TestRetry: what could not be read is tried again, but not at once.
func TestRetry(t *testing.T) {
	proc := t.TempDir()
	ps := newProcesses(Config{}, source{path: proc})
	ps.patience = time.Minute
	id := ID{PID: 7, Started: 5 * tick}
	if got := ps.Find(id); got != unknown {
		t.Fatalf("%+v out of nothing", got)
	}
	write(t, filepath.Join(proc, "7/stat"), fakeStat(5))
	if got := ps.Find(id); got != unknown {
		t.Errorf("%+v at once", got)
	}
	ps.entries[id].Value.(*entry).retry = time.Now()
	if got := ps.Find(id); got == unknown || got.ParentPID != 1 {
		t.Errorf("%+v after a while", got)
	}
	if ps.recent.Len() != 1 {
		t.Errorf("%d remembered, want one", ps.recent.Len())
	}
}

func fakeStat(ticks int) string {
	return fmt.Sprintf("7 (x) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 %d 1000\n", ticks)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestSlow: a process that cannot be read until something else happens holds nobody up for long, nor do
// many of them; once they can be read they are known, and others are read again.
func TestSlow(t *testing.T) {
	proc := t.TempDir()
	ps := newProcesses(Config{}, source{path: proc})
	for pid := range 3 * maxSlow {
		dir := filepath.Join(proc, strconv.Itoa(pid+1))
		write(t, filepath.Join(dir, "stat"), fakeStat(5))
		if err := syscall.Mkfifo(filepath.Join(dir, "cgroup"), 0o600); err != nil { // reading waits for a writer
			t.Fatal(err)
		}
	}
	began := time.Now()
	for pid := range uint32(3 * maxSlow) {
		if got := ps.Find(ID{PID: pid + 1, Started: 5 * tick}); got != unknown {
			t.Errorf("process %d: %+v", pid+1, got)
		}
	}
	if took := time.Since(began); took < patience || len(ps.slots) != maxSlow {
		t.Errorf("%v, with %d waiting, want at least %v and %d", took, len(ps.slots), patience, maxSlow)
	}
	for pid := range maxSlow {
		write(t, filepath.Join(proc, strconv.Itoa(pid+1), "cgroup"), "0::/\n")
	}
	for deadline := time.Now().Add(10 * time.Second); len(ps.slots) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("they wait although nothing holds them")
		}
	}
	for pid := range uint32(maxSlow) {
		if got := ps.Find(ID{PID: pid + 1, Started: 5 * tick}); got == unknown {
			t.Errorf("process %d is not known, although it could be read", pid+1)
		}
	}
	ps.patience = time.Minute
	write(t, filepath.Join(proc, "100/stat"), fakeStat(5))
	if got := ps.Find(ID{PID: 100, Started: 5 * tick}); got == unknown {
		t.Error("no other is read any more")
	}
}

// TestZombie: a process that nobody has waited for has a parent, in version 2 a control group, and no
// executable.
func TestZombie(t *testing.T) {
	c := start(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "OTEL_SERVICE_NAME=x") })
	id := idOf(t, c.cmd.Process.Pid)
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for state := ""; state != "Z"; {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id.PID))
		if err != nil {
			t.Fatal(err)
		}
		state = strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))[0]
	}
	want := Group{} // in version 1 it is in none any more
	if group, err := os.ReadFile("/proc/self/cgroup"); err == nil && strings.HasPrefix(string(group), "0::") {
		want = ParseGroups(string(group))
	}
	got := newTest(t, Config{Environment: true, CommandLine: true}).Find(id)
	if got.ParentPID != uint32(os.Getpid()) || got.Executable != "" || len(got.Attributes)+len(got.Args) > 0 || got.Group != want {
		t.Errorf("%+v, want the parent and %+v", got, want)
	}
}

// TestReused: what has another's pid is not taken for it, also when that happens while it is read.
func TestReused(t *testing.T) {
	needRoot(t)
	ps := newTest(t, Config{Environment: true})
	first := start(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "OTEL_SERVICE_NAME=first") })
	old := idOf(t, first.cmd.Process.Pid)
	opened, err := ps.source.open(old)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.close()
	if got := opened.text("environ", maxEnvironment); !strings.Contains(got, "first") {
		t.Fatalf("environment %q", got)
	}
	first.end()
	time.Sleep(2 * tick) // the next one is to start at another time
	second := startAs(t, int(old.PID))
	if got := ps.Find(old); got != unknown {
		t.Errorf("%+v, of another process", got)
	}
	if got := ps.Find(idOf(t, second.cmd.Process.Pid)); got.Attributes["service.name"] != "second" {
		t.Errorf("%+v, want the second", got)
	}
	for _, file := range []string{"stat", "cgroup", "environ", "cmdline"} {
		if got, err := opened.read(file, maxStat); err == nil && got != "" {
			t.Errorf("%s of the first process is %q after its end", file, got)
		}
	}
	if got := opened.executable(); got != "" {
		t.Errorf("the first process executes %q after its end", got)
	}
}

// startAs starts a process with that pid, as others take pids at the same time.
func startAs(t *testing.T, pid int) *child {
	t.Helper()
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Skip(err)
		}
		c := start(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "OTEL_SERVICE_NAME=second") })
		if c.cmd.Process.Pid == pid {
			return c
		}
		c.end()
	}
	t.Skip("others were always faster to take the pid")
	return nil
}

// as runs the finding in a process of its own.
func as(t *testing.T, id ID, change func(*exec.Cmd)) (*Process, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Dir = "/"
	cmd.Env = []string{asEnv + "=find"}
	cmd.Stdin = strings.NewReader(string(in))
	change(cmd)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, errors.New(strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		t.Skip(err)
	}
	p := &Process{}
	if err := json.Unmarshal(out, p); err != nil {
		t.Fatal(err)
	}
	return p, nil
}

// TestOtherUser: without the right to look into another's process, its parent and its control group
// remain, its user and its command line.
func TestOtherUser(t *testing.T) {
	needRoot(t)
	open(t)
	c := start(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "OTEL_SERVICE_NAME=secret") })
	id := idOf(t, c.cmd.Process.Pid)
	got, err := as(t, id, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := *newTest(t, Config{CommandLine: true}).Find(id)
	want.Executable = ""
	if d := cmp.Diff(&want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// open lets any user execute this binary.
func open(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(self); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o001 == 0 {
			if err := os.Chmod(dir, info.Mode()|0o001); err != nil {
				t.Skip(err)
			}
		}
		if dir == filepath.Dir(dir) {
			return
		}
	}
}

// TestPIDNamespace: where pids are others' than those in /proc, nothing is said, rather than something
// wrong.
func TestPIDNamespace(t *testing.T) {
	needRoot(t)
	for name, flags := range map[string]uintptr{
		"a namespace with the host's /proc": syscall.CLONE_NEWPID,
		"a namespace of its own":            syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := as(t, idOf(t, os.Getpid()), func(cmd *exec.Cmd) {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
				if flags&syscall.CLONE_NEWNS != 0 {
					cmd.Args = []string{"sh", "-c", "mount -t proc none /proc && exec " + cmd.Path}
					cmd.Path = "/bin/sh"
				}
			})
			if err == nil || !strings.Contains(err.Error(), "initial") && !strings.Contains(err.Error(), "/proc") {
				t.Errorf("error %v, want one that says so", err)
			}
		})
	}
}

// TestTimeNamespace: a time namespace shifts the start times in /proc, and not those of the programs.
func TestTimeNamespace(t *testing.T) {
	needRoot(t)
	got, err := as(t, idOf(t, os.Getpid()), func(cmd *exec.Cmd) {
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			t.Skip(err)
		}
		cmd.Args = []string{"unshare", "--time", "--fork", "--boottime", "86400", "--", cmd.Path}
		cmd.Path = unshare
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.ParentPID != uint32(os.Getppid()) {
		t.Errorf("%+v, want this process", got)
	}
}

// TestGroups: processes in control groups as runtimes make them, of whichever version is mounted.
func TestGroups(t *testing.T) {
	needRoot(t)
	ps := newTest(t, Config{})
	tested := 0
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		for _, tt := range groups {
			if !strings.HasPrefix(tt.path, "/") || strings.Contains(tt.path, "..") || strings.Contains(tt.path, "(deleted)") || tt.path == "/" {
				continue
			}
			tested++
			t.Run(filepath.Base(root)+", "+tt.name, func(t *testing.T) {
				c := start(t, nil)
				path := "/connspan-test" + strconv.Itoa(os.Getpid()) + tt.path
				enter(t, root, path, c)
				got, want := ps.Find(idOf(t, c.cmd.Process.Pid)), tt.want
				if want == (Group{}) {
					return // another hierarchy may know more
				}
				want.Path = path
				if got.Group != want {
					t.Errorf("got %+v, want %+v", got.Group, want)
				}
				if got.User != "" && want.contained() {
					t.Errorf("user %q: in a container it may be another", got.User)
				}
			})
		}
	}
	if tested == 0 {
		t.Skip("no cgroup file system is mounted where it usually is")
	}
}

// enter makes that control group, with the child in it, until the test ends.
func enter(t *testing.T, root, path string, c *child) {
	t.Helper()
	var made []string
	for dir := filepath.Join(root, path); dir != root; dir = filepath.Dir(dir) {
		made = append(made, dir)
	}
	if err := os.MkdirAll(made[0], 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		c.end()
		for _, dir := range made {
			if err := os.Remove(dir); err != nil {
				t.Errorf("leaving a control group behind: %v", err)
			}
		}
	})
	if err := os.WriteFile(filepath.Join(made[0], "cgroup.procs"), []byte(strconv.Itoa(c.cmd.Process.Pid)), 0); err != nil {
		t.Skip(err)
	}
}

// TestUsers: the file is read again when it has changed, and what is no file is not read.
func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	u := users{path: path}
	var got []string
	for _, content := range []string{"", "a:x:7:7::/:\n", "bc:x:7:7::/:\n", "x:y"} {
		if content != "" {
			write(t, path, content)
		}
		got = append(got, u.name(7))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	got = append(got, u.name(7))
	if want := []string{"", "a", "bc", "", ""}; !slices.Equal(got, want) {
		t.Errorf("user 7 is %q, want %q", got, want)
	}
}

// TestKernelThread has no executable, and no command line.
func TestKernelThread(t *testing.T) {
	ps := newTest(t, Config{CommandLine: true, Environment: true})
	if comm, err := os.ReadFile("/proc/2/comm"); err != nil || string(comm) != "kthreadd\n" {
		t.Skip("process 2 is not kthreadd")
	}
	if got := ps.Find(idOf(t, 2)); got == unknown || got.Executable != "" || len(got.Args) > 0 {
		t.Errorf("%+v", got)
	}
}

func BenchmarkFind(b *testing.B) {
	c := start(b, func(cmd *exec.Cmd) {
		for i := range 100 {
			cmd.Env = append(cmd.Env, fmt.Sprintf("SHOP_%d_PORT=tcp://10.0.0.%d:5432", i, i))
		}
	})
	id := idOf(b, c.cmd.Process.Pid)
	for _, bm := range []struct {
		name string
		cfg  Config
	}{{"", Config{}}, {" environment", Config{Environment: true}}, {" environment, command line", Config{Environment: true, CommandLine: true}}} {
		b.Run("read"+bm.name, func(b *testing.B) {
			ps := newTest(b, bm.cfg)
			b.ReportAllocs()
			for b.Loop() {
				if ps.Find(id) == unknown {
					b.Fatal("not found")
				}
				ps.forget(ps.recent.Back())
			}
		})
	}
	b.Run("gone", func(b *testing.B) {
		ps := newTest(b, Config{Environment: true})
		b.ReportAllocs()
		for b.Loop() {
			ps.Find(ID{PID: 1 << 30})
			ps.forget(ps.recent.Back())
		}
	})
	b.Run("remembered", func(b *testing.B) {
		ps := newTest(b, Config{})
		b.ReportAllocs()
		for b.Loop() {
			ps.Find(id)
		}
	})
	b.Run("remembered, one of many", func(b *testing.B) {
		ps := newProcesses(Config{}, source{path: b.TempDir()})
		ps.blind = true
		many := make([]ID, maxProcesses)
		for i := range many {
			many[i] = ID{PID: uint32(i + 1), Started: uint64(i)}
			ps.Introduce(introduction(b, many[i]))
		}
		next := 0
		b.ReportAllocs()
		for b.Loop() {
			ps.Find(many[next])
			next = (next + 4999) % len(many) // comes to all of them, never to a neighbour
		}
	})
}

// BenchmarkIntroduce is what a new process costs that the kernel tells of, while it runs and when it has exited.
func BenchmarkIntroduce(b *testing.B) {
	c := start(b, nil)
	for name, id := range map[string]ID{"runs": idOf(b, c.cmd.Process.Pid), "gone": {PID: 1 << 30}} {
		b.Run(name, func(b *testing.B) {
			ps, i := newTest(b, Config{Environment: true}), introduction(b, id)
			b.ReportAllocs()
			for b.Loop() {
				ps.Introduce(i)
				ps.forget(ps.recent.Back())
			}
		})
	}
}

// introduction is what the kernel would say of a process that executes this test.
func introduction(t testing.TB, id ID) Introduction {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Introduction{ID: id, ParentPID: 7, Executable: self, Groups: []string{"/", "/system.slice/a.service"}}
}

// TestIntroduce: what the kernel has said is known of who has exited; of others more.
func TestIntroduce(t *testing.T) {
	ps := newTest(t, Config{Environment: true})
	c := start(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "OTEL_SERVICE_NAME=orders") })
	alive := introduction(t, idOf(t, c.cmd.Process.Pid))
	ps.Introduce(alive)
	if got := ps.Find(alive.ID); got.Attributes["service.name"] != "orders" || got.Executable != alive.Executable || got.ParentPID != uint32(os.Getpid()) {
		t.Errorf("of a process that runs: %+v, want all that there is", got)
	}
	gone := introduction(t, ID{PID: 1 << 30, Started: 1, UID: 0})
	if got := ps.Find(gone.ID); got.Executable != "" {
		t.Errorf("of a process that nobody knows: %+v", got)
	}
	ps.Introduce(gone)
	want := &Process{ParentPID: 7, Executable: gone.Executable, User: "root", Group: Group{Path: "/system.slice/a.service", Unit: "a.service"}}
	if d := cmp.Diff(want, ps.Find(gone.ID)); d != "" {
		t.Errorf("of a process that has exited (-want +got):\n%s", d)
	}
	// It goes on as something else: what it is now has made none of its connections.
	alive.Executable = "/usr/bin/before"
	ps.Introduce(alive)
	if got := ps.Find(alive.ID); got.Executable != alive.Executable || got.Attributes != nil {
		t.Errorf("of a process that executes something else: %+v, want what it was introduced as", got)
	}
	// And connects again.
	alive = introduction(t, alive.ID)
	ps.Introduce(alive)
	if got := ps.Find(alive.ID); got.Executable != alive.Executable || got.Attributes["service.name"] != "orders" {
		t.Errorf("introduced again: %+v, want it as it is now", got)
	}
}

// TestIntroduceBlind: where /proc is no use, the kernel's word is all there is.
func TestIntroduceBlind(t *testing.T) {
	ps := newProcesses(Config{}, source{path: t.TempDir()})
	ps.blind = true
	i := introduction(t, ID{PID: 1, Started: 1})
	i.Executable = "/memfd:x"
	if got := ps.Find(i.ID); got != unknown {
		t.Errorf("got %+v, want nothing", got)
	}
	ps.Introduce(i)
	if got := ps.Find(i.ID); got.Group.Unit != "a.service" || got.Executable != "" {
		t.Errorf("got %+v, want the unit, and no executable of what is in memory alone", got)
	}
}
