// SPDX-License-Identifier: GPL-2.0
/* Every TCP connection on the host, from one typed tracepoint. */
#include "state.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

/* include/trace/events/sock.h: called under the socket's lock, before sk_state is written. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(first, struct sock *sk, int old, int new)
{
	return transition(sk, old, new, false);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(second, struct sock *sk, int old, int new)
{
	return transition(sk, old, new, true);
}

struct now_args {
	__u64 now; /* out: ns on the clock that stamps the records */
};

/* The reader asks here for the time: in a time namespace its own CLOCK_MONOTONIC is another one. */
SEC("syscall")
int now(struct now_args *args)
{
	args->now = bpf_ktime_get_ns();
	return 0;
}

/* Called by the tracer's own process: inside a PID namespace it does not know its kernel-wide id. */
SEC("syscall")
int introduce(void *args)
{
	struct control *ctl = control();

	if (ctl)
		ctl->self = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

/* Keeps the type in the object's BTF, where the loader compares it with its decoder. */
const struct record *unused_record __attribute__((unused));
