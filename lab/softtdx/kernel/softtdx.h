/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What KVM's own files, once edited, and the files of this folder share.
 *
 * kvm.ko holds the designs, the seeded bugs and the lies; kvm-amd.ko holds the
 * TDX module that is played, and KVM's TDX code on top of it.
 */
#ifndef __KVM_SOFTTDX_H
#define __KVM_SOFTTDX_H

#include <linux/kvm_host.h>
#include <linux/pagemap.h>

#include "softtdx/bugs.h"
#include "softtdx/lies.h"

struct kvm_mmu_page;
struct kvm_x86_ops;

/* How leaves that lie partly in a range are found before the range is zapped. */
enum softtdx_split {
	SOFTTDX_SPLIT_NONE,	/* as upstream: not at all */
	SOFTTDX_SPLIT_WALK,	/* as v3: every entry of the range is looked at */
	SOFTTDX_SPLIT_HEADTAIL,	/* as v5 for conversions: the two ends, by arithmetic */
};

/* A design of huge pages for TDs; all of them in one module, chosen at run time. */
struct softtdx_design {
	const char *name;
	enum softtdx_split split;
	bool huge;		/* 2M folios, 2M leaves, and the accepted level honoured */
	bool coarse_holes;	/* holes of whole 2M only, else -EINVAL */
};

extern const struct softtdx_design *softtdx_design;

/* What splitting for ranges has cost. Read in debugfs; written by whoever holds mmu_lock. */
struct softtdx_range_stats {
	atomic64_t ranges;	/* ranges that were looked at */
	atomic64_t entries;	/* entries of page tables looked at for them */
	atomic64_t splits;	/* leaves split for them */
	atomic64_t lock_ns;	/* nanoseconds with mmu_lock held for it */
	atomic64_t accept_splits; /* leaves split to the accepted level */
};

extern struct softtdx_range_stats softtdx_range_stats;

static inline bool softtdx_is_td(struct kvm *kvm)
{
	return kvm->arch.vm_type == KVM_X86_TDX_VM;
}

static inline bool softtdx_huge(struct kvm *kvm)
{
	return READ_ONCE(softtdx_design)->huge && kvm_arch_has_private_mem(kvm);
}

/* For terabytes of private memory on a machine of gigabytes: see split.c. */
extern bool softtdx_one_folio;

static inline bool softtdx_mem_is_private(struct kvm *kvm, gfn_t gfn)
{
	return (READ_ONCE(softtdx_one_folio) && softtdx_is_td(kvm)) ||
	       kvm_mem_is_private(kvm, gfn);
}

/* split.c */
int softtdx_split_range(struct kvm *kvm, struct kvm_gfn_range *range);
int softtdx_accept_level(struct kvm_vcpu *vcpu, gfn_t gfn, int level);
bool softtdx_keeps_table(struct kvm_mmu_page *child);
struct kvm_mmu_page *softtdx_with_external_spt(struct kvm_mmu_page *root,
					       struct kvm_mmu_page *sp);
int softtdx_attributes_begin(struct kvm *kvm, gfn_t start, gfn_t end,
			     unsigned long attributes);
void softtdx_attributes_end(struct kvm *kvm);
bool softtdx_hva_misaligned(const struct kvm_memory_slot *slot, gfn_t gfn,
			    unsigned long hva);
unsigned long softtdx_slot_ugfn(const struct kvm_memory_slot *slot, unsigned long ugfn);
gfn_t softtdx_zap_start(struct kvm_mmu_page *root, gfn_t start, gfn_t end);
gfn_t softtdx_zap_end(struct kvm_mmu_page *root, gfn_t start, gfn_t end);

static inline void softtdx_entry_seen(void)
{
	atomic64_inc(&softtdx_range_stats.entries);
}

static inline void softtdx_leaf_split(int error)
{
	if (!error)
		atomic64_inc(&softtdx_range_stats.splits);
}

/* The tail of mmu/tdp_mmu.c. */
int softtdx_tdp_split(struct kvm *kvm, struct kvm_memory_slot *slot,
		      enum kvm_gfn_range_filter filter, gfn_t start, gfn_t end,
		      bool only_crossing);

/* The tail of virt/kvm/guest_memfd.c. */
struct folio *softtdx_gmem_huge_folio(struct inode *inode, pgoff_t index);
int softtdx_gmem_max_order(const struct kvm_memory_slot *slot, struct folio *folio);
void softtdx_gmem_clear_folio(struct folio *folio);
int softtdx_hole_begin(struct inode *inode, pgoff_t start, pgoff_t end);
int softtdx_hole_zapped(struct inode *inode, loff_t *offset, loff_t *len);
void softtdx_hole_end(struct inode *inode, pgoff_t start, pgoff_t end);

/* pool.c */
struct seq_file;

void softtdx_pool_fill(void);
struct folio *softtdx_pool_take(void);
void softtdx_pool_drain(void);
void softtdx_pool_show(struct seq_file *m);

/* kvm-amd.ko */
extern const unsigned int softtdx_vcpu_size;
void softtdx_hardware_setup(struct kvm_x86_ops *ops);
void softtdx_unsetup(void);

#endif /* __KVM_SOFTTDX_H */
