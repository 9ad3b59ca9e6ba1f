package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const tick = 10 * time.Millisecond // USER_HZ, of /proc/stat

var started = time.Now()

// machineTime is how long the processors of this machine have not been idle, to a constant. What the
// kernel counts exactly is idle time, so that is what it is taken from.
func machineTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	now := time.Since(started)
	idle, cpus, err := parseStat(b)
	return time.Duration(cpus)*now - idle, err
}

// parseStat gives the time that nobody had of all processors together, idle, waiting and stolen, and how
// many processors there are.
func parseStat(b []byte) (idle time.Duration, cpus int, err error) {
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 9 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		if fields[0] != "cpu" {
			cpus++
			continue
		}
		for _, i := range []int{4, 5, 8} {
			n, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("reading the time that is idle: %w", err)
			}
			idle += time.Duration(n) * tick
		}
	}
	if cpus == 0 {
		return 0, 0, errors.New("reading the time that is idle: no processors")
	}
	return idle, cpus, nil
}

// processorTime is what the threads of a process have used.
func processorTime(pid int) (total time.Duration, err error) {
	err = eachThread(pid, "schedstat", func(text string) error {
		n, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
		total += time.Duration(n)
		return err
	})
	return total, err
}

// switches is how often the threads of a process have been switched to.
func switches(pid int) (total int, err error) {
	err = eachThread(pid, "status", func(text string) error {
		for _, name := range []string{"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"} {
			n, err := statusField(text, name)
			if err != nil {
				return err
			}
			total += n
		}
		return nil
	})
	return total, err
}

// eachThread gives f a file of each thread that is still there.
func eachThread(pid int, file string, f func(text string) error) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/%s", pid, file))
	if err != nil || len(tasks) == 0 {
		return errors.Join(fmt.Errorf("process %d has no threads", pid), err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err := errors.Join(err, f(string(b))); err != nil {
			return fmt.Errorf("reading %s: %w", task, err)
		}
	}
	return nil
}

// memory is the resident set of a process, in octets: now, and the most that it has been.
func memory(pid int) (now, most int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	now, err = statusField(string(b), "VmRSS")
	if err != nil {
		return 0, 0, err
	}
	most, err = statusField(string(b), "VmHWM")
	return now << 10, most << 10, err
}

func statusField(text, name string) (int, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.Atoi(strings.Fields(value)[0])
		}
	}
	return 0, fmt.Errorf("no %s in a status", name)
}

// programs gives, of the BPF programs that a process has open, how long they have run and how often. The
// kernel counts while statistics are on.
func programs(pid int) (run time.Duration, times, loaded int, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	seen := map[int]bool{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(b, []byte("\nrun_time_ns:")) {
			continue // no program
		}
		var values [3]int
		for i, name := range []string{"prog_id", "run_time_ns", "run_cnt"} {
			if values[i], err = statusField(string(b), name); err != nil {
				return 0, 0, 0, fmt.Errorf("reading %s: %w", file, err)
			}
		}
		if id := values[0]; !seen[id] {
			seen[id] = true
			run += time.Duration(values[1])
			times += values[2]
		}
	}
	return run, times, len(seen), err
}

// withStatistics has the kernel count the time of BPF programs meanwhile.
func withStatistics(do func() error) error {
	const file = "/proc/sys/kernel/bpf_stats_enabled"
	before, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte("1"), 0o644); err != nil {
		return err
	}
	return errors.Join(do(), os.WriteFile(file, before, 0o644))
}

// slabs is how many octets of the kernel's own memory, of the sizes that nobody has named, are in use:
// what BPF keeps with a socket is among them.
func slabs() (octets int, err error) {
	f, err := os.Open("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var name string
		var active, all, size int
		if n, _ := fmt.Sscan(lines.Text(), &name, &active, &all, &size); n == 4 && strings.HasPrefix(name, "kmalloc-") {
			octets += active * size
		}
	}
	return octets, lines.Err()
}

// host says in a sentence what was measured on.
func host() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	model := "processors"
	cpus := 0
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		switch name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) {
		case "processor":
			cpus++
		case "model name":
			model = strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("%s, Linux %s, %d × %s.\n", time.Now().Format(time.DateOnly), release, cpus, model)
}
