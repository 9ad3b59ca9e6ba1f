// Vm runs the kernel's tests on other kernels, in virtual machines, and the tests that only a virtual
// machine can: a CPU goes away, the wall clock is set, the host stalls a CPU.
//
//	go run ./internal/vm [-short] [-run REGEXP] [-page FILE] KERNEL...
//
// KERNEL is a line of kernels such as 6.12, or newest, or all. Kernels and QEMU come from the Debian
// mirror that this machine uses, and are kept in ${CONNSPAN_CACHE:-~/.cache/connspan}/vm; nothing is
// installed.
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
	short = flag.Bool("short", false, "the groups that take little time, with two vCPUs")
	which = flag.String("run", "", "the groups to run, a regular expression")
	file  = flag.String("page", "", "the document to write")
	seed  = flag.Uint64("seed", rand.Uint64(), "of the stalls")
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
	h, kernels, err := prepare(ctx, flag.Args())
	if err != nil {
		return err
	}
	h.seed = *seed
	guests := plan(kernels, wanted, *short)
	began := time.Now()
	fmt.Printf("%d guests, QEMU %s, stalls of seed %d, consoles in %s\n", len(guests), h.qemu.version, h.seed, h.logs)
	results, err := h.runAll(ctx, guests)
	if err != nil {
		return err
	}
	text := page(h.qemu.version, results)
	fmt.Printf("\n%s\n%d guests in %v\n", text, len(results), time.Since(began).Round(time.Second))
	if *file != "" {
		if err := errors.Join(os.MkdirAll(filepath.Dir(*file), 0o755), os.WriteFile(*file, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(results, func(r result) bool { return !r.ok() }); i >= 0 {
		return fmt.Errorf("%s; see %s", results[i].line(), h.logs)
	}
	return nil
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
	a, err := openApt(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	if h.qemu, err = newQEMU(ctx, a); err != nil {
		return nil, nil, err
	}
	kernels, err := a.kernels(ctx, lines)
	if err != nil {
		return nil, nil, err
	}
	h.initramfs, err = newInitramfs(ctx)
	return h, kernels, err
}

// plan gives the guests, those first whose vCPUs take turns.
func plan(kernels []kernel, wanted *regexp.Regexp, short bool) (guests []guest) {
	newest := slices.MaxFunc(kernels, func(a, b kernel) int { return compareVersions(a.line, b.line) })
	for _, k := range kernels {
		of := groupsOf(k.line)
		if short || k != newest {
			of = one(of)
		}
		for i := range of {
			if short && of[i].long || of[i].newest && k != newest {
				continue
			}
			for _, cpus := range of[i].cpus {
				if wanted.MatchString(of[i].name) {
					guests = append(guests, guest{k, cpus, &of[i]})
				}
			}
		}
	}
	slices.SortStableFunc(guests, func(a, b guest) int {
		switch {
		case a.group.parallel == b.group.parallel:
			return 0
		case b.group.parallel:
			return -1
		}
		return 1
	})
	return guests
}

// runAll runs as many guests at a time as this machine has processors. One with vCPUs that run at the
// same time has the machine for itself.
func (h *host) runAll(ctx context.Context, guests []guest) ([]result, error) {
	results := make([]result, len(guests))
	errs := make([]error, len(guests))
	slots := make(chan struct{}, runtime.NumCPU())
	var running sync.WaitGroup
	for i, g := range guests {
		if g.group.parallel {
			running.Wait()
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if results[i], errs[i] = h.run(ctx, g); errs[i] == nil {
				fmt.Println(results[i].line())
			}
		})
	}
	running.Wait()
	return results, cmp.Or(ctx.Err(), errors.Join(errs...))
}
