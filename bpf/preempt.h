/* SPDX-License-Identifier: GPL-2.0 */
/* A program that has the CPU for itself from stay to leave. */
#ifndef CONNSPAN_PREEMPT_H
#define CONNSPAN_PREEMPT_H

#include "kernel.h"

#include <bpf/bpf_helpers.h>

/*
 * A program that is preempted is skipped on that CPU until its task goes on: programs of tracepoints from
 * Linux 7 on, those of functions (fexit) always. Where the kernel offers it, preemption is switched off.
 * What became due meanwhile would happen at once where it is switched on again, still inside the program; it
 * cannot with interrupts off, and then waits until the program has ended. kernel/bpf/helpers.c
 */
extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;
extern void bpf_local_irq_save(unsigned long *flags) __ksym __weak;
extern void bpf_local_irq_restore(unsigned long *flags) __ksym __weak;
/* From 6.17. Before 6.15 the verifier does not let a global function be called without preemption. */
extern int bpf_strcmp(const char *s1__ign, const char *s2__ign) __ksym __weak;

static __always_inline void stay(void)
{
	if (bpf_strcmp)
		bpf_preempt_disable();
}

static __always_inline void leave(void)
{
	unsigned long flags;

	if (!bpf_strcmp)
		return;
	bpf_local_irq_save(&flags);
	bpf_preempt_enable();
	bpf_local_irq_restore(&flags);
}

#endif
