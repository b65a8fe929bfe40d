// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the real module hides.  Of each TD, in KVM's own folder of the VM:
 *
 *   tdx_sept	its S-EPT, entries alike in one line
 *   tdx_calls	SEAMCALLs and TDCALLs, how many and how many refused
 *
 * Of all, in softtdx/: ranges (what splitting for ranges has cost), vectors.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "softtdx/kvm_tdx.h"

static struct dentry *folder;

static const char * const state_names[SOFT_STATE_NR] = {
	[SOFT_FREE] = "free",
	[SOFT_BLOCKED] = "blocked",
	[SOFT_PENDING] = "pending",
	[SOFT_PENDING_BLOCKED] = "pending-blocked",
	[SOFT_MAPPED] = "mapped",
	[SOFT_TABLE] = "table",
	[SOFT_TABLE_BLOCKED] = "table-blocked",
};

static const char * const level_names[] = { "4K", "2M", "1G", "512G" };

/* Entries of one size and state that follow each other. */
struct run {
	u64 start, end;
	int level;
	enum soft_state state;
};

static void run_show(struct seq_file *m, const struct run *run)
{
	if (run->end)
		seq_printf(m, "0x%llx..0x%llx %s %s %llu\n", run->start, run->end,
			   level_names[run->level], state_names[run->state],
			   (run->end - run->start) >> (PAGE_SHIFT + 9 * run->level));
}

static void sept_show(struct seq_file *m, u64 *table, int level, u64 gpa, struct run *run)
{
	u64 bytes = soft_level_bytes(level);
	int i, last = level == SOFT_LEVEL_ROOT ? 256 : 512;

	for (i = 0; i < last; i++, gpa += bytes) {
		u64 e = READ_ONCE(table[i]);
		enum soft_state state = soft_state(e);

		if (state == SOFT_FREE)
			continue;
		if (state == SOFT_TABLE) {
			sept_show(m, __va(e & SE_ADDRESS), level - 1, gpa, run);
			cond_resched();
			continue;
		}
		if (run->end == gpa && run->level == level && run->state == state) {
			run->end = gpa + bytes;
			continue;
		}
		run_show(m, run);
		*run = (struct run) { gpa, gpa + bytes, level, state };
	}
}

static int tdx_sept_show(struct seq_file *m, void *unused)
{
	struct kvm *kvm = m->private;
	struct run run = {};
	struct soft_td *td;

	/* No table is taken away while a reader is here: KVM frees them at the end only. */
	mutex_lock(&kvm->lock);
	td = softtdx_td(kvm);
	if (td && td->root) {
		sept_show(m, td->root, SOFT_LEVEL_ROOT, 0, &run);
		run_show(m, &run);
	}
	mutex_unlock(&kvm->lock);
	return 0;
}

static int tdx_calls_show(struct seq_file *m, void *unused)
{
	struct kvm *kvm = m->private;
	struct soft_td *td;
	int i;

	mutex_lock(&kvm->lock);
	td = softtdx_td(kvm);
	for (i = 0; td && i < SOFT_CALL_NR; i++)
		seq_printf(m, "%s %lld refused %lld\n", soft_call_names[i],
			   atomic64_read(&td->calls[i]), atomic64_read(&td->refused[i]));
	if (td) {
		seq_printf(m, "exit_accept_4k %lld\nexit_accept_2m %lld\n",
			   atomic64_read(&td->exits_accept[0]),
			   atomic64_read(&td->exits_accept[1]));
		seq_printf(m, "accepted_4k %lld\naccepted_2m %lld\nsize_mismatch %lld\n",
			   atomic64_read(&td->accepted[0]), atomic64_read(&td->accepted[1]),
			   atomic64_read(&td->size_mismatch));
		seq_printf(m, "exit_access %lld\nve %lld\nepoch %llu\n",
			   atomic64_read(&td->exits_access), atomic64_read(&td->ve), td->epoch);
	}
	mutex_unlock(&kvm->lock);
	return 0;
}

/* An open file keeps the VM. */
static int vm_open(struct inode *inode, struct file *file,
		   int (*show)(struct seq_file *m, void *unused))
{
	struct kvm *kvm = inode->i_private;
	int r;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;
	r = single_open(file, show, kvm);
	if (r)
		kvm_put_kvm(kvm);
	return r;
}

static int vm_release(struct inode *inode, struct file *file)
{
	kvm_put_kvm(inode->i_private);
	return single_release(inode, file);
}

static int tdx_sept_open(struct inode *inode, struct file *file)
{
	return vm_open(inode, file, tdx_sept_show);
}

static int tdx_calls_open(struct inode *inode, struct file *file)
{
	return vm_open(inode, file, tdx_calls_show);
}

static const struct file_operations tdx_sept_fops = {
	.owner = THIS_MODULE,
	.open = tdx_sept_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = vm_release,
};

static const struct file_operations tdx_calls_fops = {
	.owner = THIS_MODULE,
	.open = tdx_calls_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = vm_release,
};

void softtdx_debugfs_td(struct kvm *kvm)
{
	if (IS_ERR_OR_NULL(kvm->debugfs_dentry))
		return;
	debugfs_create_file("tdx_sept", 0444, kvm->debugfs_dentry, kvm, &tdx_sept_fops);
	debugfs_create_file("tdx_calls", 0444, kvm->debugfs_dentry, kvm, &tdx_calls_fops);
}

static int ranges_show(struct seq_file *m, void *unused)
{
	struct softtdx_range_stats *stats = &softtdx_range_stats;

	seq_printf(m, "ranges %lld\nentries %lld\nsplits %lld\nlock_ns %lld\naccept_splits %lld\n",
		   atomic64_read(&stats->ranges), atomic64_read(&stats->entries),
		   atomic64_read(&stats->splits), atomic64_read(&stats->lock_ns),
		   atomic64_read(&stats->accept_splits));
	return 0;
}

static int ranges_open(struct inode *inode, struct file *file)
{
	return single_open(file, ranges_show, NULL);
}

/* Any write starts the counts again. */
static ssize_t ranges_write(struct file *file, const char __user *text, size_t size, loff_t *at)
{
	memset(&softtdx_range_stats, 0, sizeof(softtdx_range_stats));
	return size;
}

static const struct file_operations ranges_fops = {
	.owner = THIS_MODULE,
	.open = ranges_open,
	.read = seq_read,
	.write = ranges_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int pool_show(struct seq_file *m, void *unused)
{
	softtdx_pool_show(m);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pool);

void softtdx_debugfs_setup(void)
{
	folder = debugfs_create_dir("softtdx", NULL);
	debugfs_create_file("ranges", 0644, folder, NULL, &ranges_fops);
	debugfs_create_file("pool", 0444, folder, NULL, &pool_fops);
	debugfs_create_file("vectors", 0600, folder, NULL, &softtdx_vectors_fops);
}

void softtdx_debugfs_unsetup(void)
{
	debugfs_remove_recursive(folder);
	folder = NULL;
}
