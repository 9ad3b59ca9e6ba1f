/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sockets that are there already: found at the start, and looked at again after a loss.
 *
 * remember gives a socket without storage one, and notes that its opening is owed to user space
 * (untold). adopt pays what is owed, as an event like any other: announced, stamped, in order.
 * sample tells likewise what an open connection has carried so far. list tells user space which
 * sockets still are, so that it knows which are gone.
 */
#ifndef CONNSPAN_SNAPSHOT_H
#define CONNSPAN_SNAPSHOT_H

#include "state.h"

#include <bpf/bpf_core_read.h>

const volatile __u32 list_slot = 0; /* of the list's ring in rings; set by the loader */

static __always_inline bool is_open(int state)
{
	return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_FIN_WAIT1 ||
	       state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

/*
 * Who sent the SYN, told by the counters: all octets that were ever sent are either acknowledged or
 * on their way, and a client has one more acknowledged than it has sent, its SYN. Not once a FIN is
 * out, and not while the counters move, for nobody holds the socket's lock here.
 */
static __always_inline enum role find_role(struct tcp_sock *tp, int state)
{
	__u64 sent = tp->bytes_sent - tp->bytes_retrans;
	__u64 acked = tp->bytes_acked;
	__u32 next = tp->snd_nxt, una = tp->snd_una;
	__u64 extra = acked + (__u32)(next - una) - sent;

	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
		return ROLE_UNKNOWN;
	barrier();
	if (tp->bytes_sent - tp->bytes_retrans != sent || tp->bytes_acked != acked || tp->snd_nxt != next ||
	    tp->snd_una != una)
		return ROLE_UNKNOWN;
	if (extra == 1)
		return ROLE_CLIENT;
	if (extra == 0)
		return ROLE_SERVER;
	return ROLE_UNKNOWN;
}

static __always_inline void own_file(struct conn *c, struct task_struct *task)
{
	own_task(c, task, task->cred->uid.val, OWNER_FILE);
}

static __always_inline void remember_open(struct conn *c, struct sock *sk, struct tcp_sock *tp)
{
	c->flags |= FLAG_PREEXISTING;
	c->untold = 1;
	c->role = find_role(tp, c->state);
	find_isns_unlocked(c, tp);
	name_ends(c, sk, tp);
}

/* Owners, by the address of a first subflow; filled by one snapshot, and emptied at its end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct conn);
} subflows SEC(".maps");

static __always_inline void own_like(struct conn *c, const struct conn *owner)
{
	c->pid = owner->pid;
	c->uid = owner->uid;
	c->owner_started = owner->owner_started;
	__builtin_memcpy(c->comm, owner->comm, sizeof(c->comm));
	c->flags |= owner->flags;
	barrier();
	c->owner_source = owner->owner_source;
}

/*
 * An accepted connection has its listener's owner until somebody ends it. The process that has it open
 * knows better; of several the last, for a worker is younger than who forked it.
 */
static __always_inline bool is_served_by(const struct conn *c, struct task_struct *task)
{
	return task && c->role == ROLE_SERVER && is_open(c->state) && c->pid != (__u32)task->tgid &&
	       c->owner_source != OWNER_CLOSE && !is_tracer(task);
}

/* The owner is the process that has it open as a file, or what was found out before, or unknown. */
static __always_inline void own_if_unknown(struct conn *c, struct task_struct *task, const struct conn *owner)
{
	if (c->owner_source != OWNER_UNKNOWN)
		return;
	if (task)
		own_file(c, task);
	else if (owner)
		own_like(c, owner);
}

static __always_inline void remember_socket(struct sock *sk, struct task_struct *task,
					    const struct conn *owner)
{
	struct conn new = {}, *c;
	struct tcp_sock *tp;

	if (sk->sk_protocol != IPPROTO_TCP || sk->__sk_common.skc_state == TCP_CLOSE)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c) {
		own_if_unknown(c, task, owner);
		if (is_served_by(c, task))
			own_file(c, task);
		return;
	}
	/* The tracepoint comes before the state that it tells of: a socket whose way to this state
	 * a program has seen has storage by now, and so has one that leaves it meanwhile; then
	 * this storage is not taken. */
	new.state = sk->__sk_common.skc_state;
	own_if_unknown(&new, task, owner);
	if (is_open(new.state))
		remember_open(&new, sk, tp);
	else if (new.state == TCP_SYN_SENT) {
		new.role = ROLE_CLIENT;
		name_ends(&new, sk, tp);
	}
	bpf_sk_storage_get(&conns, sk, &new, BPF_SK_STORAGE_GET_F_CREATE);
}

/*
 * An MPTCP socket is no TCP socket; the listener or the connection is its first subflow, which no
 * process has open as a file. So its owner is left here for remember_tcp to find.
 */
static __always_inline void remember_file(struct sock *sk, struct task_struct *task)
{
	struct conn owner = {};
	__u64 first;

	if (sk->sk_protocol != IPPROTO_MPTCP) {
		remember_socket(sk, task, 0);
		return;
	}
	if (!bpf_core_type_exists(struct mptcp_sock))
		return;
	first = (__u64)BPF_CORE_READ((struct mptcp_sock *)sk, first);
	own_file(&owner, task);
	bpf_map_update_elem(&subflows, &first, &owner, BPF_ANY);
}

static __always_inline void remember_any(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct conn *owner = bpf_map_lookup_elem(&subflows, &key);

	remember_socket(sk, 0, owner);
	if (owner)
		bpf_map_delete_elem(&subflows, &key);
}

/*
 * The tracepoint comes before the state that it tells of. So an open socket whose opening left no
 * trace in its storage was opened without a program: not every kernel runs them always. Then the
 * opening is owed like a lost one.
 */
static __always_inline void owe_unseen(struct sock *sk, struct conn *c, struct tcp_sock *tp)
{
	if (c->untold || c->established || c->flags & FLAG_PREEXISTING || !is_open(sk->__sk_common.skc_state))
		return;
	find_isns_unlocked(c, tp);
	name_ends(c, sk, tp);
	c->untold = 1;
}

/*
 * True: an event was submitted. Announced and stamped first: a program that closes the socket sets
 * the state before it reads the clock, so whoever still finds it open here has the older stamp.
 */
static __always_inline bool tell(struct sock *sk, struct tcp_sock *tp, struct conn *c, struct cpu *cpu,
				 enum kind kind)
{
	bool told = false;
	__u32 ordinal;
	int state;
	__u64 ts;

	add_ordered(&cpu->in_flight, 1);
	ts = bpf_ktime_get_ns();
	stall(ts);
	ordinal = c->ordinal;
	add_ordered(&cpu->in_flight, 0); /* before the state: a program that closes it counts on */
	state = sk->__sk_common.skc_state;
	if (c->untold == (kind == KIND_ADOPTED) && c->state != TCP_CLOSE && is_open(state))
		told = submit(cpu, sk, tp, c, kind, state, ordinal, ts);
	add_ordered(&cpu->in_flight, -1);
	return told;
}

static __always_inline bool adopt(struct sock *sk, struct conn *c)
{
	struct cpu *cpu = this_cpu();
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!cpu || !tp || c->flags & FLAG_EXCLUDED || c->fate == FATE_FILTERED)
		return false;
	owe_unseen(sk, c, tp);
	if (!c->untold || is_filtered(cpu, sk, c) || !tell(sk, tp, c, cpu, KIND_ADOPTED))
		return false;
	c->untold = 0;
	return true;
}

/* Not for what has neither sent nor received anything since the last time. */
static __always_inline bool sample(struct sock *sk, struct conn *c)
{
	struct cpu *cpu = this_cpu();
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u32 segs;

	if (!cpu || !tp || c->flags & FLAG_EXCLUDED || c->untold || c->fate == FATE_FILTERED)
		return false;
	segs = tp->segs_in + tp->segs_out;
	if (segs == c->sampled || !tell(sk, tp, c, cpu, KIND_SAMPLED))
		return false;
	c->sampled = segs;
	return true;
}

static __always_inline void list(struct sock *sk, const struct conn *c)
{
	struct control *ctl = control();
	__u32 slot = list_slot;
	__u64 cookie;
	void *ring;

	/* Closed without being over: no program was run. */
	if (!ctl || c->over || c->fate == FATE_FILTERED || sk->__sk_common.skc_state == TCP_CLOSE)
		return;
	cookie = bpf_get_socket_cookie(sk);
	ring = bpf_map_lookup_elem(&rings, &slot);
	if (!ring || bpf_ringbuf_output(ring, &cookie, sizeof(cookie), BPF_RB_NO_WAKEUP))
		count(&ctl->unlisted);
}

#endif
