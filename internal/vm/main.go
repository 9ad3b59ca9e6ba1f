// Vm runs the kernel's tests on other kernels, in virtual machines, and the tests that only a virtual
// machine can: a CPU goes away, the wall clock is set, the host stalls a CPU.
//
//	go run ./internal/vm [-short] [-run REGEXP] [-parallel N] [-resume] [-page FILE] KERNEL...
//
// KERNEL is a line of kernels such as 6.12, or newest, or all; newest:arm64 is one of another
// architecture. Kernels and QEMU come from the Debian mirror that this machine uses, and are kept in
// ${CONNSPAN_CACHE:-~/.cache/connspan}/vm; nothing is installed.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var (
	short  = flag.Bool("short", false, "the groups that take little time, with two vCPUs")
	which  = flag.String("run", "", "the guests to run, a regular expression: \"6.1, 4 vCPUs, preempt=full, hotplug\" is one")
	atOnce = flag.Int("parallel", runtime.NumCPU(), "guests at the same time")
	resume = flag.Bool("resume", false, "do not run again what passed before, with the same programs")
	file   = flag.String("page", "", "the document to write, once all guests have a result")
	seed   = flag.Uint64("seed", rand.Uint64(), "of the stalls")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	wanted, err := regexp.Compile(*which)
	if err != nil {
		return err
	}
	if flag.NArg() == 0 {
		return errors.New("no kernel named: such as 6.12, or newest, or all")
	}
	if *file != "" && (*short || *which != "") {
		return errors.New("-page is about all guests: not with -short or -run")
	}
	h, kernels, err := prepare(ctx, flag.Args())
	if err != nil {
		return err
	}
	h.seed, h.resume = *seed, *resume
	guests := plan(kernels, wanted, *short)
	began := time.Now()
	version := h.machines[kernels[0].arch].qemu.version
	fmt.Printf("%d guests, QEMU %s, stalls of seed %d, consoles in %s\n", len(guests), version, h.seed, h.logs)
	results, err := h.runAll(ctx, guests, max(*atOnce, 1))
	missing := len(guests) - len(results)
	if missing > 0 {
		err = fmt.Errorf("running %d guests: %d have no result: %w", len(guests), missing, err)
	}
	text := page(version, guests, results)
	fmt.Printf("\n%s\n%d guests in %v: %s\n", text, len(results), time.Since(began).Round(time.Second), totals(guests, results))
	if *file != "" && missing == 0 {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(*file), 0o755), os.WriteFile(*file, []byte(text), 0o644))
	}
	if i := slices.IndexFunc(results, func(r result) bool { return !r.ok() }); i >= 0 {
		err = errors.Join(err, fmt.Errorf("%s; see %s", results[i].line(), h.logs))
	}
	return err
}

// prepare fetches what is missing and builds what guests run.
func prepare(ctx context.Context, lines []string) (*host, []kernel, error) {
	cache := os.Getenv("CONNSPAN_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, nil, err
		}
		cache = filepath.Join(user, "connspan")
	}
	dir := filepath.Join(cache, "vm")
	h := &host{logs: filepath.Join(dir, "logs"), patience: patience + time.Minute, tscRate: tscRate()}
	if err := os.MkdirAll(h.logs, 0o755); err != nil {
		return nil, nil, err
	}
	if err := lock(dir); err != nil {
		return nil, nil, err
	}
	a, err := openApt(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	kernels, err := a.kernels(ctx, lines)
	if err != nil {
		return nil, nil, err
	}
	h.machines = map[*architecture]machine{}
	for _, k := range kernels {
		if h.machines[k.arch].qemu != nil {
			continue
		}
		var m machine
		if m.qemu, err = newQEMU(ctx, a, k.arch); err != nil {
			return nil, nil, err
		}
		if m.initramfs, err = newInitramfs(ctx, k.arch); err != nil {
			return nil, nil, err
		}
		h.machines[k.arch] = m
	}
	return h, kernels, nil
}

// lock keeps the directory for this process, until it ends.
func lock(dir string) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("locking %s, which another run may use: %w", dir, err), unix.Close(fd))
	}
	return nil
}

// plan gives the guests, those last whose vCPUs run at the same time.
func plan(kernels []kernel, wanted *regexp.Regexp, short bool) (guests []guest) {
	for _, k := range kernels {
		of := groupsOf(k.line)
		for i := range of {
			for _, g := range of[i].guests(k, short) {
				if wanted.MatchString(g.String()) {
					guests = append(guests, g)
				}
			}
		}
	}
	slices.SortStableFunc(guests, func(a, b guest) int {
		switch {
		case a.group.parallel == b.group.parallel:
			return 0
		case a.group.parallel:
			return 1
		}
		return -1
	})
	return guests
}

// runAll runs so many guests at the same time. One with vCPUs that run at the same time has the machine
// for itself. Where it is interrupted it gives the results that there are.
func (h *host) runAll(ctx context.Context, guests []guest, atOnce int) ([]result, error) {
	results := make([]result, len(guests))
	errs := make([]error, len(guests))
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for i, g := range guests {
		if results[i] = h.passed(g); results[i].attempts > 0 {
			fmt.Println(results[i].line(), "before")
		}
	}
	for i, g := range guests {
		if results[i].attempts > 0 {
			continue
		}
		if g.group.parallel {
			running.Wait()
		}
		slots <- struct{}{}
		if ctx.Err() != nil { // the consoles of an earlier run stay
			break
		}
		running.Go(func() {
			defer func() { <-slots }()
			if results[i], errs[i] = h.run(ctx, g); errs[i] == nil {
				fmt.Println(results[i].line())
			}
		})
	}
	running.Wait()
	results = slices.DeleteFunc(results, func(r result) bool { return r.attempts == 0 })
	return results, cmp.Or(ctx.Err(), errors.Join(errs...))
}
