// Init is process 1 of a guest: it mounts what the tests want, runs the program that the kernel's
// command line names behind "--", says on the console how that ended, and switches the guest off.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mounts are the file systems of a guest, beside the initramfs itself.
var mounts = []struct{ kind, at string }{
	{"proc", "/proc"},
	{"sysfs", "/sys"},
	{"devtmpfs", "/dev"},
	{"tmpfs", "/tmp"},
	{"debugfs", "/sys/kernel/debug"},
	{"tracefs", "/sys/kernel/tracing"},
	{"bpf", "/sys/fs/bpf"},
	{"cgroup2", "/sys/fs/cgroup"},
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is the init of a guest; see internal/vm")
		os.Exit(2)
	}
	if err := prepare(); err != nil {
		fmt.Println("@@ preparing the guest:", err)
	}
	if err := describe(); err != nil {
		fmt.Println("@@ describing the kernel:", err)
	}
	began := time.Now()
	code := run(os.Args[1:])
	// The host takes this line as the verdict; a guest that does not say it has died.
	fmt.Printf("\n@@ exit=%d after %v\n", code, time.Since(began).Round(time.Millisecond))
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("@@ switching off:", err)
	}
}

func prepare() error {
	var errs []error
	for _, m := range mounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			errs = append(errs, err)
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			errs = append(errs, fmt.Errorf("mounting %s: %w", m.at, err))
		}
	}
	files := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20} // as usual; the kernel's own is 4096
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		errs = append(errs, fmt.Errorf("raising the limit of open files: %w", err))
	}
	return errors.Join(append(errs, setLoopbackUp(), loadModules("/modules"))...)
}

// setLoopbackUp is what "ip link set lo up" does. See netdevice(7).
func setLoopbackUp() error {
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := errors.Join(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo), unix.Close(fd)); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}

// functions are those of the kernel that connspan uses where they are, and what it is that they are for.
var functions = []struct{ name, purpose string }{
	{"bpf_trampoline_link_prog", "fentry and fexit"},
	{"bpf_preempt_disable", "`bpf_preempt_disable`"},
	{"bpf_local_irq_save", "`bpf_local_irq_save`"},
}

// describe says which of the features there are that not every kernel has.
func describe() error {
	preemption, err := os.ReadFile("/sys/kernel/debug/sched/preempt")
	if err != nil {
		preemption = []byte("as built")
	}
	fmt.Printf("@@ feature preemption: %s\n", bytes.TrimSpace(preemption))
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	for _, f := range functions {
		answer := "no"
		if bytes.Contains(types, []byte("\x00"+f.name+"\x00")) {
			answer = "yes"
		}
		fmt.Printf("@@ feature %s: %s\n", f.purpose, answer)
	}
	return err
}

// loadModules loads all modules of a directory, in the order of their names.
func loadModules(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		errs = append(errs, loadModule(filepath.Join(dir, file.Name())))
	}
	return errors.Join(errs...)
}

// loadModule loads a module of the running kernel.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("loading %s: %w", path, err)
	}
	return nil
}

// run gives the program's exit code. The kernel has turned its own unknown parameters, which say to a
// test where it runs, into the environment.
func run(args []string) int {
	if len(args) == 0 {
		fmt.Println("@@ nothing to run")
		return 1
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Printf("@@ kernel %s runs %v (%v)\n", strings.TrimSpace(string(release)), args, err)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH=/bin", "HOME=/tmp")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Println("@@", err)
		return max(1, cmd.ProcessState.ExitCode())
	}
	return 0
}
