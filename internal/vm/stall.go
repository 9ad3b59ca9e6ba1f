package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stall takes the processor away from the thread of vCPU 1 of a running QEMU, for 20 to 80 ms every
// 100 to 300 ms, as a host does that has other things to do, until QEMU ends, and says how often.
func stall(pid int, random *rand.Rand) (n int, err error) {
	runtime.LockOSThread() // ptrace goes by thread; and never unlocked, so that the traced one is let go
	thread, err := vCPU(pid, 1)
	if err != nil {
		return 0, err
	}
	if err := unix.PtraceSeize(thread); err != nil {
		return 0, fmt.Errorf("tracing vCPU 1: %w", err)
	}
	for ; ; n++ {
		time.Sleep(between(random, 100*time.Millisecond, 300*time.Millisecond))
		if err := stop(thread); err != nil {
			if errors.Is(err, errGone) {
				return n, nil
			}
			return n, fmt.Errorf("stopping vCPU 1: %w", err)
		}
		time.Sleep(between(random, 20*time.Millisecond, 80*time.Millisecond))
		if err := unix.PtraceCont(thread, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return n, fmt.Errorf("resuming vCPU 1: %w", err)
		}
	}
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// vCPU waits for QEMU to make the thread, and finds it by its name.
func vCPU(pid, number int) (int, error) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		threads, err := os.ReadDir(tasks)
		if err != nil {
			return 0, fmt.Errorf("looking for vCPU %d: %w", number, err)
		}
		for _, t := range threads {
			comm, err := os.ReadFile(filepath.Join(tasks, t.Name(), "comm"))
			if err == nil && strings.HasPrefix(string(comm), fmt.Sprintf("CPU %d/", number)) {
				return strconv.Atoi(t.Name())
			}
		}
	}
	return 0, fmt.Errorf("looking for vCPU %d: QEMU has none after 10 s", number)
}

var errGone = errors.New("the thread has ended")

// stop stops a traced thread. The signals that come before are passed on to it.
func stop(thread int) error {
	// Also where it has ended: its process is not gone before that has been waited for.
	if err := unix.PtraceInterrupt(thread); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for {
		var status unix.WaitStatus
		if _, err := unix.Wait4(thread, &status, unix.WALL, nil); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.ECHILD) {
				return errGone
			}
			return err
		}
		switch {
		case status.Exited() || status.Signaled():
			return errGone
		case int(status)>>16 == unix.PTRACE_EVENT_STOP:
			return nil
		}
		if err := unix.PtraceCont(thread, int(status.StopSignal())); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
}
