package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
)

// A qemu is an emulator that can be trusted: 7.2, for one, miscompiles cmpxchg16b, and guests under
// load crash at random.
type qemu struct {
	program string
	args    []string // where it finds its firmware
	env     []string // and its modules
	version string
}

const (
	leastQEMU = 10
	backports = "/bookworm-backports"
)

// An architecture is one that guests may have.
type architecture struct {
	name     string // as Go and Debian call it
	emulator string
	pkg      string // that has the emulator
	machine  []string
	console  string // the serial line
}

var architectures = []*architecture{
	{name: "amd64", emulator: "qemu-system-x86_64", pkg: "qemu-system-x86", machine: []string{"-machine", "q35", "-cpu", "max"}, console: "ttyS0"},
	{
		name: "arm64", emulator: "qemu-system-aarch64", pkg: "qemu-system-arm",
		machine: []string{"-machine", "virt", "-cpu", "max,pauth-impdef=on"}, console: "ttyAMA0",
	},
}

// architectureOf gives the one of a name, and that of this machine for none.
func architectureOf(name string) (*architecture, error) {
	name = cmp.Or(name, runtime.GOARCH)
	for _, a := range architectures {
		if a.name == name {
			return a, nil
		}
	}
	return nil, fmt.Errorf("looking for an emulator of %s: only amd64 and arm64 are known", name)
}

// native tells whether programs of this machine run in its guests.
func (a *architecture) native() bool { return a.name == runtime.GOARCH }

var version = regexp.MustCompile(`version (([0-9]+)\.[0-9.]+)`)

// ask finds out the version; it is an error where it is too old, or the program does not run.
func (q *qemu) ask(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, q.program, "--version")
	cmd.Env = append(os.Environ(), q.env...)
	out, err := output(cmd)
	if err != nil {
		return err
	}
	if m := version.FindStringSubmatch(out); m != nil {
		if major, err := strconv.Atoi(m[2]); err == nil && major >= leastQEMU {
			q.version = m[1]
			return nil
		}
	}
	return fmt.Errorf("looking for QEMU %d or newer: %s says %q", leastQEMU, q.program, out)
}

// newQEMU gives the one that is installed, where it is new enough, or else unpacks bookworm's
// backport. The backport needs the shared libraries and the firmware of an installed one.
func newQEMU(ctx context.Context, a *apt, arch *architecture) (*qemu, error) {
	installed := &qemu{program: arch.emulator}
	if installed.ask(ctx) == nil {
		return installed, nil
	}
	dir := filepath.Join(a.dir, "qemu")
	q := &qemu{
		program: filepath.Join(dir, "usr/bin", arch.emulator),
		args:    []string{"-L", filepath.Join(dir, "usr/share/qemu"), "-L", "/usr/share/seabios", "-L", "/usr/lib/ipxe/qemu"},
		env:     []string{"QEMU_MODULE_DIR=" + filepath.Join(dir, "usr/lib/x86_64-linux-gnu/qemu")},
	}
	if q.ask(ctx) == nil {
		return q, nil
	}
	for _, name := range []string{"qemu-system-common", "qemu-system-data", arch.pkg} {
		if err := a.download(ctx, dir, name+backports); err != nil {
			return nil, err
		}
	}
	return q, q.ask(ctx)
}
