/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The few kernel types that the tracer reads, cut down to the fields that it reads.
 * preserve_access_index has the loader find the real offsets in the running kernel's
 * BTF, so order and neighbours do not matter here.
 */
#ifndef CONNSPAN_KERNEL_H
#define CONNSPAN_KERNEL_H

#include <stdbool.h>

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define PF_EXITING 0x00000004 /* include/linux/sched.h */
#define PF_KTHREAD 0x00200000
#define USEC_PER_MSEC 1000 /* include/vdso/time64.h */
#define NSEC_PER_USEC 1000
#define SHUTDOWN_MASK 3 /* include/net/sock.h */
#define SOCK_DEAD_BIT 0 /* enum sock_flags, include/net/sock.h */
#define SOCK_DONE_BIT 1

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
};

/* include/linux/bpf.h, uapi */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum {
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_CLONE = 1U << 9,
	BPF_F_MMAPABLE = 1U << 10,
};
enum {
	BPF_ANY = 0,
};
enum {
	BPF_SK_STORAGE_GET_F_CREATE = 1ULL << 0,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1ULL << 0,
};
enum {
	BPF_RB_NO_WAKEUP = 1ULL << 0,
	BPF_RB_FORCE_WAKEUP = 1ULL << 1,
};

#define barrier() asm volatile("" : : : "memory")

/* The holes here mean nothing: no offset of these copies survives loading. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded"
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
};

struct sock;

struct socket {
	struct sock *sk;
};

typedef struct {
	int owned;
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct socket *sk_socket;
	__u16 sk_protocol;
	int sk_err;
	__u8 sk_shutdown;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct minmax_sample {
	__u32 t;
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct request_sock;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	struct request_sock *fastopen_rsk;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_acked;
	__u64 bytes_retrans;
	__u32 segs_in;
	__u32 segs_out;
	__u32 data_segs_in;
	__u32 total_retrans;
	__u32 srtt_us;
	__u32 rcv_nxt;
	__u32 snd_una;
	__u32 snd_nxt;
	int linger2;
	struct minmax rtt_min;
};

typedef struct {
	unsigned int val;
} kuid_t;

struct cred {
	kuid_t uid;
};

/* net/mptcp/protocol.h: what a process has open; the connection itself is the first subflow. */
struct mptcp_sock {
	struct sock *first;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

/* fs/mount.h */
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
};

struct mm_struct {
	struct file *exe_file;
};

struct kernfs_node {
	struct kernfs_node *__parent;
	const char *name;
};

struct kernfs_node___before_6_15 {
	struct kernfs_node *parent;
};

struct cgroup_root;

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

enum cgroup_subsys_id {
	pids_cgrp_id = 1, /* which they are depends on the kernel's configuration */
	memory_cgrp_id,
};

struct css_set {
	struct cgroup_subsys_state *subsys[1]; /* for each cgroup_subsys_id */
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	const struct cred *cred;
	unsigned int flags;
	int tgid;
	__u32 self_exec_id;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct mm_struct *mm;
	struct css_set *cgroups;
	char comm[16];
};

struct seq_file;

/* The contexts of iterators: include/linux/bpf.h, kernel/bpf/task_iter.c, net/ipv4/tcp_ipv4.c, net/core/bpf_sk_storage.c */
struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	void *map;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop
#pragma clang diagnostic pop

#endif
