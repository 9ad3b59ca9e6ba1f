package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// module is one of the kernel's, but for its code.
func module(t *testing.T, depends string) []byte {
	t.Helper()
	const names, size = "\x00.modinfo\x00.shstrtab\x00", 64 // of a header, of either kind
	info := "license=GPL\x00depends=" + depends + "\x00name=it\x00"
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: uint64(size + len(info) + len(names)), Ehsize: size, Shentsize: size, Shnum: 3, Shstrndx: 2,
	}
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: size, Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(size + len(info)), Size: uint64(len(names))},
	}
	var b bytes.Buffer
	for _, part := range []any{header, []byte(info + names), sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestModules: what a module depends on comes before it, once, however it is compressed and wherever it is.
func TestModules(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, "lib/modules/1", name) }
	err := errors.Join(
		os.MkdirAll(in("net"), 0o755),
		os.WriteFile(in("net/veth.ko"), module(t, ""), 0o600),
		os.WriteFile(in("net/tcp_diag.ko"), module(t, "inet_diag"), 0o600),
		os.WriteFile(in("net/inet_diag.ko"), module(t, ""), 0o600),
		os.WriteFile(in("ghash-generic.ko"), module(t, "gf128mul,some-thing"), 0o600),
		os.WriteFile(in("gf128mul.ko"), module(t, ""), 0o600),
		os.WriteFile(in("some_thing.ko"), module(t, "gf128mul"), 0o600),
		os.WriteFile(in("unwanted.ko"), module(t, "veth"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := output(exec.CommandContext(t.Context(), "xz", in("gf128mul.ko"))); err != nil {
		t.Skip("needs xz: ", err)
	}
	to, err := unpackModules(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(to)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, file := range files {
		got = append(got, file.Name())
	}
	want := []string{"00-veth.ko", "01-inet_diag.ko", "02-tcp_diag.ko", "03-gf128mul.ko", "04-some_thing.ko", "05-ghash_generic.ko"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("modules, in order (-want +got):\n%s", d)
	}
	if b, err := os.ReadFile(filepath.Join(to, "03-gf128mul.ko")); err != nil || !bytes.Equal(b, module(t, "")) {
		t.Errorf("a compressed module is not what it was (%v)", err)
	}
	if _, err := unpackModules(t.Context(), t.TempDir()); err == nil {
		t.Error("a kernel without veth.ko goes unnoticed")
	}
}

// TestOffline: where the mirror is not there, lists that are too old are better than none, and none are an error.
func TestOffline(t *testing.T) {
	programs, dir := t.TempDir(), t.TempDir()
	const aptGet = `#!/bin/sh
case "$*" in
*indextargets*) echo http://mirror.invalid/$ARCHIVE ;;
*) test "$MIRROR" = there ;;
esac
`
	const aptCache = "#!/bin/sh\necho linux-image-7.3.4+deb13-cloud-amd64\n"
	err := errors.Join(
		os.WriteFile(filepath.Join(programs, "apt-get"), []byte(aptGet), 0o700),
		os.WriteFile(filepath.Join(programs, "apt-cache"), []byte(aptCache), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	t.Setenv("ARCHIVE", "debian")
	open := func(mirror string) (*apt, error) {
		t.Setenv("MIRROR", mirror)
		return openApt(t.Context(), dir)
	}
	if _, err := open("away"); err == nil || !strings.Contains(err.Error(), "mirror.invalid") {
		t.Fatalf("without any lists: error %v, want it to name the mirror", err)
	}
	if _, err := open("there"); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * listsAge)
	if err := os.Chtimes(filepath.Join(dir, "updated"), long, long); err != nil {
		t.Fatal(err)
	}
	a, err := open("away")
	if err != nil {
		t.Fatalf("with old lists: %v", err)
	}
	if d := cmp.Diff([]string{"linux-image-7.3.4+deb13-cloud-amd64"}, a.names); d != "" {
		t.Error(d)
	}
	if info, err := os.Stat(filepath.Join(dir, "updated")); err != nil || !info.ModTime().Equal(long) {
		t.Errorf("old lists count as new (%v)", err)
	}
	t.Setenv("ARCHIVE", "elsewhere/debian")
	if _, err := open("away"); err == nil {
		t.Error("the lists of another mirror are taken")
	}
}
