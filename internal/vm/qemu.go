package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	emulator  = "qemu-system-x86_64"
	leastQEMU = 10
	backports = "/bookworm-backports"
)

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
func newQEMU(ctx context.Context, a *apt) (*qemu, error) {
	installed := &qemu{program: emulator}
	if installed.ask(ctx) == nil {
		return installed, nil
	}
	dir := filepath.Join(a.dir, "qemu")
	q := &qemu{
		program: filepath.Join(dir, "usr/bin", emulator),
		args:    []string{"-L", filepath.Join(dir, "usr/share/qemu"), "-L", "/usr/share/seabios", "-L", "/usr/lib/ipxe/qemu"},
		env:     []string{"QEMU_MODULE_DIR=" + filepath.Join(dir, "usr/lib/x86_64-linux-gnu/qemu")},
	}
	if q.ask(ctx) == nil {
		return q, nil
	}
	for _, name := range []string{"qemu-system-common", "qemu-system-data", "qemu-system-x86"} {
		if err := a.download(ctx, dir, name+backports); err != nil {
			return nil, err
		}
	}
	return q, q.ask(ctx)
}
