package actor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const tracefs = "/sys/kernel/tracing"

// Blind begins to count the state changes that the kernel makes on top of a thread of process 1, and
// gives what ends and reports the count. There are kernels, of sandboxes, that do not run BPF
// programs then; what a test may miss there is at most this, and 0 where the count is 0. Where the
// kernel's own tracing cannot be had the count is 0.
func Blind(t testing.TB) func() int {
	t.Helper()
	_ = unix.Mount("tracefs", tracefs, "tracefs", 0, "") // it may be there already
	instance := filepath.Join(tracefs, "instances", fmt.Sprintf("connspan-%d", os.Getpid()))
	if err := os.Mkdir(instance, 0o700); err != nil {
		return func() int { return 0 }
	}
	t.Cleanup(func() { _ = os.Remove(instance) })
	threads, err := os.ReadDir("/proc/1/task")
	if err != nil {
		return func() int { return 0 }
	}
	var filter []string
	for _, thread := range threads {
		filter = append(filter, "common_pid == "+thread.Name())
	}
	event := filepath.Join(instance, "events/sock/inet_sock_set_state")
	for file, value := range map[string]string{
		filepath.Join(event, "filter"): strings.Join(filter, " || "),
		filepath.Join(event, "enable"): "1",
	} {
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			return func() int { return 0 }
		}
	}
	return func() int {
		b, err := os.ReadFile(filepath.Join(instance, "trace"))
		if err != nil {
			return 0
		}
		return bytes.Count(b, []byte("inet_sock_set_state:"))
	}
}
