// SPDX-License-Identifier: GPL-2.0
/* Every TCP connection on the host, from one typed tracepoint. */
#include "preempt.h"
#include "snapshot.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

/* include/trace/events/sock.h: called under the socket's lock, before sk_state is written. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(first, struct sock *sk, int old, int new)
{
	stay();
	transition(sk, old, new, false);
	leave();
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(second, struct sock *sk, int old, int new)
{
	stay();
	transition(sk, old, new, true);
	leave();
	return 0;
}

/*
 * Every file of every process in the reader's PID namespace, whatever its network namespace. Writes an
 * octet for each socket, so that the reader can go on reading in between.
 */
SEC("iter/task_file")
int remember_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	__u8 one = 1;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket || !socket->sk)
		return 0;
	remember_file(socket->sk, task);
	bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}

/* Every socket of the reader's own network namespace, also those that nobody has open. */
SEC("iter/tcp")
int remember_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct tcp_sock *tp;
	__u8 one = 1;

	if (!skc)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	remember_any((struct sock *)tp);
	bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}

/* Writes an octet for each event, so that the reader can drain the rings in between. */
SEC("iter/bpf_sk_storage_map")
int adopt_stored(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct conn *c = ctx->value;
	struct sock *sk = ctx->sk;
	__u8 one = 1;

	if (sk && c && adopt(sk, c))
		bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}

/* Writes like adopt_stored. */
SEC("iter/bpf_sk_storage_map")
int sample_stored(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct conn *c = ctx->value;
	struct sock *sk = ctx->sk;
	__u8 one = 1;

	if (sk && c && sample(sk, c))
		bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}

/* Writes nothing: only what is read in one go has each socket in it that was there all the time. */
SEC("iter/bpf_sk_storage_map")
int list_stored(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct conn *c = ctx->value;
	struct sock *sk = ctx->sk;

	if (sk && c)
		list(sk, c);
	return 0;
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

/* Keep the types in the object's BTF, where the loader compares them with its decoder. */
const struct record *unused_record __attribute__((unused));
const struct process_record *unused_process_record __attribute__((unused));
