/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For tests of the order alone: a program on one CPU goes to sleep between reading the clock and
 * submitting, as a virtual CPU does whose host has other work. The loader leaves stall_ns at 0, and
 * then the verifier removes all of this.
 */
#ifndef CONNSPAN_STALL_H
#define CONNSPAN_STALL_H

#include "kernel.h"

#include <bpf/bpf_helpers.h>

const volatile __u64 stall_ns = 0;	     /* how long */
const volatile __u32 stall_every = 1;	     /* every how many-th event */
const volatile __u32 stall_cpu = 0;	     /* on which CPU */
const volatile bool stall_processes = false; /* also with a record of a process reserved */

#define SPINS (1 << 23) /* the most that bpf_loop takes */

__u64 stall_turn = 0;
__u64 stalls = 0; /* how many there were */

static int spin(__u32 i, __u64 *until)
{
	return bpf_ktime_get_ns() >= *until;
}

static __always_inline void sleep_until(__u64 until)
{
	__sync_fetch_and_add(&stalls, 1);
	for (int i = 0; i < 16 && bpf_ktime_get_ns() < until; i++)
		bpf_loop(SPINS, spin, &until, 0);
}

static __always_inline void stall(__u64 ts)
{
	if (!stall_ns || bpf_get_smp_processor_id() != stall_cpu)
		return;
	if (__sync_fetch_and_add(&stall_turn, 1) % stall_every)
		return;
	sleep_until(ts + stall_ns);
}

static __always_inline void stall_process(void)
{
	if (stall_ns && stall_processes && bpf_get_smp_processor_id() == stall_cpu)
		sleep_until(bpf_ktime_get_ns() + stall_ns);
}

#endif
