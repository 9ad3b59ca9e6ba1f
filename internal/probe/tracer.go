package probe

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Config is how to load. The zero value is usable.
type Config struct {
	// RingSize is the octets of ring buffer per possible CPU: a power of two, a multiple of the
	// page size. 0: AutoRingSize.
	RingSize int
	// Filter leaves connections out: see FilterRule.
	Filter []FilterRule
	// Stall is for tests alone.
	Stall Stall
	// BTF is a file with the types of the running kernel. Empty: the kernel's own.
	BTF string
}

const membarrierGlobal = 1 // MEMBARRIER_CMD_GLOBAL, include/uapi/linux/membarrier.h

// A Stall makes the programs on one CPU busy-wait between reading the clock and submitting, as if
// the CPU slept. It is for tests of the order; the zero value does nothing and costs nothing.
type Stall struct {
	For   time.Duration
	Every uint32 // one in so many events
	// Processes has it wait with every record of a process, too, reserved and not submitted.
	Processes bool
	CPU       uint32
}

const (
	maxRing  = 1 << 20
	allRings = 64 << 20
)

// AutoRingSize is the octets of ring per CPU for a machine of so many possible CPUs: 1 MiB, less
// where all together would need more than 64 MiB, at least a page.
func AutoRingSize(cpus int) int {
	size := maxRing
	for size > os.Getpagesize() && size*cpus > allRings {
		size /= 2
	}
	return size
}

// Validate refuses a ring size that the kernel would refuse.
func (c Config) Validate() error {
	page := os.Getpagesize()
	if c.RingSize != 0 && (c.RingSize < page || c.RingSize > 1<<30 || c.RingSize&(c.RingSize-1) != 0) {
		return fmt.Errorf("ring size %d: want a power of two from %d (a page) to %d (1 GiB)", c.RingSize, page, 1<<30)
	}
	if len(c.Filter) > MaxFilterRules {
		return fmt.Errorf("filter: %d rules, want at most %d", len(c.Filter), MaxFilterRules)
	}
	for i := range c.Filter {
		if !c.Filter[i].Fits() {
			return fmt.Errorf("filter: rule %d has too many values, want at most %d of a kind", i, maxFilterValues)
		}
	}
	return nil
}

// A Tracer is the loaded BPF object. Its methods must not be called concurrently, but for
// [Tracer.Stats].
type Tracer struct {
	objects  tracerObjects
	links    []link.Link
	types    *btf.Spec  // nil for the kernel's own
	cache    *btf.Cache // of these; both are needed, and large, until Attach is through
	stall    Stall
	rings    []*ring
	cpus     []tracerCpu // mmapped; written by the programs
	control  *tracerControl
	mapped   [][]byte
	poll     *poller
	nowArgs  tracerNowArgs
	read     atomic.Uint64 // samples handed out
	corrupt  atomic.Uint64 // rings cut short by an impossible header
	lastRead uint64        // read, at the latest Wait

	skipped    atomic.Uint64 // state changes that no program has seen
	skippedNow uint64        // the same, or the second is about to, at the latest Lost

	// AcceptUnseen is why the kernel does not let a program see who accepts a connection, from Attach on; nil
	// where it does. Without it, the owner of an accepted connection is who listens, until somebody else ends
	// it, or is found to have it open.
	AcceptUnseen error

	crowded bool // a ring was more than a quarter full at the latest Drain
}

// Load loads the programs and makes the rings; nothing is traced before [Tracer.Attach].
// The error names, in one line, the first need that this machine does not meet, where there is
// one.
func Load(cfg Config) (*Tracer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	t, err := load(cfg)
	if err == nil {
		return t, nil
	}
	for _, need := range Check(cfg.BTF) {
		if need.Err != nil {
			return nil, fmt.Errorf("%s: %w (%s)", need.Name, need.Err, need.Remedy)
		}
	}
	return nil, err
}

func load(cfg Config) (*Tracer, error) {
	// Kernels before 5.11 alone need it; they are refused further on, with a better reason.
	_ = rlimit.RemoveMemlock()
	types, err := kernelTypes(cfg.BTF)
	if err != nil {
		return nil, err
	}
	possible, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("counting possible CPUs: %w", err)
	}
	spec, err := loadTracer()
	if err != nil {
		return nil, fmt.Errorf("reading the BPF object: %w", err)
	}
	spec.Maps["cpus"].MaxEntries = uint32(possible)
	spec.Maps["rings"].MaxEntries = uint32(possible) + 1
	if err := setConstants(spec, possible, cfg); err != nil {
		return nil, err
	}

	t := &Tracer{types: types, cache: btf.NewCache(), stall: cfg.Stall}
	opts := &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: types}, Cache: t.cache}
	if err := spec.LoadAndAssign(&t.objects, opts); err != nil {
		return nil, fmt.Errorf("loading the BPF object: %w", err)
	}
	if err := t.prepare(cfg, possible); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func setConstants(spec *ebpf.CollectionSpec, possible int, cfg Config) error {
	constants := map[string]any{"list_slot": uint32(possible)}
	if len(cfg.Filter) > 0 {
		constants["filter_rules"], constants["filter"] = uint32(len(cfg.Filter)), filterTable(cfg.Filter)
	}
	if err := set(spec, constants); err != nil {
		return err
	}
	return cfg.Stall.set(spec)
}

// set has an object stall; both have the same constants for that.
func (s Stall) set(spec *ebpf.CollectionSpec) error {
	if s.For <= 0 {
		return nil
	}
	return set(spec, map[string]any{
		"stall_ns": uint64(s.For), "stall_every": max(s.Every, 1), "stall_cpu": s.CPU, "stall_processes": s.Processes,
	})
}

func set(spec *ebpf.CollectionSpec, constants map[string]any) error {
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("setting %s in the BPF object: %w", name, err)
		}
	}
	return nil
}

// kernelTypes gives nil for the kernel's own types.
func kernelTypes(file string) (*btf.Spec, error) {
	if file == "" {
		return nil, nil
	}
	types, err := btf.LoadSpec(file)
	if err != nil {
		return nil, fmt.Errorf("reading kernel types from %s: %w", file, err)
	}
	return types, nil
}

func (t *Tracer) prepare(cfg Config, possible int) error {
	if err := t.mapWords(possible); err != nil {
		return err
	}
	if cfg.RingSize == 0 {
		cfg.RingSize = AutoRingSize(possible)
	}
	var err error
	if t.poll, err = newPoller(); err != nil {
		return err
	}
	for cpu := range possible {
		if err := t.addRing(cpu, cfg.RingSize); err != nil {
			return fmt.Errorf("making the ring of CPU %d: %w", cpu, err)
		}
	}
	if _, err := t.objects.Introduce.Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("introducing the tracer to its programs: %w", err)
	}
	return nil
}

// mapWords maps the arrays that are shared with the programs.
func (t *Tracer) mapWords(possible int) error {
	cpus, err := t.mmap(t.objects.Cpus, possible*int(unsafe.Sizeof(tracerCpu{})))
	if err != nil {
		return fmt.Errorf("mapping the per-CPU words: %w", err)
	}
	t.cpus = unsafe.Slice((*tracerCpu)(unsafe.Pointer(&cpus[0])), possible)
	control, err := t.mmap(t.objects.Controls, int(unsafe.Sizeof(tracerControl{})))
	if err != nil {
		return fmt.Errorf("mapping the control words: %w", err)
	}
	t.control = (*tracerControl)(unsafe.Pointer(&control[0]))
	return nil
}

func (t *Tracer) mmap(m *ebpf.Map, size int) ([]byte, error) {
	b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil {
		t.mapped = append(t.mapped, b)
	}
	return b, err
}

func (t *Tracer) addRing(cpu, size int) error {
	r, err := newRing(size)
	if err != nil {
		return err
	}
	t.rings = append(t.rings, r)
	if err := t.objects.Rings.Put(uint32(cpu), r.m); err != nil {
		return fmt.Errorf("putting it into the array: %w", err)
	}
	return t.poll.add(r.m.FD())
}

// Attach begins to trace: from here on no event of the host goes unseen.
func (t *Tracer) Attach() error {
	for _, p := range []*ebpf.Program{t.objects.First, t.objects.Second} {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return fmt.Errorf("attaching to inet_sock_set_state: %w", err)
		}
		t.links = append(t.links, l)
	}
	t.AcceptUnseen = t.attachAccept()
	t.types, t.cache = nil, nil
	return nil
}

// CPUs is the number of possible CPUs, online or not.
func (t *Tracer) CPUs() int { return len(t.rings) }

// Now is the time in nanoseconds on the clock that stamps the events.
func (t *Tracer) Now() (uint64, error) {
	opts := ebpf.RunOptions{Context: &t.nowArgs, ContextOut: &t.nowArgs}
	if _, err := t.objects.Now.Run(&opts); err != nil {
		return 0, fmt.Errorf("asking BPF for the time: %w", err)
	}
	return t.nowArgs.Now, nil
}

// InFlight reports whether a program of that CPU may have stamped an event that it has not yet
// submitted.
func (t *Tracer) InFlight(cpu int) bool {
	return atomic.LoadUint64(&t.cpus[cpu].InFlight) != 0
}

// Drain gives yield each sample that is in the rings now, in the order of each ring. The sample
// is the ring's own memory, valid until yield returns. Drain does not wait for a record that a
// program is still filling, nor for what arrives meanwhile.
func (t *Tracer) Drain(yield func(cpu int, sample []byte)) {
	t.crowded = false
	for cpu, r := range t.rings {
		t.crowded = t.crowded || r.filled() > len(r.data)/2/4
		n, whole := r.drain(func(sample []byte) { yield(cpu, sample) })
		t.read.Add(n)
		if !whole {
			t.corrupt.Add(1)
		}
	}
}

// Detach ends the tracing; what has been submitted can still be drained. A program that is running
// may go on for a little while: see InFlight.
func (t *Tracer) Detach() error {
	var errs []error
	// The first last: what it is skipped for while it is alone is unseen, and counted as that.
	for _, l := range slices.Backward(t.links) {
		errs = append(errs, l.Close())
	}
	t.links = nil
	// A program that had begun by now has announced itself, or ended, when this returns: it waits for
	// an RCU grace period (membarrier(2)). Where CPUs run without a tick the kernel refuses that.
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	return errors.Join(errs...)
}

// Close detaches the programs and frees everything. It may be called more than once.
func (t *Tracer) Close() error {
	errs := []error{t.Detach()}
	for _, r := range t.rings {
		errs = append(errs, r.close())
	}
	for _, b := range t.mapped {
		errs = append(errs, unix.Munmap(b))
	}
	if t.poll != nil {
		errs = append(errs, t.poll.close())
	}
	errs = append(errs, t.objects.Close())
	*t = Tracer{}
	return errors.Join(errs...)
}
