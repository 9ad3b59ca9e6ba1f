package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// A cpio is an initramfs in the making, in the only format that the kernel takes: "newc", see the
// kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
type cpio struct {
	bytes.Buffer
	directories map[string]bool
}

// entry adds a file or a directory.
func (c *cpio) entry(name string, mode uint32, data []byte) {
	const magic, inode, links = 0x070701, 0, 1
	header := fmt.Appendf(nil, "%06x", magic)
	for _, field := range []int{inode, int(mode), 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0} {
		header = fmt.Appendf(header, "%08x", field)
	}
	c.Write(header)
	c.WriteString(name + "\x00")
	c.pad()
	c.Write(data)
	c.pad()
}

func (c *cpio) pad() { c.Write(make([]byte, -c.Len()&3)) }

// file adds an executable file, and its directories before it.
func (c *cpio) file(name string, data []byte) {
	c.directory(path.Dir(name))
	c.entry(name, 0o100755, data)
}

func (c *cpio) directory(name string) {
	if name == "." || c.directories[name] {
		return
	}
	c.directory(path.Dir(name))
	if c.directories == nil {
		c.directories = map[string]bool{}
	}
	c.directories[name] = true
	c.entry(name, 0o040755, nil)
}

// copy adds a file of this machine.
func (c *cpio) copy(name, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	c.file(name, data)
	return nil
}

// archive ends it. Another may follow: the kernel unpacks one after the other.
func (c *cpio) archive() []byte {
	c.entry("TRAILER!!!", 0, nil)
	return c.Bytes()
}

// programs are those of this module in a guest, by name, and what makes each.
var programs = []struct {
	name string
	make []string
}{
	{"init", []string{"build", "./internal/vm/init"}},
	{"bin/connspan", []string{"build", "."}},
	{"bin/probe.test", []string{"test", "-c", "./internal/probe"}},
	{"bin/exporter.test", []string{"test", "-c", "./exporter"}},
	{"bin/coverage.test", []string{"test", "-c", "./internal/coverage"}},
}

// tools are those of this machine that the tests call. Guests of another architecture have none.
var tools = []string{"bash", "ip", "readlink", "unshare"}

// newInitramfs builds what all guests of an architecture have in common. It runs in the module's root.
func newInitramfs(ctx context.Context, arch *architecture) ([]byte, error) {
	dir, err := os.MkdirTemp("", "connspan-vm-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var c cpio
	for _, p := range programs {
		built := filepath.Join(dir, filepath.Base(p.name))
		args := append([]string{p.make[0], "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", built}, p.make[1:]...)
		cmd := exec.CommandContext(ctx, cmp.Or(os.Getenv("GO"), "go"), args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch.name)
		if _, err := output(cmd); err != nil {
			return nil, err
		}
		if err := c.copy(p.name, built); err != nil {
			return nil, err
		}
	}
	if arch.native() {
		for _, tool := range tools {
			if err := c.tool(ctx, tool); err != nil {
				return nil, err
			}
		}
	}
	err = c.tree("testdata", filepath.Join("exporter", "testdata"))
	return c.archive(), err
}

// tree adds all files below a directory of this machine.
func (c *cpio) tree(name, from string) error {
	return fs.WalkDir(os.DirFS(from), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return c.copy(path.Join(name, file), filepath.Join(from, file))
	})
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// tool adds a program of this machine, with its shared libraries.
func (c *cpio) tool(ctx context.Context, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	out, err := output(exec.CommandContext(ctx, "ldd", file))
	if err != nil {
		return err
	}
	err = c.copy("bin/"+name, file)
	for _, m := range library.FindAllStringSubmatch(out, -1) {
		err = errors.Join(err, c.copy(strings.TrimPrefix(m[1], "/"), m[1]))
	}
	return err
}
