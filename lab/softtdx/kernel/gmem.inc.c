// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tail of KVM's virt/kvm/guest_memfd.c: folios of 2M, and what a hole does
 * before and after KVM zaps its range.
 */

static bool softtdx_inode_huge(struct inode *inode)
{
	struct gmem_file *f;

	if (GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED)
		return false;
	kvm_gmem_for_each_file(f, inode) {
		if (softtdx_huge(f->kvm))
			return true;
	}
	return false;
}

/* The folio of softtdx_one_folio, locked. It is there as long as the module is. */
static struct folio *softtdx_only_folio(void)
{
	static DEFINE_MUTEX(making);
	static struct folio *only;

	mutex_lock(&making);
	if (!only) {
		only = folio_alloc(GFP_KERNEL | __GFP_ZERO, HPAGE_PMD_ORDER);
		if (only)
			folio_mark_uptodate(only);
	}
	mutex_unlock(&making);
	if (!only)
		return ERR_PTR(-ENOMEM);
	folio_lock(only);
	folio_get(only);
	return only;
}

/*
 * A new, locked folio of 2M around @index.  An error where there is none, where
 * the range sticks out of the file, or where it is partly populated: then the
 * caller makes one of 4K.
 */
struct folio *softtdx_gmem_huge_folio(struct inode *inode, pgoff_t index)
{
	struct address_space *mapping = inode->i_mapping;
	pgoff_t base = round_down(index, HPAGE_PMD_NR);
	loff_t start = (loff_t)base << PAGE_SHIFT;
	gfp_t gfp = mapping_gfp_mask(mapping);
	struct folio *folio;
	int r;

	if (!softtdx_inode_huge(inode))
		return ERR_PTR(-EOPNOTSUPP);
	if (start + HPAGE_PMD_SIZE > i_size_read(inode))
		return ERR_PTR(-ERANGE);
	if (READ_ONCE(softtdx_one_folio))
		return softtdx_only_folio();
	if (filemap_range_has_page(mapping, start, start + HPAGE_PMD_SIZE - 1))
		return ERR_PTR(-EEXIST);

	folio = NULL;
	if (!softtdx_fragmented())
		folio = filemap_alloc_folio(gfp | __GFP_NORETRY | __GFP_NOWARN,
					    HPAGE_PMD_ORDER, NULL);
	if (!folio)
		folio = softtdx_pool_take();
	if (!folio)
		return ERR_PTR(-ENOMEM);

	__folio_set_locked(folio);
	r = filemap_add_folio(mapping, folio, base, gfp);
	if (r) {
		__folio_clear_locked(folio);
		folio_put(folio);
		return ERR_PTR(r);
	}
	/* Where a split fails, truncation drops all of a clean folio. */
	folio_mark_dirty(folio);
	return folio;
}

/* Parts of a split folio may have any order between; they count as 4K. */
int softtdx_gmem_max_order(const struct kvm_memory_slot *slot, struct folio *folio)
{
	if (folio_order(folio) < HPAGE_PMD_ORDER)
		return 0;
	if ((slot->base_gfn ^ slot->gmem.pgoff) & (HPAGE_PMD_NR - 1))
		return 0;
	return HPAGE_PMD_ORDER;
}

void softtdx_gmem_clear_folio(struct folio *folio)
{
	long i;

	for (i = 0; i < folio_nr_pages(folio); i++) {
		clear_highpage(folio_page(folio, i));
		cond_resched();
	}
}

/* Splits for the part of the hole that this file's VM has in slots. */
static int softtdx_hole_split(struct gmem_file *f, pgoff_t start, pgoff_t end,
			      enum kvm_gfn_range_filter filter)
{
	struct kvm_memory_slot *slot;
	unsigned long index;
	int r = 0;

	KVM_MMU_LOCK(f->kvm);
	xa_for_each_range(&f->bindings, index, slot, start, end - 1) {
		pgoff_t pgoff = slot->gmem.pgoff;
		struct kvm_gfn_range range = {
			.start = slot->base_gfn + max(pgoff, start) - pgoff,
			.end = slot->base_gfn + min(pgoff + slot->npages, end) - pgoff,
			.slot = slot,
			.may_block = true,
			.attr_filter = filter,
		};

		r = softtdx_split_range(f->kvm, &range);
		if (r || softtdx_bug(SPLIT_ONLY_FIRST_SLOT))
			break;
	}
	KVM_MMU_UNLOCK(f->kvm);
	return r;
}

static bool softtdx_bound(struct gmem_file *f, pgoff_t start, pgoff_t end)
{
	return xa_find(&f->bindings, &start, end - 1, XA_PRESENT);
}

/* Keeps faults away from the hole, and from the leaves around its ends when they are split. */
static void softtdx_invalidate_start(struct gmem_file *f, pgoff_t start, pgoff_t end)
{
	struct kvm_memory_slot *slot;
	unsigned long index;

	KVM_MMU_LOCK(f->kvm);
	kvm_mmu_invalidate_start(f->kvm);
	xa_for_each_range(&f->bindings, index, slot, start, end - 1) {
		pgoff_t pgoff = slot->gmem.pgoff;
		gfn_t first = slot->base_gfn + max(pgoff, start) - pgoff;
		gfn_t past = slot->base_gfn + min(pgoff + slot->npages, end) - pgoff;

		kvm_mmu_invalidate_range_add(f->kvm, first, past);
	}
	KVM_MMU_UNLOCK(f->kvm);
}

/* Ends what softtdx_hole_begin() has begun. */
void softtdx_hole_end(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct gmem_file *f;

	kvm_gmem_for_each_file(f, inode) {
		if (!softtdx_is_td(f->kvm) || !softtdx_bound(f, start, end))
			continue;
		KVM_MMU_LOCK(f->kvm);
		kvm_mmu_invalidate_end(f->kvm);
		KVM_MMU_UNLOCK(f->kvm);
	}
}

/*
 * Before anything of a hole is zapped: refuses it where the design wants whole
 * 2M, and splits the leaves at its ends in every VM that has the file.  An error
 * leaves everything as it was.  The invalidation that is begun here lasts until
 * softtdx_hole_end(), so that no fault maps a new leaf across an end.
 */
int softtdx_hole_begin(struct inode *inode, pgoff_t start, pgoff_t end)
{
	bool coarse = READ_ONCE(softtdx_design)->coarse_holes && softtdx_inode_huge(inode);
	enum kvm_gfn_range_filter filter = kvm_gmem_get_invalidate_filter(inode);
	struct gmem_file *f;
	int r = 0;

	if ((coarse || softtdx_coarse_holes()) && !IS_ALIGNED(start | end, HPAGE_PMD_NR))
		return -EINVAL;

	kvm_gmem_for_each_file(f, inode) {
		if (softtdx_is_td(f->kvm) && softtdx_bound(f, start, end))
			softtdx_invalidate_start(f, start, end);
	}
	kvm_gmem_for_each_file(f, inode) {
		if (!softtdx_is_td(f->kvm) || softtdx_bug(SPLIT_AFTER_ZAP))
			continue;
		r = softtdx_hole_split(f, start, end, filter);
		if (r)
			break;
	}
	/* A bool that holds an error is 1, and no error to who asks for a hole. */
	if (softtdx_bug(ERROR_AS_ONE) && !IS_ALIGNED(start | end, HPAGE_PMD_NR) &&
	    softtdx_inode_huge(inode))
		r = 1;
	if (r)
		softtdx_hole_end(inode, start, end);
	return r;
}

/* After the zap, before the pages are freed: the place of some bugs. */
int softtdx_hole_zapped(struct inode *inode, loff_t *offset, loff_t *len)
{
	pgoff_t start = *offset >> PAGE_SHIFT, end = (*offset + *len) >> PAGE_SHIFT;
	enum kvm_gfn_range_filter filter = kvm_gmem_get_invalidate_filter(inode);
	struct gmem_file *f;

	if (!softtdx_inode_huge(inode))
		return 0;
	if (softtdx_bug(SPLIT_AFTER_ZAP)) {
		kvm_gmem_for_each_file(f, inode)
			softtdx_hole_split(f, start, end, filter);
	}
	if (softtdx_bug(HOLE_TAKES_FOLIO)) {
		start = round_down(start, HPAGE_PMD_NR);
		end = round_up(end, HPAGE_PMD_NR);
		*offset = (loff_t)start << PAGE_SHIFT;
		*len = (loff_t)(end - start) << PAGE_SHIFT;
	}
	if (softtdx_bug(HOLE_NOT_TRUNCATED))
		*len = 0;
	if (softtdx_bug(ERROR_AFTER_ZAP)) {
		*len = 0;
		return -ENOMEM;
	}
	return 0;
}
