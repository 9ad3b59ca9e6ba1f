package main

import (
	"bytes"
	"context"
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
	kernel kernel
	cpus   int
	group  *group
}

func (g guest) String() string {
	return fmt.Sprintf("%s, %d vCPUs, %s", g.kernel.line, g.cpus, g.group.name)
}

// A host is what guests run on.
type host struct {
	qemu      *qemu
	initramfs []byte
	logs      string // directory
	patience  time.Duration
	seed      uint64 // of the stalls
	tscRate   uint64 // kHz
}

// patience is how long the tests of a guest may take by its own clock; the test binary ends what hangs,
// with a dump of all goroutines. The host waits a little longer, by its own.
const patience = 10 * time.Minute

// run boots a guest and judges what it says. One that dies, or that nothing is heard of, gets a second try: an emulator that
// runs vCPUs in parallel is not beyond doubt. The result tells of it.
func (h *host) run(ctx context.Context, g guest) (result, error) {
	var r result
	for attempt := 1; attempt <= 2; attempt++ {
		began := time.Now()
		console, err := h.boot(ctx, g, attempt)
		if err != nil {
			return result{}, fmt.Errorf("running %v: %w", g, err)
		}
		r = judge(g, console)
		r.attempts, r.took = attempt, time.Since(began)
		if r.exit >= 0 {
			break
		}
	}
	return r, nil
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
	module, err := os.ReadFile(g.kernel.veth)
	if err != nil {
		return nil, err
	}
	var own cpio
	own.file("veth.ko", module)
	if err := os.WriteFile(initramfs, append(bytes.Clone(h.initramfs), own.archive()...), 0o600); err != nil {
		return nil, err
	}

	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("/ ,", r) {
			return '-'
		}
		return r
	}, fmt.Sprintf("%s-%dcpu-%s-%d.log", g.kernel.line, g.cpus, g.group.name, attempt))
	log, err := os.Create(filepath.Join(h.logs, name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := h.command(ctx, g, initramfs)
	cmd.Stdout, cmd.Stderr = log, log
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
	console, err := os.ReadFile(log.Name())
	return console, errors.Join(err, whole.Err())
}

// command is forced to emulate: /dev/kvm may be there and not boot anything. Where vCPUs take turns the
// guest's time is that of its instructions, so that a busy host makes a guest slow and not its tests
// fail, and passes while nothing runs.
func (h *host) command(ctx context.Context, g guest, initramfs string) *exec.Cmd {
	kernel := "console=ttyS0 quiet panic=-1 oops=panic tsc=reliable" // or a guest under load takes to a slower clock
	accelerator := []string{"-accel", "tcg,thread=single", "-icount", "shift=3,sleep=off"}
	if g.group.parallel {
		accelerator = []string{"-accel", "tcg,thread=multi"}
		if h.tscRate != 0 {
			kernel += fmt.Sprintf(" tsc_early_khz=%d", h.tscRate)
		}
	}
	args := slices.Concat(h.qemu.args, accelerator, []string{
		"-machine", "q35", "-cpu", "max", "-smp", strconv.Itoa(g.cpus), "-m", "1536",
		"-name", "connspan,debug-threads=on", "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
		"-monitor", "none", "-serial", "stdio", "-kernel", g.kernel.image, "-initrd", initramfs,
		"-append", kernel + " " + g.group.commandLine(),
	})
	cmd := exec.CommandContext(ctx, h.qemu.program, args...)
	cmd.Env = append(os.Environ(), h.qemu.env...)
	return cmd
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
	took     time.Duration
}

func (r result) ok() bool { return r.exit == 0 && len(r.failed) == 0 }

var (
	verdict  = regexp.MustCompile(`(?m)^@@ exit=([0-9]+)`)
	testLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)
	stalled  = regexp.MustCompile(`(?m)^@@ stalled: ([^\r\n]*) \(<nil>\)`)
	feature  = regexp.MustCompile(`(?m)^@@ feature ([^:]+): ([^\r\n]*)`)
	saidLine = regexp.MustCompile(`^\s+\S+_test\.go:[0-9]+: (.*)`)
)

// judge reads the console. Tests that have tests of their own are not counted beside them.
func judge(g guest, console []byte) result {
	r := result{guest: g, exit: -1}
	if m := verdict.FindSubmatch(console); m != nil {
		r.exit, _ = strconv.Atoi(string(m[1]))
	}
	for _, m := range feature.FindAllSubmatch(console, -1) {
		r.features = append(r.features, [2]string{string(m[1]), string(m[2])})
	}
	if g.group.judge != nil {
		g.group.judge(&r, console)
		return r
	}
	if m := stalled.FindSubmatch(console); m != nil {
		r.notes = append(r.notes, "the host stalled "+string(m[1]))
	}
	said := ""
	parents := map[string]bool{}
	type outcome struct{ name, verdict, said string }
	var outcomes []outcome
	for line := range strings.Lines(strings.ReplaceAll(string(console), "\r", "")) {
		if m := saidLine.FindStringSubmatch(line); m != nil {
			said = m[1]
			if note, ok := strings.CutPrefix(said, noteMark); ok {
				r.notes = append(r.notes, note)
			}
		}
		if m := testLine.FindStringSubmatch(line); m != nil {
			outcomes = append(outcomes, outcome{m[2], m[1], said})
			for i, c := range m[2] {
				if c == '/' {
					parents[m[2][:i]] = true
				}
			}
		}
	}
	for _, o := range outcomes {
		switch {
		case o.verdict == "SKIP":
			r.skipped = append(r.skipped, o.name+": "+o.said)
		case parents[o.name]:
		case o.verdict == "PASS":
			r.passed++
		default:
			r.failed = append(r.failed, fmt.Sprintf("%s: %.300s", o.name, o.said))
		}
	}
	return r
}
