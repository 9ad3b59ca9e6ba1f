package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// A Need is something that tracing cannot do without.
type Need struct {
	Name   string // what is needed
	Found  string // what there is, where it is met
	Err    error  // why it is not met; nil where it is
	Remedy string // what an administrator can do about it
}

// The needs that most others rest on.
const (
	needPrivileges = "privileges"
	needTypes      = "kernel types (BTF)"
)

// Check tries each need on the running kernel, in an order in which a later one can only be met
// where the earlier are. btfFile is as in [Config]. It loads small programs of its own and leaves
// nothing behind.
func Check(btfFile string) []Need {
	_ = rlimit.RemoveMemlock()
	needs := []Need{
		need("kernel", kernelRelease, "Linux 5.14 or newer is needed; what counts are the features below"),
		need(needPrivileges, capabilities, "run as root, or grant CAP_BPF and CAP_PERFMON (setcap cap_bpf,cap_perfmon+ep FILE)"),
		need("lockdown", lockdown, "boot with lockdown=integrity or none: confidentiality forbids BPF to read kernel memory"),
		need(needTypes, func() (string, error) { return kernelBTF(btfFile) },
			"use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or pass a readable file with its types: --btf FILE"),
		need("ring buffer", feature(func() error { return features.HaveMapType(ebpf.RingBuf) }), "Linux 5.14 or newer is needed: BPF has ring buffers since 5.8"),
		need("atomic instructions", feature(features.HaveV3ISA), "Linux 5.14 or newer is needed, and a BPF JIT for this architecture: it has them since 5.12"),
		need("typed tracepoint", feature(func() error { return tryTypedTracepoint(btfFile) }),
			"use a kernel with tp_btf programs (Linux 5.5) and the tracepoint sock:inet_sock_set_state (4.16)"),
		need("socket storage in tracing programs", feature(func() error { return trySocketStorage(btfFile) }),
			"Linux 5.14 or newer is needed: tracing programs keep state in a socket since 5.11"),
		need("clock program", feature(func() error { return features.HaveProgramType(ebpf.Syscall) }),
			"Linux 5.14 or newer is needed: BPF programs can be called as a system call since then"),
	}
	needs = append(needs, together(needs, btfFile))
	blame(needs)
	return needs
}

// together loads what the tracer loads. Where a need is not met that would only repeat it, in the words
// of a verifier.
func together(needs []Need, btfFile string) Need {
	const name = "all programs together"
	for _, n := range needs {
		if n.Err != nil {
			return Need{Name: name, Err: errors.New("not tried"), Remedy: "see " + n.Name}
		}
	}
	return need(name, feature(func() error { return tryLoad(btfFile) }),
		"the programs are for Linux 5.14 and newer, up to those that were tried")
}

// blame points the needs that cannot be met without an earlier one to it: their own remedies would
// mislead.
func blame(needs []Need) {
	cause := ""
	for i := range needs {
		if needs[i].Err == nil {
			continue
		}
		if cause != "" {
			needs[i].Remedy = "see " + cause
		} else if needs[i].Name == needPrivileges || needs[i].Name == needTypes {
			cause = needs[i].Name
		}
	}
}

// tryLoad loads what the tracer loads.
func tryLoad(btfFile string) error {
	t, err := load(Config{BTF: btfFile, RingSize: os.Getpagesize()})
	if err != nil {
		return err
	}
	return t.Close()
}

func need(name string, try func() (string, error), remedy string) Need {
	found, err := try()
	return Need{Name: name, Found: found, Err: err, Remedy: remedy}
}

// feature turns a probe's error into one line: a verifier's log is no answer to an administrator.
func feature(probe func() error) func() (string, error) {
	return func() (string, error) {
		err := probe()
		switch {
		case err == nil:
			return "yes", nil
		case errors.Is(err, unix.EPERM):
			return "", errors.New("not permitted")
		case errors.Is(err, ebpf.ErrNotSupported), strings.Contains(err.Error(), "unknown func"):
			return "", errors.New("not supported by this kernel")
		}
		line, _, _ := strings.Cut(err.Error(), "\n")
		return "", errors.New(line)
	}
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("asking for the kernel's name: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:]), nil
}

func capabilities() (string, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return "", fmt.Errorf("asking for capabilities: %w", err)
	}
	if m, err := os.ReadFile("/proc/self/uid_map"); err == nil && !isInitialUserNamespace(string(m)) {
		return "", errors.New("inside a user namespace, whose capabilities do not count")
	}
	has := func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	if has(unix.CAP_SYS_ADMIN) {
		return "CAP_SYS_ADMIN", nil
	}
	var missing []string
	if !has(unix.CAP_BPF) {
		missing = append(missing, "CAP_BPF")
	}
	if !has(unix.CAP_PERFMON) {
		missing = append(missing, "CAP_PERFMON")
	}
	if missing != nil {
		return "", fmt.Errorf("uid %d lacks %s", os.Geteuid(), strings.Join(missing, " and "))
	}
	return "CAP_BPF, CAP_PERFMON", nil
}

// isInitialUserNamespace reads what user_namespaces(7) says of uid_map: all ids map to themselves.
func isInitialUserNamespace(uidMap string) bool {
	fields := strings.Fields(uidMap)
	return len(fields) == 3 && fields[0] == "0" && fields[1] == "0" && fields[2] == "4294967295"
}

// lockdown reads what security/lockdown/lockdown.c shows, e.g. "none [integrity] confidentiality".
// Without securityfs nothing can be said, and the needs that follow will tell.
func lockdown() (string, error) {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return "unknown (securityfs is not mounted)", nil //nolint:nilerr // its absence is no fault
	}
	_, rest, _ := strings.Cut(string(b), "[")
	mode, _, _ := strings.Cut(rest, "]")
	if mode == "confidentiality" {
		return "", errors.New("the kernel is locked down for confidentiality")
	}
	return mode, nil
}

func kernelBTF(file string) (string, error) {
	if file != "" {
		if _, err := kernelTypes(file); err != nil {
			return "", err
		}
		return file, nil
	}
	if _, err := btf.LoadKernelSpec(); err != nil {
		return "", err
	}
	return "the kernel's own", nil
}

// tracepointProgram gives a program for the tracepoint that the tracer uses.
func tracepointProgram(btfFile string, ins asm.Instructions) error {
	types, err := kernelTypes(btfFile)
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
		Name: "check", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state",
		License: "GPL", Instructions: ins,
	}, ebpf.ProgramOptions{KernelTypes: types})
	if err != nil {
		return err
	}
	return p.Close()
}

func tryTypedTracepoint(btfFile string) error {
	return tracepointProgram(btfFile, asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})
}

// trySocketStorage calls bpf_sk_storage_get on the tracepoint's own socket. The map has no BTF for
// its value, which the kernel demands, so it is taken from the tracer's object.
func trySocketStorage(btfFile string) (err error) {
	spec, err := loadTracer()
	if err != nil {
		return fmt.Errorf("reading the BPF object: %w", err)
	}
	m, err := ebpf.NewMap(spec.Maps["conns"])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return tracepointProgram(btfFile, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.DWord), // args[0]: struct sock *
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	})
}
