/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What crosses the ring buffers: one record of a fixed size per event, and one of another size for each
 * process that owns a connection. internal/event decodes both.
 */
#ifndef CONNSPAN_RECORD_H
#define CONNSPAN_RECORD_H

#define COMM_LEN 16

enum kind {
	KIND_OPENED = 1,  /* reached ESTABLISHED */
	KIND_CLOSED = 2,  /* over, after having been open */
	KIND_FAILED = 3,  /* over, never ESTABLISHED */
	KIND_ADOPTED = 4, /* found open: older than the tracer, or its opening was lost */
	KIND_SAMPLED = 5, /* is open, and these are its totals so far */
};

enum role {
	ROLE_UNKNOWN = 0,
	ROLE_CLIENT = 1, /* sent the SYN (active open) */
	ROLE_SERVER = 2, /* answered it (passive open) */
};

/* Who began to close: the first FIN of RFC 9293 section 3.6. */
enum closer {
	CLOSER_NONE = 0,
	CLOSER_LOCAL = 1,
	CLOSER_PEER = 2,
	CLOSER_BOTH = 3, /* the FINs crossed (CLOSING) */
};

/* How the owning process was found. */
enum owner_source {
	OWNER_UNKNOWN = 0,
	OWNER_CONNECT = 1, /* called connect() */
	OWNER_LISTEN = 2,  /* called listen() on the socket that this one was cloned from */
	OWNER_CLOSE = 3,   /* ended it: sent the local FIN, or closed it without one */
	OWNER_FILE = 4,	   /* has it open as a file */
	OWNER_ACCEPT = 5,  /* called accept(), and is not who called listen() */
};

enum record_flags {
	FLAG_PREEXISTING = 1 << 0,  /* older than the tracer: its beginning was not seen */
	FLAG_DEAD = 1 << 1,	    /* SOCK_DEAD: no process holds the socket any more */
	FLAG_FIN_RECEIVED = 1 << 2, /* SOCK_DONE: the peer's FIN was received */
	FLAG_SHUT = 1 << 3,	    /* shut down in both directions (close(), not connect(AF_UNSPEC)) */
	FLAG_UNACCEPTED = 1 << 4,   /* never left the accept queue */
	FLAG_LINGER2 = 1 << 5,	    /* TCP_LINGER2 < 0: FIN_WAIT2 is left by RST */
	FLAG_EXITING = 1 << 6,	    /* the current process was exiting */
	FLAG_ISN = 1 << 7,	    /* both initial sequence numbers are known */
	FLAG_EXCLUDED = 1 << 8,	    /* the tracer's own socket: kept in the socket's storage, never emitted */
	FLAG_TOO_LATE = 1 << 9,	    /* data came behind close(), before our FIN was dealt with */
};

/* Largest fields first, no implicit padding; internal/probe checks the layout against internal/event. */
struct record {
	__u64 ts;	      /* when it happened, bpf_ktime_get_ns */
	__u64 seq;	      /* of this CPU; counts failures to reserve too, so that a gap is a loss */
	__u64 cookie;	      /* of the socket */
	__u64 began;	      /* SYN sent (client) or SYN-ACK sent (server), ns; 0 unknown */
	__u64 established;    /* ns; 0 never or unknown */
	__u64 first_fin;      /* sent or received, ns; 0 none seen */
	__u64 owner_started;  /* start of the owning process, ns since boot, suspend included; 0 unknown */
	__u64 bytes_sent;     /* payload, each octet once */
	__u64 bytes_received; /* payload, in order */
	__u32 netns;	      /* inode of the network namespace */
	__u32 ordinal;	      /* 1, 2, ... of this socket's events */
	__u32 pid;	      /* thread group of the owner; 0 unknown */
	__u32 uid;	      /* of the owner */
	__u32 segs_out;
	__u32 segs_in;
	__u32 retransmits; /* segments */
	__u32 srtt_us;	   /* smoothed round-trip time; 0 unknown */
	__u32 min_rtt_us;  /* lowest of the last window (tcp_min_rtt_wlen); ~0 unknown */
	__u32 local_isn;   /* valid with FLAG_ISN */
	__u32 peer_isn;
	__s32 err;	     /* sk_err: a positive errno, 0 for none */
	__u8 local_addr[16]; /* IPv4 in the first four octets */
	__u8 peer_addr[16];
	char comm[COMM_LEN]; /* of the owner's main thread; any bytes */
	__u16 local_port;    /* host order; 0 never bound */
	__u16 peer_port;
	__u16 family;	   /* AF_INET (also for IPv4-mapped IPv6) or AF_INET6 */
	__u16 states;	   /* bit n: has been in TCP state n */
	__u8 kind;	   /* enum kind */
	__u8 role;	   /* enum role */
	__u8 closer;	   /* enum closer */
	__u8 old_state;	   /* TCP state that it came from */
	__u8 owner_source; /* enum owner_source */
	__u8 _pad;
	__u16 flags; /* enum record_flags */
};

_Static_assert(sizeof(struct record) == 184, "record has implicit padding");

#define PATH_ROOM 512
#define PART_ROOM 256 /* NAME_MAX, and a NUL */

/* A path as its names, each with a NUL behind it, the last name first. */
struct path_record {
	__u16 len;
	__u8 whole; /* 1: nothing is missing at the path's beginning */
	__u8 _pad[5];
	char parts[PATH_ROOM];
};

/* A process, when it first owns a connection. */
struct process_record {
	__u64 started; /* ns since boot, suspend included */
	__u32 pid;     /* thread group */
	__u32 parent;  /* likewise */
	__u32 uid;
	__u32 _pad;
	char comm[COMM_LEN]; /* of its main thread; any bytes */
	struct path_record executable;
	struct path_record unified; /* control group, of version 2 */
	struct path_record legacy;  /* likewise of version 1, of the controller pids */
};

_Static_assert(sizeof(struct process_record) == 40 + 3 * 520, "process_record has implicit padding");

#endif
