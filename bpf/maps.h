/* SPDX-License-Identifier: GPL-2.0 */
/* What the programs and the reader share, and who may write what. */
#ifndef CONNSPAN_MAPS_H
#define CONNSPAN_MAPS_H

#include "kernel.h"
#include "record.h"

#include <bpf/bpf_helpers.h>

#define MAX_CPUS 4096 /* a bound for the object file; the loader sets the number of possible CPUs */

/* Whether a connection is filtered. */
enum fate {
	FATE_OPEN = 0, /* not decided yet */
	FATE_TOLD = 1,
	FATE_FILTERED = 2,
};

/* A connection as its socket remembers it. All zero: nothing seen yet. */
struct conn {
	__u64 began;
	__u64 established;
	__u64 first_fin;
	__u64 owner_started;
	__u32 pid;
	__u32 uid;
	__u32 ordinal; /* of the last event */
	__u32 local_isn;
	__u32 peer_isn;
	__u16 local_port;
	__u16 peer_port;
	__u16 family;
	__u16 states;
	__u16 flags; /* enum record_flags */
	__u8 state;  /* the newest state that a program has seen to */
	__u8 role;
	__u8 closer;
	__u8 owner_source;
	__u8 local_addr[16];
	__u8 peer_addr[16];
	char comm[COMM_LEN];
	/* Words of their own, because snapshots write them without the socket's lock. */
	__u8 untold;   /* open, but the event that says so is still owed: see adopt */
	__u8 over;     /* its last event has been submitted, or lost */
	__u32 sampled; /* segments in and out when its totals were last told: see sample */
	__u32 unread;  /* segments with data by the time of close(), and one more; 0: not closed so */
	__u32 fate;    /* enum fate: see is_filtered */
};

_Static_assert(sizeof(struct conn) == 128, "conn has implicit padding");

/*
 * Per socket. Inserted by the first transition that is seen, changed by the later ones under the
 * socket's own lock, copied from a listener to each child when the kernel clones the socket,
 * freed by the kernel with the socket: it cannot fill up and it cannot leak.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct conn);
} conns SEC(".maps");

/*
 * Per possible CPU, on cache lines of its own (128: two lines that are fetched as a pair).
 * Written by the programs on that CPU alone, which may nest, hence atomics; read by the reader
 * through mmap. Nothing is ever reset.
 */
struct cpu {
	__u64 in_flight;  /* programs between their announcement and their withdrawal */
	__u64 seq;	  /* events numbered so far = submitted + ring_full + no_ring */
	__u64 submitted;  /* records handed to the ring */
	__u64 ring_full;  /* events lost: the ring had no room */
	__u64 no_ring;	  /* events lost: there is no ring for this CPU */
	__u64 no_storage; /* transitions not seen to: no memory for the socket's storage */
	__u64 excluded;	  /* events of the tracer's own sockets, left out */
	__u64 rescued;	  /* transitions that fell to the second program */
	__u64 retried;	  /* of these: the first had no memory; the others it was skipped for */
	__u64 foreign;	  /* transitions of no TCP connection: the second's runs less the first's */
	__u64 processes;  /* records of processes handed to the ring */
	__u64 unnamed;	  /* the same, for which there was no room */
	__u64 filtered;	  /* connections that the filter has left out */
	__u64 _pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_CPUS);
	__type(key, __u32);
	__type(value, struct cpu);
} cpus SEC(".maps");

/*
 * Per possible CPU a ring, made and put here by the loader before it attaches anything. Behind
 * them, while a snapshot lists the sockets, the ring that takes their cookies.
 */
struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_CPUS);
	__type(key, __u32);
	__array(values, struct ring);
} rings SEC(".maps");

/* One word each way between the reader and the programs, read and written through mmap. */
struct control {
	__u32 self;	/* thread group of the tracer in the kernel's own numbering; set by introduce */
	__u32 asleep;	/* 1: the reader sleeps and wants the next record to wake it; see wake_flags */
	__u64 unlisted; /* cookies for which the list's ring had no room */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} controls SEC(".maps");

static __always_inline struct control *control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&controls, &zero);
}

#endif
