package actor

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A NetNS is a network namespace with nothing in it but loopback. It is there for as long as its test,
// and anybody who uses it, so that its inode is nobody else's meanwhile.
type NetNS struct {
	t    testing.TB
	file *os.File
}

// NewNetNS makes a network namespace.
func NewNetNS(t testing.TB) *NetNS {
	t.Helper()
	n := &NetNS{t: t}
	onThread(t, "making a network namespace", func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return raise("lo")
	})
	t.Cleanup(n.Release)
	return n
}

// For is the same namespace, for a test that is part of the one that has made it.
func (n *NetNS) For(t testing.TB) *NetNS { return &NetNS{t: t, file: n.file} }

// Release leaves it to those who are inside whether the namespace stays.
func (n *NetNS) Release() { _ = n.file.Close() }

// onThread has a thread of its own run f, and ends the thread.
func onThread(t testing.TB, what string, f func() error) {
	t.Helper()
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: what f has made of the thread ends with it
		ended <- f()
	}()
	if err := <-ended; err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// raise switches a network interface on.
func raise(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// Do runs f on a thread inside the namespace. What f starts or opens stays inside. An error ends the test.
func (n *NetNS) Do(what string, f func() error) {
	n.t.Helper()
	onThread(n.t, what, func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return f()
	})
}

// Inode names the namespace.
func (n *NetNS) Inode() int64 {
	n.t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &stat); err != nil {
		n.t.Fatal(err)
	}
	return int64(stat.Ino)
}

// Sysctl sets a parameter of the namespace, by its name below net, and says whether the kernel has it.
func (n *NetNS) Sysctl(name, value string) (has bool) {
	n.t.Helper()
	path := filepath.Join("/proc/sys/net", strings.ReplaceAll(name, ".", "/"))
	n.Do("setting "+name, func() error {
		err := os.WriteFile(path, []byte(value), 0)
		has = !os.IsNotExist(err)
		if !has {
			return nil
		}
		return err
	})
	return has
}

// Start is [Start] inside the namespace.
func (n *NetNS) Start(name string, plan Plan) (p *Process) {
	n.t.Helper()
	n.Do("starting "+name, func() error {
		p = Start(n.t, name, plan)
		return nil
	})
	return p
}

// Caller starts a [Caller] inside the namespace.
func (n *NetNS) Caller() *Caller {
	n.t.Helper()
	p := n.Start("caller", Plan{})
	c := &Caller{Process: p, TID: p.Report().TID}
	return c
}
