/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who a process is, told when it first owns a connection: it may have exited, and been forgotten by
 * /proc, before user space has read the first event of the connection.
 */
#ifndef CONNSPAN_PROCESS_H
#define CONNSPAN_PROCESS_H

#include "emit.h"

#include <bpf/bpf_core_read.h>

#define MAX_PARTS 32 /* names in a path, and mounts on its way */

/* What was told last of a process; who executes something else, or becomes another user, is told of again. */
struct told {
	__u32 uid;
	__u32 execs;
	__u64 comm[COMM_LEN / 8];
};

/* Per thread group, with its leader; freed by the kernel with that. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct told);
} processes SEC(".maps");

static __always_inline void start_path(struct path_record *path)
{
	path->len = 0;
	path->whole = 0;
}

/* Puts a name behind those that are there, NUL included. False: there is no room. */
static __always_inline bool put_part(struct path_record *path, const void *name)
{
	__u32 at = path->len;
	long n;

	if (at > PATH_ROOM - PART_ROOM)
		return false;
	n = bpf_probe_read_kernel_str(path->parts + at, PART_ROOM, name);
	if (n <= 1)
		return false;
	path->len = at + n;
	return true;
}

/* From what is executed up to the root of all mounts that it is in: d_path (fs/d_path.c). */
static __always_inline void put_executable(struct path_record *path, struct task_struct *task)
{
	struct file *file = BPF_CORE_READ(task, mm, exe_file);
	struct vfsmount *vfsmount = BPF_CORE_READ(file, f_path.mnt);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);

	if (!file)
		return;
	for (int i = 0; i < MAX_PARTS; i++) {
		struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
		struct mount *above = BPF_CORE_READ(mount, mnt_parent);
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);

		if (dentry == BPF_CORE_READ(vfsmount, mnt_root) || dentry == parent) {
			if (above == mount || dentry != BPF_CORE_READ(vfsmount, mnt_root)) {
				path->whole = 1;
				return;
			}
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			vfsmount = (void *)above + bpf_core_field_offset(struct mount, mnt);
			continue;
		}
		if (!put_part(path, BPF_CORE_READ(dentry, d_name.name)))
			return;
		dentry = parent;
	}
}

static __always_inline struct kernfs_node *parent_of(struct kernfs_node *node)
{
	struct kernfs_node___before_6_15 *old = (void *)node;

	if (bpf_core_field_exists(node->__parent))
		return BPF_CORE_READ(node, __parent);
	return BPF_CORE_READ(old, parent);
}

/* kernfs_path (fs/kernfs/dir.c): a root has no parent, and no name. */
static __always_inline void put_group(struct path_record *path, struct cgroup *group)
{
	struct kernfs_node *node = BPF_CORE_READ(group, kn);

	if (!node)
		return;
	for (int i = 0; i < MAX_PARTS; i++) {
		struct kernfs_node *parent = parent_of(node);

		if (!parent) {
			path->whole = 1;
			return;
		}
		if (!put_part(path, BPF_CORE_READ(node, name)))
			return;
		node = parent;
	}
}

/* The group of a controller that is in a hierarchy of its own, of version 1. */
static __always_inline struct cgroup *legacy_group(struct css_set *set, struct cgroup *unified,
						   __u32 controller)
{
	struct cgroup_subsys_state *state = NULL;
	struct cgroup *group;

	bpf_probe_read_kernel(&state, sizeof(state),
			      (void *)set + bpf_core_field_offset(set->subsys) + controller * sizeof(state));
	group = BPF_CORE_READ(state, cgroup);
	return BPF_CORE_READ(group, root) == BPF_CORE_READ(unified, root) ? NULL : group;
}

static __always_inline void put_groups(struct process_record *r, struct task_struct *task)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup *unified = BPF_CORE_READ(set, dfl_cgrp);
	struct cgroup *legacy = NULL;

	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
		legacy = legacy_group(set, unified, bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id));
	else if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		legacy =
		    legacy_group(set, unified, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
	put_group(&r->unified, unified);
	if (legacy)
		put_group(&r->legacy, legacy);
}

static __always_inline bool is_told(const struct told *t, const struct told *now)
{
	return t->uid == now->uid && t->execs == now->execs && t->comm[0] == now->comm[0] &&
	       t->comm[1] == now->comm[1];
}

/* False: there is no room. */
static __always_inline bool submit_process(struct cpu *cpu, struct task_struct *task, const struct told *who)
{
	struct task_struct *leader = task->group_leader;
	struct process_record *r = NULL;
	void *ring = this_ring();

	if (ring)
		r = bpf_ringbuf_reserve(ring, sizeof(*r), 0);
	if (!r) {
		count(&cpu->unnamed);
		return false;
	}
	stall_process();
	r->started = leader->start_boottime;
	r->pid = task->tgid;
	r->parent = BPF_CORE_READ(leader, real_parent, tgid);
	r->uid = who->uid;
	r->_pad = 0;
	__builtin_memcpy(r->comm, who->comm, sizeof(r->comm));
	start_path(&r->executable);
	start_path(&r->unified);
	start_path(&r->legacy);
	put_executable(&r->executable, task);
	put_groups(r, task);
	add_ordered(&cpu->processes, 1);
	bpf_ringbuf_submit(r, wake_flags());
	return true;
}

/*
 * Tells of the process that is current, unless that has been done. Not an event: it is not stamped, and
 * in the ring before any event that it is about has been stamped. But it is announced like one: the
 * reader does not get past a record that is reserved, to the events behind it. Global, so that the verifier
 * looks at it once, not wherever it is called.
 */
__noinline int tell_process(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	__u32 uid = (__u32)bpf_get_current_uid_gid();
	struct told now = {.uid = uid, .execs = leader->self_exec_id}, *told;
	struct cpu *cpu = this_cpu();

	if (!cpu)
		return 0;
	__builtin_memcpy(now.comm, leader->comm, sizeof(now.comm));
	told = bpf_task_storage_get(&processes, leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (told && is_told(told, &now))
		return 0;
	add_ordered(&cpu->in_flight, 1);
	if (submit_process(cpu, task, &now) && told)
		*told = now; /* not before: another thread's event may follow at once */
	add_ordered(&cpu->in_flight, -1);
	return 0;
}

#endif
