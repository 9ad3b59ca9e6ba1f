package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A guest is one boot of a kernel, for one group of tests.
type guest struct {
	kernel  kernel
	cpus    int
	preempt string // the model of preemption, where it is not to be the kernel's own choice
	group   *group
}

func (g guest) String() string {
	preempt := ""
	if g.preempt != "" {
		preempt = ", preempt=" + g.preempt
	}
	return fmt.Sprintf("%v, %d vCPUs%s, %s", g.kernel, g.cpus, preempt, g.group.name)
}

// A host is what guests run on.
type host struct {
	machines map[*architecture]machine
	logs     string // directory
	patience time.Duration
	seed     uint64 // of the stalls
	tscRate  uint64 // kHz
	resume   bool   // guests that passed before, with the same programs, are not run again
}

// A machine is what all guests of an architecture have in common.
type machine struct {
	qemu      *qemu
	initramfs []byte
}

// patience is how long the tests of a guest may take by its own clock; the test binary ends what hangs,
// with a dump of all goroutines. The host waits a little longer, by its own.
const patience = 10 * time.Minute

// run boots a guest and judges what it says. One that dies, or that nothing is heard of, gets a second try: an emulator that
// runs vCPUs in parallel is not beyond doubt. The result tells of it.
func (h *host) run(ctx context.Context, g guest) (result, error) {
	var r result
	for attempt := 1; attempt <= 2; attempt++ {
		console, err := h.boot(ctx, g, attempt)
		if err != nil {
			return result{}, fmt.Errorf("running %v: %w", g, err)
		}
		r = judge(g, console)
		r.attempts = attempt
		if r.exit >= 0 {
			break
		}
	}
	return r, nil
}

// identity begins the log of a guest, and changes with what it runs.
func (h *host) identity(g guest) string {
	sum := sha256.New()
	sum.Write(h.machines[g.kernel.arch].initramfs)
	_, _ = fmt.Fprint(sum, g.kernel.release, modules, h.arguments(g, ""))
	return fmt.Sprintf("@@ guest %x\n", sum.Sum(nil))
}

// passed gives the result of a guest that passed before, where that is to count, or else none.
func (h *host) passed(g guest) result {
	if !h.resume {
		return result{}
	}
	for attempt := 2; attempt >= 1; attempt-- {
		log, err := os.ReadFile(h.log(g, attempt))
		if err != nil || !bytes.HasPrefix(log, []byte(h.identity(g))) {
			continue
		}
		if r := judge(g, log); r.ok() {
			r.attempts = attempt
			return r
		}
	}
	return result{}
}

// log is the file that takes the console of a guest.
func (h *host) log(g guest, attempt int) string {
	name := strings.ReplaceAll(strings.ReplaceAll(g.String(), ",", ""), " ", "-")
	return filepath.Join(h.logs, fmt.Sprintf("%s-%d.log", name, attempt))
}

// boot runs a guest to its end, and gives what was on its serial console.
func (h *host) boot(whole context.Context, g guest, attempt int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(whole, h.patience)
	defer cancel()
	dir, err := os.MkdirTemp("", "connspan-vm-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	initramfs := filepath.Join(dir, "initramfs")
	var own cpio
	if err := own.tree("modules", g.kernel.modules); err != nil {
		return nil, err
	}
	if err := os.WriteFile(initramfs, append(bytes.Clone(h.machines[g.kernel.arch].initramfs), own.archive()...), 0o600); err != nil {
		return nil, err
	}

	log, err := os.Create(h.log(g, attempt))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	if _, err := log.WriteString(h.identity(g)); err != nil {
		return nil, err
	}
	cmd := h.command(ctx, g, initramfs)
	cmd.Stdout, cmd.Stderr = log, log
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var stalling sync.WaitGroup
	if g.group.stall {
		stalling.Go(func() {
			n, err := stall(cmd.Process.Pid, rand.New(rand.NewPCG(h.seed, 0)))
			_, _ = fmt.Fprintf(log, "\n@@ stalled: vCPU 1 %d times (%v)\n", n, err)
		})
	}
	// How QEMU ends does not matter: the guest's own words do.
	_ = cmd.Wait()
	stalling.Wait()
	busy := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	_, _ = fmt.Fprintf(log, "\n@@ took %v, %v of a processor\n", time.Since(began).Round(time.Second), busy.Round(time.Second))
	console, err := os.ReadFile(log.Name())
	return console, errors.Join(err, whole.Err())
}

// command is forced to emulate: /dev/kvm may be there and not boot anything. Where vCPUs take turns the
// guest's time is that of its instructions, so that a busy host makes a guest slow and not its tests
// fail, and passes while nothing runs.
func (h *host) command(ctx context.Context, g guest, initramfs string) *exec.Cmd {
	q := h.machines[g.kernel.arch].qemu
	cmd := exec.CommandContext(ctx, q.program, slices.Concat(q.args, h.arguments(g, initramfs))...)
	cmd.Env = append(os.Environ(), q.env...)
	return cmd
}

func (h *host) arguments(g guest, initramfs string) []string {
	arch := g.kernel.arch
	kernel := "console=" + arch.console + " quiet panic=-1 oops=panic tsc=reliable" // or a guest under load takes to a slower clock
	if g.preempt != "" {
		kernel += " preempt=" + g.preempt
	}
	accelerator := []string{"-accel", "tcg,thread=single", "-icount", "shift=3,sleep=off"}
	if g.group.parallel {
		accelerator = []string{"-accel", "tcg,thread=multi"}
		if h.tscRate != 0 && arch.native() {
			kernel += fmt.Sprintf(" tsc_early_khz=%d", h.tscRate)
		}
	}
	return slices.Concat(arch.machine, accelerator, []string{
		"-smp", strconv.Itoa(g.cpus), "-m", "1536",
		"-name", "connspan,debug-threads=on", "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
		"-monitor", "none", "-serial", "stdio", "-kernel", g.kernel.image, "-initrd", initramfs,
		"-append", kernel + " " + g.group.commandLine(),
	})
}

// A result is what a guest has said of its tests.
type result struct {
	guest
	exit     int // of the program, -1: the guest died
	passed   int
	skipped  []string // with the reason
	failed   []string
	notes    []string // measured
	features [][2]string
	attempts int
	took     string
}

func (r result) ok() bool { return r.exit == 0 && len(r.failed) == 0 }

var (
	verdict  = regexp.MustCompile(`(?m)^@@ exit=([0-9]+)`)
	nameLine = regexp.MustCompile(`^=== (?:RUN|NAME|CONT)\s+(\S+)`)
	testLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)
	stalled  = regexp.MustCompile(`(?m)^@@ stalled: ([^\r\n]*) \(<nil>\)`)
	feature  = regexp.MustCompile(`(?m)^@@ feature ([^:]+): ([^\r\n]*)`)
	tookLine = regexp.MustCompile(`(?m)^@@ took ([^\r\n]+)`)
	active   = regexp.MustCompile(`\((\w+)\)`)
	saidLine = regexp.MustCompile(`^\s+\S+_test\.go:[0-9]+: (.*)`)
)

// judge reads the console. Tests that have tests of their own are not counted beside them.
func judge(g guest, console []byte) result {
	r := result{guest: g, exit: -1}
	if m := verdict.FindSubmatch(console); m != nil {
		r.exit, _ = strconv.Atoi(string(m[1]))
	}
	if m := tookLine.FindSubmatch(console); m != nil {
		r.took = string(m[1])
	}
	for _, m := range feature.FindAllSubmatch(console, -1) {
		r.features = append(r.features, [2]string{string(m[1]), string(m[2])})
	}
	r.checkPreemption()
	if g.group.judge != nil {
		g.group.judge(&r, console)
		return r
	}
	if m := stalled.FindSubmatch(console); m != nil {
		r.notes = append(r.notes, "the host stalled "+string(m[1]))
	}
	name, said := "", map[string]string{} // the last words of each test
	parents := map[string]bool{}
	type outcome struct{ name, verdict string }
	var outcomes []outcome
	for line := range strings.Lines(strings.ReplaceAll(string(console), "\r", "")) {
		if m := saidLine.FindStringSubmatch(line); m != nil {
			said[name] = m[1]
			if note, ok := strings.CutPrefix(m[1], noteMark); ok {
				r.notes = append(r.notes, note)
			}
		}
		if m := nameLine.FindStringSubmatch(line); m != nil {
			name = m[1]
		}
		if m := testLine.FindStringSubmatch(line); m != nil {
			outcomes = append(outcomes, outcome{m[2], m[1]})
			for i, c := range m[2] {
				if c == '/' {
					parents[m[2][:i]] = true
				}
			}
		}
	}
	for _, o := range outcomes {
		switch {
		case o.verdict == "SKIP" && said[o.name] == "":
			r.failed = append(r.failed, o.name+": skipped without a reason")
		case o.verdict == "SKIP":
			r.skipped = append(r.skipped, o.name+": "+said[o.name])
		case parents[o.name]:
		case o.verdict == "PASS":
			r.passed++
		default:
			r.failed = append(r.failed, fmt.Sprintf("%s: %.300s", o.name, said[o.name]))
		}
	}
	if r.exit == 0 && r.passed == 0 && len(r.failed) == 0 {
		r.failed = append(r.failed, "no test has passed")
	}
	return r
}

// preemption is the model that the kernel says it has.
func (r *result) preemption() string {
	for _, f := range r.features {
		if f[0] != preemptionFeature {
			continue
		}
		if m := active.FindStringSubmatch(f[1]); m != nil {
			return m[1]
		}
		return f[1]
	}
	return "unknown"
}

// checkPreemption: the kernel has the model that it was to have.
func (r *result) checkPreemption() {
	if got := r.preemption(); r.exit >= 0 && r.preempt != "" && got != r.preempt {
		r.failed = append(r.failed, fmt.Sprintf("preemption: %s, want %s", got, r.preempt))
	}
}
