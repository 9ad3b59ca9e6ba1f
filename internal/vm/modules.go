package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// modules are those that tests want, and that nothing in a guest loads for them. What a kernel does not have
// as a module it may have in its image.
var modules = []string{
	"veth",
	"inet_diag", "tcp_diag", // SOCK_DESTROY
	"tls", "gcm", "ctr", "ghash-generic", // with gcm(aes)
}

// unpackModules gives a directory with the modules, and all that they depend on, of the kernel that is
// unpacked below dir, in the order in which they can be loaded.
func unpackModules(ctx context.Context, dir string) (string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _, ok := strings.Cut(d.Name(), ".ko"); ok && d.Type().IsRegular() {
			files[moduleName(name)] = p
		}
		return nil
	})
	if err == nil && files["veth"] == "" {
		err = errors.New("unpacking a kernel: its packages have no veth.ko*")
	}
	if err != nil {
		return "", err
	}
	u := unpacking{files: files, to: filepath.Join(dir, "modules"), done: map[string]bool{}}
	err = os.Mkdir(u.to, 0o755)
	for _, name := range modules {
		err = errors.Join(err, u.add(ctx, moduleName(name)))
	}
	return u.to, err
}

// moduleName is the name that others depend on, whatever the file's is.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// unpacking is a set of modules in the making.
type unpacking struct {
	files map[string]string // compressed or not, by the module's name
	to    string
	done  map[string]bool
}

// add adds a module behind those that it depends on.
func (u *unpacking) add(ctx context.Context, name string) error {
	file := u.files[name]
	if file == "" || u.done[name] {
		return nil
	}
	u.done[name] = true
	file, err := decompressed(ctx, file)
	if err != nil {
		return err
	}
	needed, err := dependencies(file)
	for _, other := range needed {
		err = errors.Join(err, u.add(ctx, moduleName(other)))
	}
	if err != nil {
		return err
	}
	there, err := os.ReadDir(u.to)
	return errors.Join(err, os.Rename(file, filepath.Join(u.to, fmt.Sprintf("%02d-%s.ko", len(there), name))))
}

// decompressed gives the module itself. Older kernels have theirs as they are.
func decompressed(ctx context.Context, file string) (string, error) {
	plain, ok := strings.CutSuffix(file, ".xz")
	if !ok {
		return file, nil
	}
	_, err := output(exec.CommandContext(ctx, "xz", "--decompress", file))
	return plain, err
}

// dependencies reads the names of the modules that have to be loaded before.
func dependencies(file string) ([]string, error) {
	module, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	defer func() { _ = module.Close() }()
	section := module.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("reading %s: no section .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("reading .modinfo of %s: %w", file, err)
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if names, ok := bytes.CutPrefix(field, []byte("depends=")); ok && len(names) > 0 {
			return strings.Split(string(names), ","), nil
		}
	}
	return nil, nil
}
