// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tail of KVM's mmu/tdp_mmu.c: splits leaves for a range in the roots that
 * the range is about.
 */

/* The most leaves that one range can cut: one at each end. */
#define SOFTTDX_CROSSING_MAX	2

/* As v3 did: looks at every entry of the range for leaves that stick out of it. */
static int softtdx_split_crossing(struct kvm *kvm, struct kvm_mmu_page *root,
				  gfn_t start, gfn_t end)
{
	gfn_t crossing[SOFTTDX_CROSSING_MAX];
	struct tdp_iter iter;
	int found = 0, i, r;

	rcu_read_lock();
	for_each_tdp_pte_min_level(iter, kvm, root, PG_LEVEL_2M, start, end) {
		gfn_t pages = KVM_PAGES_PER_HPAGE(iter.level);

		if (tdp_mmu_iter_cond_resched(kvm, &iter, false, false))
			continue;
		softtdx_entry_seen();
		if (!is_shadow_present_pte(iter.old_spte) || !is_large_pte(iter.old_spte))
			continue;
		if (iter.gfn >= start && iter.gfn + pages <= end)
			continue;
		if (!WARN_ON_ONCE(found == SOFTTDX_CROSSING_MAX))
			crossing[found++] = iter.gfn;
	}
	rcu_read_unlock();

	for (i = 0; i < found; i++) {
		r = tdp_mmu_split_huge_pages_root(kvm, root, crossing[i],
						  crossing[i] + KVM_PAGES_PER_HPAGE(PG_LEVEL_2M),
						  PG_LEVEL_4K, false);
		if (r)
			return r;
	}
	return 0;
}

int softtdx_tdp_split(struct kvm *kvm, struct kvm_memory_slot *slot,
		      enum kvm_gfn_range_filter filter, gfn_t start, gfn_t end,
		      bool only_crossing)
{
	struct kvm_mmu_page *root;
	int r = 0;

	lockdep_assert_held_write(&kvm->mmu_lock);
	if (!tdp_mmu_enabled)
		return 0;

	__for_each_tdp_mmu_root_yield_safe(kvm, root, slot->as_id,
					   kvm_gfn_range_filter_to_root_types(kvm, filter)) {
		if (only_crossing)
			r = softtdx_split_crossing(kvm, root, start, end);
		else
			r = tdp_mmu_split_huge_pages_root(kvm, root, start, end,
							  PG_LEVEL_4K, false);
		if (r) {
			kvm_tdp_mmu_put_root(kvm, root);
			break;
		}
	}
	return r;
}
