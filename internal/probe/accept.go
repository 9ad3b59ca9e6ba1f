package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// acceptFunction is where a process gets a connection that its listener has accepted.
const acceptFunction = "inet_csk_accept"

// attachAccept has the process that accepts a connection own it from then on, where the kernel lets a
// program see that.
func (t *Tracer) attachAccept() error {
	spec, err := loadAccept()
	if err != nil {
		return fmt.Errorf("reading the BPF object: %w", err)
	}
	types := t.types
	if types == nil {
		if types, err = t.cache.Kernel(); err != nil {
			return fmt.Errorf("reading the kernel's types: %w", err)
		}
	}
	name, err := acceptProgram(types)
	if err != nil {
		return err
	}
	shared := map[string]*ebpf.Map{
		"conns": t.objects.Conns, "cpus": t.objects.Cpus, "rings": t.objects.Rings,
		"controls": t.objects.Controls, "processes": t.objects.Processes,
	}
	for name, m := range shared {
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	if err := t.stall.set(spec); err != nil {
		return err
	}
	for other := range spec.Programs {
		if other != name {
			delete(spec.Programs, other)
		}
	}
	objects, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: shared, Programs: ebpf.ProgramOptions{KernelTypes: t.types}, Cache: t.cache,
	})
	if err != nil {
		return fmt.Errorf("loading the BPF object: %w", err)
	}
	defer objects.Close() // the link keeps the program
	l, err := link.AttachTracing(link.TracingOptions{Program: objects.Programs[name]})
	if err != nil {
		return fmt.Errorf("attaching to %s: %w", acceptFunction, err)
	}
	t.links = append(t.links, l)
	return nil
}

// acceptProgram is the one that finds the function's result where this kernel has it: behind its
// parameters.
func acceptProgram(types *btf.Spec) (string, error) {
	var function *btf.Func
	if err := types.TypeByName(acceptFunction, &function); err != nil {
		return "", fmt.Errorf("looking for %s: %w", acceptFunction, err)
	}
	proto, ok := function.Type.(*btf.FuncProto)
	if !ok {
		return "", errors.New(acceptFunction + " has no prototype")
	}
	switch n := len(proto.Params); n {
	case 2:
		return "accept", nil
	case 4:
		return "accept_before_6_10", nil
	default:
		return "", fmt.Errorf("%s has %d parameters, want 2 or 4", acceptFunction, n)
	}
}
