// SPDX-License-Identifier: GPL-2.0-only
/*
 * The designs of huge pages for TDs: which leaves are split before a range is
 * zapped, and when the guest accepts memory at a smaller size.
 */
#define pr_fmt(fmt) "kvm: softtdx: " fmt

#include <linux/debugfs.h>
#include <linux/ktime.h>
#include <linux/module.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/tdp_mmu.h"
#include "softtdx/softtdx.h"

/* Beside KVM_LPAGE_MIXED_FLAG, bit 31: the guest has accepted a part at 4K. */
#define GUEST_INHIBIT	BIT(30)

#define NR_2M		KVM_PAGES_PER_HPAGE(PG_LEVEL_2M)

static const struct softtdx_design designs[] = {
	{ .name = "stock", .split = SOFTTDX_SPLIT_NONE },
	{ .name = "v3", .split = SOFTTDX_SPLIT_WALK, .huge = true, .coarse_holes = true },
	{ .name = "v5", .split = SOFTTDX_SPLIT_HEADTAIL, .huge = true, .coarse_holes = true },
	{ .name = "headtail", .split = SOFTTDX_SPLIT_HEADTAIL, .huge = true },
	/* v3's walk where holes are fine: what the two ways cost, compared. */
	{ .name = "walk", .split = SOFTTDX_SPLIT_WALK, .huge = true },
};

const struct softtdx_design *softtdx_design = &designs[0];
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_design);

struct softtdx_range_stats softtdx_range_stats;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_range_stats);

static int design_set(const char *text, const struct kernel_param *kp)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(designs); i++) {
		if (sysfs_streq(text, designs[i].name)) {
			WRITE_ONCE(softtdx_design, &designs[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static int design_get(char *text, const struct kernel_param *kp)
{
	return sysfs_emit(text, "%s\n", READ_ONCE(softtdx_design)->name);
}

static const struct kernel_param_ops design_ops = {
	.set = design_set,
	.get = design_get,
};
module_param_cb(softtdx_design, &design_ops, NULL, 0644);

/*
 * One folio of 2M is all private memory of TDs, and all of their memory is
 * private without an attribute: what ranges of terabytes cost can be measured
 * then, and nothing else.
 */
bool softtdx_one_folio;
module_param(softtdx_one_folio, bool, 0644);

/* The frame whose place in a 2M page decides; a bug takes that in the file. */
static gfn_t round_2m(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	if (softtdx_bug(SPLIT_BY_FILE_OFFSET)) {
		gfn_t in_file = gfn - slot->base_gfn + slot->gmem.pgoff;

		return gfn - (in_file & (NR_2M - 1));
	}
	return gfn & ~(gfn_t)(NR_2M - 1);
}

static enum kvm_gfn_range_filter filter_of(const struct kvm_gfn_range *range)
{
	return softtdx_bug(SPLIT_WRONG_ROOT) ? KVM_FILTER_SHARED : range->attr_filter;
}

/* Splits the leaf around @gfn, unless it starts there or sticks out of the slot. */
static int split_around(struct kvm *kvm, struct kvm_gfn_range *range, gfn_t gfn)
{
	struct kvm_memory_slot *slot = range->slot;
	gfn_t base = round_2m(slot, gfn);

	if (base == gfn || base < slot->base_gfn ||
	    base + NR_2M > slot->base_gfn + slot->npages)
		return 0;

	/* No new leaf around the edge until the range is zapped. */
	kvm_mmu_invalidate_range_add(kvm, base, base + NR_2M);
	return softtdx_tdp_split(kvm, slot, filter_of(range), base, base + NR_2M, false);
}

static int split_headtail(struct kvm *kvm, struct kvm_gfn_range *range)
{
	gfn_t head = range->start, tail = range->end;
	int r = 0;

	if (softtdx_bug(COVERED_LEAVES_SPLIT))
		return softtdx_tdp_split(kvm, range->slot, filter_of(range),
					 head, tail, false);

	if (!softtdx_bug(HEAD_NOT_SPLIT))
		r = split_around(kvm, range, head);
	if (r || softtdx_bug(TAIL_NOT_SPLIT))
		return r;
	if (softtdx_bug(TAIL_OFF_BY_ONE))
		tail--;
	if (softtdx_bug(NEXT_LEAF_SPLIT) && IS_ALIGNED(tail, NR_2M))
		tail++;
	/* Once only where both ends lie in one leaf. */
	if (head & (NR_2M - 1) && round_2m(range->slot, head) == round_2m(range->slot, tail))
		return 0;
	return split_around(kvm, range, tail);
}

static int split_walk(struct kvm *kvm, struct kvm_gfn_range *range)
{
	gfn_t start = range->start & ~(gfn_t)(NR_2M - 1);
	gfn_t end = ALIGN(range->end, NR_2M);

	kvm_mmu_invalidate_range_add(kvm, start, end);
	return softtdx_tdp_split(kvm, range->slot, filter_of(range),
				 range->start, range->end, true);
}

/*
 * Splits the leaves that lie partly in @range, before it is zapped.  mmu_lock is
 * held for write, and dropped while page tables are allocated; the invalidation
 * that the caller has begun keeps new leaves away meanwhile.
 */
int softtdx_split_range(struct kvm *kvm, struct kvm_gfn_range *range)
{
	const struct softtdx_design *design = READ_ONCE(softtdx_design);
	ktime_t start = ktime_get();
	int r = 0;

	lockdep_assert_held_write(&kvm->mmu_lock);
	if (!softtdx_huge(kvm) || !(range->attr_filter & KVM_FILTER_PRIVATE) ||
	    range->start >= range->end)
		return 0;

	if (softtdx_bug(ERROR_SWALLOWED))
		/* The page table that a split needs is not there, and nobody says so. */
		return 0;

	if (design->split == SOFTTDX_SPLIT_WALK)
		r = split_walk(kvm, range);
	else if (design->split == SOFTTDX_SPLIT_HEADTAIL)
		r = split_headtail(kvm, range);

	atomic64_inc(&softtdx_range_stats.ranges);
	atomic64_add(ktime_to_ns(ktime_sub(ktime_get(), start)),
		     &softtdx_range_stats.lock_ns);
	return r;
}

static void inhibit(struct kvm_memory_slot *slot, gfn_t base)
{
	int level = PG_LEVEL_2M;
	gfn_t index;

	if (softtdx_bug(INHIBIT_MISSING))
		return;
	if (softtdx_bug(INHIBIT_WRONG_LEVEL))
		level = PG_LEVEL_1G;
	if (softtdx_bug(INHIBIT_WRONG_RANGE) &&
	    base + 2 * NR_2M <= slot->base_gfn + slot->npages)
		base += NR_2M;
	index = gfn_to_index(base, slot->base_gfn, level);
	slot->arch.lpage_info[level - 2][index].disallow_lpage |= GUEST_INHIBIT;
}

static bool inhibited(struct kvm_memory_slot *slot, gfn_t base)
{
	gfn_t index = gfn_to_index(base, slot->base_gfn, PG_LEVEL_2M);

	return READ_ONCE(slot->arch.lpage_info[0][index].disallow_lpage) & GUEST_INHIBIT;
}

/*
 * The guest accepts @gfn at @level: a larger leaf is split to it, and none is
 * made there again for the life of the slot.  Returns an error before anything
 * is changed where there is no memory for page tables.
 */
int softtdx_accept_level(struct kvm_vcpu *vcpu, gfn_t gfn, int level)
{
	struct kvm_memory_slot *slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
	gfn_t base = gfn & ~(gfn_t)(NR_2M - 1), end = base + NR_2M;
	struct kvm *kvm = vcpu->kvm;
	s64 before;
	int r = 0;

	if (!softtdx_huge(kvm) || softtdx_bug(ACCEPT_LEVEL_IGNORED))
		return 0;
	if (!slot || level >= PG_LEVEL_2M || base < slot->base_gfn ||
	    end > slot->base_gfn + slot->npages || inhibited(slot, base))
		return 0;

	if (softtdx_bug(ACCEPT_SPLITS_NEIGHBOUR) && end + NR_2M <= slot->base_gfn + slot->npages)
		end += NR_2M;

	write_lock(&kvm->mmu_lock);
	before = atomic64_read(&softtdx_range_stats.splits);
	if (!softtdx_bug(INHIBIT_BEFORE_SPLIT))
		r = softtdx_tdp_split(kvm, slot, softtdx_bug(SPLIT_WRONG_ROOT) ?
				      KVM_FILTER_SHARED : KVM_FILTER_PRIVATE,
				      base, end, false);
	if (!r)
		inhibit(slot, base);
	atomic64_add(atomic64_read(&softtdx_range_stats.splits) - before,
		     &softtdx_range_stats.accept_splits);
	write_unlock(&kvm->mmu_lock);
	return r;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_accept_level);

/* Whether a fault must not replace the table @child by a huge leaf. */
bool softtdx_keeps_table(struct kvm_mmu_page *child)
{
	return is_mirror_sp(child) && !softtdx_bug(PROMOTION);
}

/* Adds the page of the S-EPT's own table to @sp, which is freed where there is none. */
struct kvm_mmu_page *softtdx_with_external_spt(struct kvm_mmu_page *root,
					       struct kvm_mmu_page *sp)
{
	if (!sp || !is_mirror_sp(root))
		return sp;
	sp->external_spt = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (sp->external_spt)
		return sp;
	free_page((unsigned long)sp->spt);
	kmem_cache_free(mmu_page_header_cache, sp);
	return NULL;
}

/* What of a range is zapped in a mirror; bugs zap more or less. */
gfn_t softtdx_zap_start(struct kvm_mmu_page *root, gfn_t start, gfn_t end)
{
	if (is_mirror_sp(root) && softtdx_bug(ZAP_FROM_LEAF_START))
		return start & ~(gfn_t)(NR_2M - 1);
	return start;
}

gfn_t softtdx_zap_end(struct kvm_mmu_page *root, gfn_t start, gfn_t end)
{
	if (!is_mirror_sp(root))
		return end;
	if (softtdx_bug(OVER_ZAP))
		return ALIGN(end, NR_2M);
	if (softtdx_bug(ZAP_SHORT) && end > start)
		return end - 1;
	if (softtdx_bug(HOLE_NOT_ZAPPED))
		return start;
	return end;
}

/* Ends what softtdx_attributes_begin() has begun. */
void softtdx_attributes_end(struct kvm *kvm)
{
	if (!softtdx_is_td(kvm))
		return;
	write_lock(&kvm->mmu_lock);
	kvm_mmu_invalidate_end(kvm);
	write_unlock(&kvm->mmu_lock);
}

/*
 * A range becomes shared or private by attribute.  What becomes shared is zapped
 * afterwards, so leaves that lie partly in it are split now; an error here
 * leaves everything as it was.
 */
int softtdx_attributes_begin(struct kvm *kvm, gfn_t start, gfn_t end,
			     unsigned long attributes)
{
	struct kvm_memslot_iter iter;
	int r = softtdx_refused(kvm, SOFTTDX_SET_MEMORY_ATTRIBUTES);

	if (r || !softtdx_is_td(kvm))
		return r;

	write_lock(&kvm->mmu_lock);
	kvm_mmu_invalidate_start(kvm);
	kvm_mmu_invalidate_range_add(kvm, start, end);
	if (!(attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE) && !softtdx_bug(CONVERSION_NOT_SPLIT)) {
		kvm_for_each_memslot_in_gfn_range(&iter, kvm_memslots(kvm), start, end) {
			struct kvm_gfn_range range = {
				.slot = iter.slot,
				.start = max(start, iter.slot->base_gfn),
				.end = min(end, iter.slot->base_gfn + iter.slot->npages),
				.attr_filter = KVM_FILTER_PRIVATE,
				.may_block = true,
			};

			r = softtdx_split_range(kvm, &range);
			if (r)
				break;
		}
	}
	write_unlock(&kvm->mmu_lock);
	if (r)
		softtdx_attributes_end(kvm);
	return r;
}

/*
 * Private memory comes from the guest_memfd, so its place there decides about
 * huge pages, not the user address, which only forbids shared ones.
 */
unsigned long softtdx_slot_ugfn(const struct kvm_memory_slot *slot, unsigned long ugfn)
{
	return kvm_slot_has_gmem(slot) ? slot->gmem.pgoff : ugfn;
}

bool softtdx_hva_misaligned(const struct kvm_memory_slot *slot, gfn_t gfn, unsigned long hva)
{
	return kvm_slot_has_gmem(slot) && (((hva >> PAGE_SHIFT) ^ gfn) & (NR_2M - 1));
}
