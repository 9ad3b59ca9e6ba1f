// SPDX-License-Identifier: GPL-2.0
/*
 * Who accepts a connection, where the kernel lets a program see that. Without it the process that
 * serves a connection of another's listener is known at its end alone: see own_served.
 */
#include "preempt.h"
#include "state.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

/*
 * The child's lock is not held. What a softirq may do to it meanwhile leaves its owner alone; an event
 * that it emits at this very moment may have one half of either owner, and then names no process.
 */
static __always_inline void accepted(struct sock *child)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct conn *c;

	if (!child || child->sk_protocol != IPPROTO_TCP || task->flags & PF_KTHREAD)
		return;
	c = bpf_sk_storage_get(&conns, child, 0, 0);
	if (c && c->role == ROLE_SERVER && c->pid != (__u32)task->tgid)
		own(c, OWNER_ACCEPT);
}

/* net/ipv4/inet_connection_sock.c, from Linux 6.10 on */
SEC("fexit/inet_csk_accept")
int BPF_PROG(accept, struct sock *sk, void *arg, struct sock *child)
{
	stay();
	accepted(child);
	leave();
	return 0;
}

SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_before_6_10, struct sock *sk, int flags, int *err, bool kern, struct sock *child)
{
	stay();
	accepted(child);
	leave();
	return 0;
}
