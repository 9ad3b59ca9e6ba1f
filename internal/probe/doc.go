// Package probe loads the BPF programs of bpf/ and reads what they produce: samples from one
// ring buffer per possible CPU, the words that announce programs in flight, and counters.
//
// It alone talks to the kernel's BPF. It needs Linux 5.14 or newer with BTF and either root or
// CAP_BPF and CAP_PERFMON; [Check] says in words what is missing.
package probe
