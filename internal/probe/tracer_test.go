package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/event"
)

func TestMain(m *testing.M) {
	actor.Main()
	goleak.VerifyTestMain(m)
}

func mustAttach(t testing.TB, cfg Config) *Tracer {
	t.Helper()
	tr, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := tr.Attach(); err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestLayout fills the C struct, by the types that bpf2go reads from the object's BTF, and holds
// what the decoder makes of it against it.
func TestLayout(t *testing.T) {
	if size := unsafe.Sizeof(tracerRecord{}); size != event.Size {
		t.Fatalf("struct record has %d octets, the decoder wants %d", size, event.Size)
	}
	r := tracerRecord{
		Ts: 1, Seq: 2, Cookie: 3, Began: 4, Established: 5, FirstFin: 40, OwnerStarted: 6, BytesSent: 7, BytesReceived: 8,
		Netns: 9, Ordinal: 10, Pid: 11, Uid: 12, SegsOut: 13, SegsIn: 14, Retransmits: 15, SrttUs: 16,
		MinRttUs: 17, LocalIsn: 18, PeerIsn: 19, Err: 20,
		LocalAddr: [16]uint8{1, 2, 3, 4}, PeerAddr: [16]uint8{5, 6, 7, 8}, Comm: [16]int8{'a', 'b'},
		LocalPort: 21, PeerPort: 22, Family: 2, States: 23, Kind: 2, Role: 1, Closer: 3, OldState: 4,
		OwnerSource: 2, Flags: 0x81,
	}
	want := event.Event{
		Time: 1, Seq: 2, Cookie: 3, Began: 4, Established: 5, FirstFIN: 40, OwnerStarted: 6, BytesSent: 7, BytesReceived: 8,
		NetNS: 9, Ordinal: 10, PID: 11, UID: 12, SegsOut: 13, SegsIn: 14, Retransmits: 15, SRTT: 16,
		MinRTT: 17, LocalISN: 18, PeerISN: 19, Errno: 20,
		Local: netip.MustParseAddrPort("1.2.3.4:21"), Peer: netip.MustParseAddrPort("5.6.7.8:22"),
		Comm: event.Comm{'a', 'b'}, States: 23, CPU: 7, Kind: event.Closed, Role: event.Client,
		Closer: event.CloserBoth, OldState: event.FinWait1, OwnerSource: event.OwnerListen,
		Flags: event.Preexisting | event.HasISN,
	}
	var got event.Event
	if err := event.Decode(unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)), 7, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Errorf("decoded struct record (-C +Go):\n%s", d)
	}
}

// TestProcessLayout is TestLayout for the records of processes.
func TestProcessLayout(t *testing.T) {
	r := tracerProcessRecord{
		Started: 1, Pid: 2, Parent: 3, Uid: 4, Comm: [16]int8{'a'},
		Executable: path("sh\x00bin\x00", 1), Unified: path("b.service\x00system.slice\x00", 1), Legacy: path("c\x00", 0),
	}
	got, err := event.DecodeProcess(unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)))
	if err != nil {
		t.Fatal(err)
	}
	want := event.Process{
		Started: 1, PID: 2, Parent: 3, UID: 4, Comm: event.Comm{'a'},
		Executable: "/bin/sh", Unified: "/system.slice/b.service", Legacy: "/c",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("decoded struct process_record (-C +Go):\n%s", d)
	}
}

func path(parts string, whole uint8) (p tracerPathRecord) {
	p.Len, p.Whole = uint16(len(parts)), whole
	for i := range len(parts) {
		p.Parts[i] = int8(parts[i])
	}
	return p
}

// TestProcesses: each process is told of when it first owns a connection, as /proc has it, and once.
func TestProcesses(t *testing.T) {
	blind := actor.Blind(t)
	tr := mustAttach(t, Config{})
	const processes = 20
	told := map[uint32][]event.Process{}
	for range processes {
		p := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: 3, Workers: 1})
		p.Report()
		p.Wait()
	}
	if blind() > 0 {
		t.Skip("programs did not run on threads of pid 1")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tr.Drain(func(_ int, sample []byte) {
		if len(sample) != event.ProcessSize {
			return
		}
		p, err := event.DecodeProcess(sample)
		if err != nil {
			t.Fatal(err)
		}
		told[p.PID] = append(told[p.PID], p)
	})
	n := 0
	for pid, ps := range told {
		if ps[0].Executable != self {
			continue // another's on this host
		}
		n++
		if len(ps) != 1 || ps[0].Parent != uint32(os.Getpid()) || ps[0].Comm.String() == "" || ps[0].Started == 0 {
			t.Errorf("process %d: told %+v, want it once, as a child of %d", pid, ps, os.Getpid())
		}
	}
	if n != processes {
		t.Errorf("told of %d processes, want %d: %v", n, processes, told)
	}
}

// TestAcceptIsSeen: distributions' kernels let programs see who accepts; a host may forbid it.
func TestAcceptIsSeen(t *testing.T) {
	err := mustAttach(t, Config{}).AcceptUnseen
	switch {
	case err == nil:
	case os.Getenv("CONNSPAN_TEST_VM") != "" && runtime.GOARCH == "amd64":
		t.Error(err)
	default:
		t.Skip("needs fexit programs: ", err)
	}
}

// TestProcessBelowMounts: the path of an executable goes through all mounts that it is in, as /proc has it.
func TestProcessBelowMounts(t *testing.T) {
	bash, err := os.ReadFile("/bin/bash")
	if err != nil {
		t.Skip("needs bash, whose /dev/tcp connects without another program: ", err)
	}
	blind := actor.Blind(t)
	tr := mustAttach(t, Config{})
	above, below := filepath.Join(t.TempDir(), "above"), filepath.Join("a", "below")
	mountTmpfs(t, above)
	mountTmpfs(t, filepath.Join(above, below))
	program := filepath.Join(above, below, "program")
	if err := os.WriteFile(program, bash, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "-c", "readlink /proc/$$/exe; exec 3<>/dev/tcp/127.0.0.1/1").Output()
	if want := program + "\n"; string(out) != want {
		t.Fatalf("/proc says %q, %v, want %q", out, err, want)
	}
	if blind() > 0 {
		t.Skip("programs did not run on threads of pid 1")
	}
	var told []string
	tr.Drain(func(_ int, sample []byte) {
		if p, err := event.DecodeProcess(sample); err == nil && p.Parent == uint32(os.Getpid()) {
			told = append(told, p.Executable)
		}
	})
	if d := cmp.Diff([]string{program}, told); d != "" {
		t.Errorf("executables (-want +told):\n%s", d)
	}
}

func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skip("needs the right to mount: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// TestOwnProcessIsLeftOut: the tracer's own connections are counted, and nothing else.
func TestOwnProcessIsLeftOut(t *testing.T) {
	tr := mustAttach(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	tr.Drain(func(cpu int, sample []byte) {
		if len(sample) == event.ProcessSize { // another's on this host
			return
		}
		var e event.Event
		if err := event.Decode(sample, cpu, &e); err != nil {
			t.Error(err)
		}
		if e.PID == uint32(os.Getpid()) {
			t.Errorf("told of its own connection: %+v", e)
		}
	})
	if s := mustStats(t, tr).Total(); s.Excluded < 2 {
		t.Errorf("stats %+v, want both ends opened, and left out", s)
	}
}

func mustStats(t testing.TB, tr *Tracer) Stats {
	t.Helper()
	s, err := tr.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCountersAddUp: with one-page rings and nobody reading, most is lost, and all is counted.
func TestCountersAddUp(t *testing.T) {
	blind := actor.Blind(t)
	tr := mustAttach(t, Config{RingSize: os.Getpagesize()})
	p := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: 200, Workers: 4})
	p.Report()
	p.Wait()
	// The last ACKs, and with them the last closes, may come behind the end of the process.
	for deadline := time.Now().Add(10 * time.Second); mustStats(t, tr).Total().Numbered < 800 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	read := uint64(0)
	for tr.pending() {
		tr.Drain(func(int, []byte) { read++ })
	}
	s := mustStats(t, tr)
	total := s.Total()
	if unseen := blind(); total.RingFull == 0 || total.Numbered < uint64(800-unseen) {
		t.Errorf("%+v, want 800 events or more, less at most %d, and some of them lost", total, unseen)
	}
	if total.Numbered != total.Submitted+total.RingFull+total.NoRing || total.Submitted+total.Processes != s.Read || s.Read != read {
		t.Errorf("numbered %d, submitted %d and %d processes, lost %d, read %d and %d: want them to add up",
			total.Numbered, total.Submitted, total.Processes, total.RingFull+total.NoRing, s.Read, read)
	}
}

// TestWaitWakes: the sleep of an idle reader ends with the next event, not with a timeout.
func TestWaitWakes(t *testing.T) {
	tr := mustAttach(t, Config{})
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		woken := make(chan error, 1)
		p := actor.Start(t, "refused", actor.Plan{Connect: "127.0.0.1:1"})
		go func() { woken <- awaitPID(ctx, tr, p.PID()) }()
		p.Report()
		p.Wait()
		select {
		case err := <-woken:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			cancel()
			t.Fatalf("round %d: the reader sleeps on, beside an event", i)
		}
	}
}

// awaitPID reads until it has an event of the process.
func awaitPID(ctx context.Context, tr *Tracer, pid int) error {
	for found := false; !found && ctx.Err() == nil; {
		if err := tr.Wait(ctx, time.Millisecond, time.Hour); err != nil {
			return err
		}
		tr.Drain(func(cpu int, sample []byte) {
			var e event.Event
			found = found || event.Decode(sample, cpu, &e) == nil && e.PID == uint32(pid)
		})
	}
	return nil
}

func TestNowIsTheProgramsClock(t *testing.T) {
	tr := mustAttach(t, Config{})
	before, err := tr.Now()
	if err != nil {
		t.Fatal(err)
	}
	p := actor.Start(t, "refused", actor.Plan{Connect: "127.0.0.1:1"})
	p.Report()
	p.Wait()
	after, err := tr.Now()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	tr.Drain(func(cpu int, sample []byte) {
		var e event.Event
		if err := event.Decode(sample, cpu, &e); err == nil && e.PID == uint32(p.PID()) {
			found = true
			if e.Time <= before || e.Time >= after {
				t.Errorf("event at %d, want between %d and %d", e.Time, before, after)
			}
		}
	})
	if !found {
		t.Error("the refused connection was not seen")
	}
}

func TestCheck(t *testing.T) {
	for _, n := range Check("") {
		if n.Err != nil {
			t.Errorf("%s: %v (%s)", n.Name, n.Err, n.Remedy)
		}
	}
}

func TestMissingBTF(t *testing.T) {
	const file = "/nonexistent"
	unmet := 0
	for _, n := range Check(file) {
		if n.Err != nil {
			unmet++
			if n.Remedy == "" || strings.Contains(n.Err.Error(), "\n") {
				t.Errorf("%s: %v (%s): want one line and a remedy", n.Name, n.Err, n.Remedy)
			}
		}
	}
	if unmet == 0 {
		t.Error("every need is met without kernel types")
	}
	_, err := Load(Config{BTF: file})
	if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "BTF") || strings.Contains(err.Error(), "\n") {
		t.Errorf("loading: %v, want one line that names %s and BTF", err, file)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, size := range []int{-1, 1, 4095, 4097, 3 << 20, 1 << 31} {
		if _, err := Load(Config{RingSize: size}); err == nil {
			t.Errorf("ring size %d is taken", size)
		}
	}
}

func TestAutoRingSize(t *testing.T) {
	for cpus, want := range map[int]int{1: 1 << 20, 2: 1 << 20, 64: 1 << 20, 65: 1 << 19, 256: 1 << 18, 1 << 20: os.Getpagesize()} {
		if got := AutoRingSize(cpus); got != want {
			t.Errorf("%d CPUs: %d octets each, want %d", cpus, got, want)
		}
	}
}

// TestCloseFreesEverything: no descriptor is left, and closing twice does no harm.
func TestCloseFreesEverything(t *testing.T) {
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	// The first load leaves some cached descriptors of the library behind.
	for before, i := 0, 0; i < 3; i++ {
		tr, err := Load(Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Attach(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if i > 0 && count() != before {
			t.Errorf("%d descriptors, %d before", count(), before)
		}
		before = count()
	}
}

// BenchmarkProgram reports what the BPF programs cost per event told, and per connection with both of its ends
// on this host: ten state changes, four events. And what a run of each costs, also of a program that does
// nothing: that is what counting it costs.
func BenchmarkProgram(b *testing.B) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	tr := mustAttach(b, Config{RingSize: 16 << 20})
	programs := []*ebpf.Program{tr.objects.First, tr.objects.Second, attachEmpty(b)}
	const connections = 5000
	var ns, runs [3]uint64
	var events uint64
	add := func(sign uint64) {
		for i, p := range programs {
			s, err := p.Stats()
			if err != nil {
				b.Fatal(err)
			}
			ns[i] += sign * uint64(s.Runtime.Nanoseconds())
			runs[i] += sign * s.RunCount
		}
	}
	for b.Loop() {
		add(^uint64(0))
		p := actor.Start(b, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: connections, Workers: 4})
		p.Report()
		p.Wait()
		add(1)
		tr.Drain(func(int, []byte) { events++ })
	}
	b.ReportMetric(0, "ns/op")
	for i, name := range []string{"first", "second", "empty"} {
		b.ReportMetric(float64(ns[i])/float64(runs[i]), name+"-ns/run")
	}
	b.ReportMetric(float64(ns[0]+ns[1])/float64(events), "ns/event")
	b.ReportMetric(float64(ns[0]+ns[1])/float64(b.N*connections), "ns/connection")
}

// attachEmpty attaches a program that does nothing where the tracer's are.
func attachEmpty(b *testing.B) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state",
		License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = l.Close(), p.Close() })
	return p
}

// TestSubflowsAreForgotten: the owner of an MPTCP socket in another network namespace, whose subflows
// this one does not show, is not left for whatever socket gets their address next.
func TestSubflowsAreForgotten(t *testing.T) {
	tr := mustAttach(t, Config{})
	left := make(chan struct{})
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		ready <- listenElsewhere(left)
	}()
	err := <-ready
	defer close(left)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("the kernel has no MPTCP, or it is switched off")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Remember(nil); err != nil {
		t.Fatal(err)
	}
	var address uint64
	if err := tr.objects.Subflows.NextKey(nil, &address); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("subflow %#x is left (%v)", address, err)
	}
}

// listenElsewhere has an MPTCP socket listen in a network namespace of its own until left is closed.
func listenElsewhere(left <-chan struct{}) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{}), unix.Listen(fd, 1)); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	go func() {
		<-left
		_ = unix.Close(fd)
	}()
	return nil
}
