/* SPDX-License-Identifier: GPL-2.0 */
/* The life of a connection, told by the state changes of its socket (RFC 9293 section 3.3.2). */
#ifndef CONNSPAN_STATE_H
#define CONNSPAN_STATE_H

#include "process.h"

#include <bpf/bpf_endian.h>

static __always_inline bool is_tracer(struct task_struct *task)
{
	struct control *ctl = control();

	return ctl && (__u32)task->tgid == ctl->self;
}

static __always_inline void own_task(struct conn *c, struct task_struct *task, __u32 uid,
				     enum owner_source source)
{
	struct task_struct *leader = task->group_leader;

	c->uid = uid;
	c->owner_started = leader->start_boottime;
	__builtin_memcpy(c->comm, leader->comm, sizeof(c->comm));
	/* What has been told to be open is told to be over, too. */
	if (is_tracer(task) && !c->established)
		c->flags |= FLAG_EXCLUDED;
	/* Last: a program that finds these finds the rest, also without the socket's lock. */
	barrier();
	c->pid = task->tgid;
	c->owner_source = source;
}

/* Only where a process itself drives the socket: in softirq, current is whoever was interrupted. */
static __always_inline void own(struct conn *c, enum owner_source source)
{
	own_task(c, bpf_get_current_task_btf(), (__u32)bpf_get_current_uid_gid(), source);
	if (!(c->flags & FLAG_EXCLUDED))
		tell_process();
}

/*
 * Whoever ends an accepted connection has served it: a worker that was forked, or was passed the
 * socket, where the listener's process did not do that itself. Call it where a process drives the
 * socket; a kernel thread that does so is nobody's.
 */
static __always_inline void own_served(struct conn *c)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (c->owner_source != OWNER_UNKNOWN && (c->role != ROLE_SERVER || c->pid == (__u32)task->tgid))
		return;
	/* A snapshot holds the file that it looks at: if that is closed meanwhile, it is the tracer that
	 * lets go of it last. */
	if (c->owner_source != OWNER_UNKNOWN && is_tracer(task))
		return;
	if (!(task->flags & PF_KTHREAD))
		own(c, OWNER_CLOSE);
}

static __always_inline bool is_v4_mapped(const __be32 addr[4])
{
	return !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
}

static __always_inline void set_addr4(__u8 to[16], __be32 addr)
{
	__builtin_memset(to, 0, 16);
	__builtin_memcpy(to, &addr, sizeof(addr));
}

static __always_inline void name_ports(struct conn *c, struct sock *sk, struct tcp_sock *tp)
{
	/* Not skc_num: that is 0 again by the time of the final CLOSE. */
	__u16 port = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);

	if (port)
		c->local_port = port;
	c->peer_port = bpf_ntohs(sk->__sk_common.skc_dport);
}

static __always_inline void name_ends(struct conn *c, struct sock *sk, struct tcp_sock *tp)
{
	__be32 local[4], peer[4];

	name_ports(c, sk, tp);
	c->family = sk->__sk_common.skc_family;
	if (c->family == AF_INET) {
		set_addr4(c->local_addr, sk->__sk_common.skc_rcv_saddr);
		set_addr4(c->peer_addr, sk->__sk_common.skc_daddr);
		return;
	}
	__builtin_memcpy(local, &sk->__sk_common.skc_v6_rcv_saddr.in6_u, sizeof(local));
	__builtin_memcpy(peer, &sk->__sk_common.skc_v6_daddr.in6_u, sizeof(peer));
	if (is_v4_mapped(peer)) {
		c->family = AF_INET;
		set_addr4(c->local_addr, local[3]);
		set_addr4(c->peer_addr, peer[3]);
		return;
	}
	__builtin_memcpy(c->local_addr, local, sizeof(local));
	__builtin_memcpy(c->peer_addr, peer, sizeof(peer));
}

/*
 * A socket may carry several connections, one after the other (connect(AF_UNSPEC)), so the ordinal
 * goes on: it numbers the events of the socket.
 */
static __always_inline void begin(struct conn *c, enum role role)
{
	c->began = 0;
	c->established = 0;
	c->first_fin = 0;
	c->sampled = 0;
	c->unread = 0;
	c->local_isn = 0;
	c->peer_isn = 0;
	c->states = 0;
	c->closer = CLOSER_NONE;
	c->role = role;
	c->local_port = 0;
	c->untold = 0;
	c->over = 0;
	c->fate = FATE_OPEN;
	c->flags &= FLAG_EXCLUDED;
}

static __always_inline void listening(struct conn *c)
{
	begin(c, ROLE_UNKNOWN);
	c->flags = 0;
	own(c, OWNER_LISTEN);
}

static __always_inline void connecting(struct conn *c, struct sock *sk, struct tcp_sock *tp)
{
	begin(c, ROLE_CLIENT);
	c->flags = 0;
	own(c, OWNER_CONNECT);
	c->began = bpf_ktime_get_ns();
	name_ends(c, sk, tp);
}

/* A child has inherited its listener's storage, owner and all; its cookie is a new one. */
static __always_inline void accepting(struct conn *c)
{
	begin(c, ROLE_SERVER);
	c->ordinal = 0;
}

/*
 * What arrives for a socket that close() has left in FIN_WAIT1 is answered by RST, with or without an
 * error in the socket (tcp_rcv_state_process). Only the segment itself shows that it was there.
 */
static __always_inline void leaving(struct conn *c, struct sock *sk, struct tcp_sock *tp)
{
	if (sk->sk_shutdown == SHUTDOWN_MASK)
		c->unread = tp->data_segs_in + 1;
}

static __always_inline bool came_too_late(const struct conn *c, struct tcp_sock *tp, int old)
{
	return (old == TCP_FIN_WAIT1 || old == TCP_FIN_WAIT2) && c->unread &&
	       tp->data_segs_in + 1 != c->unread;
}

static __always_inline void finishing(struct conn *c, enum closer closer)
{
	if (c->closer == CLOSER_NONE) {
		c->closer = closer;
		c->first_fin = bpf_ktime_get_ns();
	}
	if (closer == CLOSER_LOCAL) /* close and shutdown: tcp_close_state */
		own_served(c);
}

static __always_inline void opened(struct conn *c, struct sock *sk, struct tcp_sock *tp, int old)
{
	name_ends(c, sk, tp);
	emit(sk, tp, c, KIND_OPENED, old);
}

/*
 * Two CPUs may each make a child of one handshake, and the second goes without having been anything
 * (inet_ehash_nolisten). Only with Fast Open is a child more than that before it is ESTABLISHED.
 */
static __always_inline bool is_spare(const struct conn *c, struct tcp_sock *tp, int old)
{
	return old == TCP_SYN_RECV && c->role == ROLE_SERVER && !tp->fastopen_rsk;
}

static __always_inline void closed(struct conn *c, struct sock *sk, struct tcp_sock *tp, int old)
{
	if (old == TCP_LISTEN || is_spare(c, tp, old))
		return;
	if (old == TCP_SYN_SENT && c->family)
		name_ports(c, sk, tp);
	else if (!c->established)
		name_ends(c, sk, tp);
	if (came_too_late(c, tp, old))
		c->flags |= FLAG_TOO_LATE;
	/* Closed without a FIN. Only a process owns the lock, a softirq spins on it. */
	if (sk->sk_lock.owned && !sk->sk_err)
		own_served(c);
	emit(sk, tp, c, old == TCP_SYN_SENT || old == TCP_SYN_RECV ? KIND_FAILED : KIND_CLOSED, old);
}

static __always_inline void step(struct conn *c, struct sock *sk, struct tcp_sock *tp, int old, int new)
{
	switch (new) {
	case TCP_LISTEN:
		listening(c);
		break;
	case TCP_SYN_SENT:
		connecting(c, sk, tp);
		break;
	case TCP_SYN_RECV:
		if (old == TCP_LISTEN)
			accepting(c);
		break;
	case TCP_ESTABLISHED:
		opened(c, sk, tp, old);
		break;
	case TCP_FIN_WAIT1:
		leaving(c, sk, tp);
		if (old == TCP_SYN_RECV) /* Fast Open: served before the handshake's last ACK */
			opened(c, sk, tp, old);
		finishing(c, CLOSER_LOCAL);
		break;
	case TCP_LAST_ACK:
		finishing(c, CLOSER_LOCAL);
		break;
	case TCP_CLOSE_WAIT:
		finishing(c, CLOSER_PEER);
		break;
	case TCP_CLOSING:
		c->closer = CLOSER_BOTH;
		break;
	case TCP_CLOSE:
		closed(c, sk, tp, old);
		break;
	}
}

/* The storage of a socket that has none yet; it may be older than the tracer. */
static __always_inline struct conn *remember(struct sock *sk, int old)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!c) /* a snapshot may just have made it */
		return bpf_sk_storage_get(&conns, sk, 0, 0);
	if (old != TCP_CLOSE && old != TCP_LISTEN && old != TCP_SYN_SENT && old != TCP_SYN_RECV)
		c->flags = FLAG_PREEXISTING;
	return c;
}

/*
 * The kernel skips a tp_btf program while the same program runs on the same CPU: a softirq that
 * interrupts it would go unseen. So the tracer is attached twice. Whichever program comes first
 * sees to the transition; the other finds in the socket's storage that it is done. Where one was
 * skipped, or had no memory, the other does its work: a softirq cannot find both running, they
 * run one after the other. What both were skipped for, user space finds as a difference: how often
 * the kernel has skipped the first, less what the second was rescuing.
 */
static __always_inline void transition(struct sock *sk, int old, int new, bool second)
{
	struct cpu *cpu = this_cpu();
	struct tcp_sock *tp;
	struct conn *c;

	if (!cpu)
		return;
	if (sk->sk_protocol != IPPROTO_TCP || old == new) {
		__sync_fetch_and_add(&cpu->foreign, second ? 1 : -1);
		return;
	}
	c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->state == new)
		return;
	if (second)
		count(&cpu->rescued);
	if (!c)
		c = remember(sk, old);
	if (!c) {
		count(second ? &cpu->no_storage : &cpu->retried);
		return;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	c->state = new;
	step(c, sk, tp, old, new);
	c->states |= 1 << new;
}

#endif
