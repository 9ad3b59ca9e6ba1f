/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which connections are told of, as far as the rules ask for nothing but what the programs know. What is
 * filtered here makes no record and has no number; everything else is user space's to decide. The loader
 * leaves filter_rules at 0 where there are no such rules, and then the verifier removes all of this.
 */
#ifndef CONNSPAN_FILTER_H
#define CONNSPAN_FILTER_H

#include "maps.h"

#define FILTER_RULES 8
#define FILTER_VALUES 8

struct filter_prefix {
	__u32 addr[4]; /* as in struct conn */
	__u32 mask[4];
	__u32 family;
};

/* Matches a connection that meets each criterion of which there are values, by any one of these. */
struct filter_rule {
	struct filter_prefix prefixes[FILTER_VALUES]; /* of the peer's address */
	__u32 netns[FILTER_VALUES];
	__u32 ports[FILTER_VALUES]; /* the server's, or of either end where the role is not known */
	__u32 prefix_count;
	__u32 netns_count;
	__u32 port_count;
	__u32 roles; /* bit n: enum role n; 0: any */
	__u32 exclude;
};

const volatile __u32 filter_rules = 0;
const volatile struct filter_rule filter[FILTER_RULES] = {};

static __always_inline bool meets_prefix(const volatile struct filter_rule *rule, const struct conn *c)
{
	__u32 peer[4];

	if (!rule->prefix_count)
		return true;
	__builtin_memcpy(peer, c->peer_addr, sizeof(peer));
	for (int i = 0; i < FILTER_VALUES && i < (int)rule->prefix_count; i++) {
		const volatile struct filter_prefix *p = &rule->prefixes[i];
		__u32 differs = ((peer[0] & p->mask[0]) ^ p->addr[0]) |
				((peer[1] & p->mask[1]) ^ p->addr[1]) |
				((peer[2] & p->mask[2]) ^ p->addr[2]) | ((peer[3] & p->mask[3]) ^ p->addr[3]);

		if (!differs && c->family == p->family)
			return true;
	}
	return false;
}

static __always_inline bool meets_netns(const volatile struct filter_rule *rule, __u32 netns)
{
	if (!rule->netns_count)
		return true;
	for (int i = 0; i < FILTER_VALUES && i < (int)rule->netns_count; i++) {
		if (rule->netns[i] == netns)
			return true;
	}
	return false;
}

static __always_inline bool meets_port(const volatile struct filter_rule *rule, const struct conn *c)
{
	if (!rule->port_count)
		return true;
	for (int i = 0; i < FILTER_VALUES && i < (int)rule->port_count; i++) {
		if (c->role != ROLE_SERVER && c->peer_port == rule->ports[i])
			return true;
		if (c->role != ROLE_CLIENT && c->local_port == rule->ports[i])
			return true;
	}
	return false;
}

/* True: the first rule that matches excludes the connection. Not inline: it would be in many places. */
static __noinline bool excludes(const struct conn *c, __u32 netns)
{
	for (int i = 0; i < FILTER_RULES && i < (int)filter_rules; i++) {
		const volatile struct filter_rule *rule = &filter[i];

		if (rule->roles && !(rule->roles & 1U << c->role))
			continue;
		if (meets_netns(rule, netns) && meets_port(rule, c) && meets_prefix(rule, c))
			return rule->exclude;
	}
	return false;
}

/*
 * Decided once for each connection, when its ends are named, and counted then. A snapshot may come to that
 * at the same time as a program that holds the socket's lock; one of them decides.
 */
static __always_inline bool is_filtered(struct cpu *cpu, struct sock *sk, struct conn *c)
{
	__u32 fate, other;

	if (!filter_rules)
		return false;
	fate = c->fate;
	if (!fate) {
		fate = excludes(c, sk->__sk_common.skc_net.net->ns.inum) ? FATE_FILTERED : FATE_TOLD;
		other = __sync_val_compare_and_swap(&c->fate, FATE_OPEN, fate);
		if (other)
			fate = other;
		else if (fate == FATE_FILTERED)
			__sync_fetch_and_add(&cpu->filtered, 1);
	}
	return fate == FATE_FILTERED;
}

#endif
