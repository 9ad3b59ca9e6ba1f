/* SPDX-License-Identifier: GPL-2.0 */
/* From a socket to a record in the ring of the current CPU. */
#ifndef CONNSPAN_EMIT_H
#define CONNSPAN_EMIT_H

#include "filter.h"
#include "stall.h"

/*
 * Atomics that return a value are fully ordered on every architecture; without a use of the
 * value clang would choose the form that is relaxed on arm64. The barrier is the use.
 */
static __always_inline void add_ordered(__u64 *word, __u64 n)
{
	__u64 old = __sync_fetch_and_add(word, n);

	asm volatile("" : : "r"(old));
}

static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static __always_inline struct cpu *this_cpu(void)
{
	__u32 id = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&cpus, &id);
}

static __always_inline void *this_ring(void)
{
	__u32 id = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rings, &id);
}

/*
 * The reader sets asleep, then looks once more whether every ring is empty; we move the ring's
 * producer position (reserve), then look at asleep. With a full barrier between the two steps on
 * either side, one of us sees the other: no record is left lying beside a sleeping reader.
 */
static __always_inline __u64 wake_flags(void)
{
	struct control *ctl = control();

	if (ctl && ctl->asleep && __sync_val_compare_and_swap(&ctl->asleep, 1, 0) == 1)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

static __always_inline void fill_socket(struct record *r, struct sock *sk, struct tcp_sock *tp)
{
	__u64 received = tp->bytes_received, sent = tp->bytes_sent, again = tp->bytes_retrans;
	unsigned long sk_flags;
	bool fin_received;

	/* A sample has no lock: in this order it does not take the FIN for payload, and below no
	 * difference becomes less than nothing. */
	barrier();
	sk_flags = sk->__sk_common.skc_flags;
	fin_received = sk_flags & (1UL << SOCK_DONE_BIT);

	/* bytes_sent counts payload only, and what was sent again a second time;
	 * bytes_received counts the peer's FIN as one octet. */
	r->bytes_sent = sent > again ? sent - again : 0;
	r->bytes_received = received - (fin_received && received ? 1 : 0);
	r->segs_out = tp->segs_out;
	r->segs_in = tp->segs_in;
	r->retransmits = tp->total_retrans;
	r->srtt_us = tp->srtt_us >> 3;
	r->min_rtt_us = tp->rtt_min.s[0].v;
	r->netns = sk->__sk_common.skc_net.net->ns.inum;
	r->err = sk->sk_err;
	if (fin_received)
		r->flags |= FLAG_FIN_RECEIVED;
	if (sk_flags & (1UL << SOCK_DEAD_BIT))
		r->flags |= FLAG_DEAD;
	else if (!sk->sk_socket)
		r->flags |= FLAG_UNACCEPTED;
	if (sk->sk_shutdown == SHUTDOWN_MASK)
		r->flags |= FLAG_SHUT;
	if (tp->linger2 < 0)
		r->flags |= FLAG_LINGER2;
	if (bpf_get_current_task_btf()->flags & PF_EXITING)
		r->flags |= FLAG_EXITING;
}

static __always_inline void fill_conn(struct record *r, const struct conn *c)
{
	r->began = c->began;
	r->established = c->established;
	r->first_fin = c->first_fin;
	r->owner_started = c->owner_started;
	r->pid = c->pid;
	r->uid = c->uid;
	r->local_isn = c->local_isn;
	r->peer_isn = c->peer_isn;
	__builtin_memcpy(r->local_addr, c->local_addr, sizeof(r->local_addr));
	__builtin_memcpy(r->peer_addr, c->peer_addr, sizeof(r->peer_addr));
	__builtin_memcpy(r->comm, c->comm, sizeof(r->comm));
	r->local_port = c->local_port;
	r->peer_port = c->peer_port;
	r->family = c->family;
	r->states = c->states;
	r->role = c->role;
	r->closer = c->closer;
	r->owner_source = c->owner_source;
	r->_pad = 0;
	r->flags = c->flags;
}

/* False: the event is lost, and counted. */
static __always_inline bool submit(struct cpu *cpu, struct sock *sk, struct tcp_sock *tp,
				   const struct conn *c, enum kind kind, int old_state, __u32 ordinal,
				   __u64 ts)
{
	__u64 seq = __sync_fetch_and_add(&cpu->seq, 1);
	void *ring = this_ring();
	struct record *r;

	if (!ring) {
		count(&cpu->no_ring);
		return false;
	}
	r = bpf_ringbuf_reserve(ring, sizeof(*r), 0);
	if (!r) {
		count(&cpu->ring_full);
		return false;
	}
	r->ts = ts;
	r->seq = seq;
	r->cookie = bpf_get_socket_cookie(sk);
	r->ordinal = ordinal;
	r->kind = kind;
	r->old_state = old_state;
	fill_conn(r, c);
	fill_socket(r, sk, tp);
	add_ordered(&cpu->submitted, 1);
	bpf_ringbuf_submit(r, wake_flags());
	return true;
}

/*
 * snd_una has moved by what was acknowledged; a client's SYN is one octet of that, a server's
 * child starts behind its SYN. rcv_nxt has moved by what was received, and the peer's SYN. Both
 * hold, under the socket's lock, at any time in its life, and modulo 2^32 like the numbers themselves.
 */
static __always_inline void find_isns(struct conn *c, struct tcp_sock *tp)
{
	if (c->role == ROLE_UNKNOWN)
		return;
	c->local_isn = tp->snd_una - (__u32)tp->bytes_acked - (c->role == ROLE_SERVER ? 1 : 0);
	c->peer_isn = tp->rcv_nxt - (__u32)tp->bytes_received - 1;
	c->flags |= FLAG_ISN;
}

/* The same without the socket's lock: if the numbers move meanwhile, they stay unknown. */
static __always_inline void find_isns_unlocked(struct conn *c, struct tcp_sock *tp)
{
	__u32 local, peer;

	find_isns(c, tp);
	local = c->local_isn;
	peer = c->peer_isn;
	barrier();
	find_isns(c, tp);
	if (c->local_isn != local || c->peer_isn != peer)
		c->flags &= ~FLAG_ISN;
}

/* What a connection learns about itself at the very time of the handshake's end. */
static __always_inline void establish(struct conn *c, struct tcp_sock *tp, __u64 ts)
{
	__u32 rtt = tp->srtt_us >> 3;

	c->established = ts;
	/* A child socket is made by the handshake's last ACK, so its own age says nothing. The
	 * kernel has just measured SYN-ACK to ACK as the first round-trip time, except behind a SYN
	 * cookie or a SYN-ACK sent twice: then it has nothing, or goes by the peer's echo of a timestamp.
	 * That is in whole milliseconds, and in a cookie's the lowest bits are no time: up to 64 ms too
	 * much. So with either the beginning is unknown. */
	if (c->role == ROLE_SERVER)
		c->began = rtt % USEC_PER_MSEC ? ts - (__u64)rtt * NSEC_PER_USEC : 0;
	find_isns(c, tp);
}

/*
 * The order of the steps is what the reader's proof rests on: announce, read the clock, put the
 * record into the ring, withdraw. A reader that finds in_flight 0 knows that every program
 * which had read the clock by then has submitted.
 */
static __always_inline void emit(struct sock *sk, struct tcp_sock *tp, struct conn *c, enum kind kind,
				 int old_state)
{
	struct cpu *cpu = this_cpu();
	__u64 ts;
	bool told;

	if (!cpu)
		return;
	if (c->flags & FLAG_EXCLUDED) {
		count(&cpu->excluded);
		return;
	}
	if (is_filtered(cpu, sk, c))
		return;
	add_ordered(&cpu->in_flight, 1);
	ts = bpf_ktime_get_ns();
	if (kind == KIND_OPENED)
		establish(c, tp, ts);
	stall(ts);
	c->ordinal++;
	told = submit(cpu, sk, tp, c, kind, old_state, c->ordinal, ts);
	c->untold = kind == KIND_OPENED && !told;
	c->over = kind != KIND_OPENED;
	add_ordered(&cpu->in_flight, -1);
}

#endif
