// SPDX-License-Identifier: GPL-2.0-only
/*
 * Folios of 2M that are kept for guest_memfd: memory of a host that has run for
 * long is fragmented, and the buddy allocator has none in one piece.  Filled
 * when a TD starts, by compaction where needed.  A folio that was taken is freed
 * in pieces, so none comes back.
 */
#define pr_fmt(fmt) "kvm: softtdx: " fmt

#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/spinlock.h>

#include "softtdx/softtdx.h"

/* Folios that the pool shall hold when a TD starts: the parameter softtdx_pool. */
static unsigned int wanted = 16;
module_param_named(softtdx_pool, wanted, uint, 0644);

static DEFINE_SPINLOCK(lock);
static LIST_HEAD(pool);
static unsigned int kept;
static unsigned long taken;

static bool add(struct folio *folio)
{
	bool missing;

	spin_lock(&lock);
	missing = kept < READ_ONCE(wanted);
	if (missing) {
		list_add(&folio->lru, &pool);
		kept++;
	}
	spin_unlock(&lock);
	return missing;
}

/* Fills it up, as far as there is memory. */
void softtdx_pool_fill(void)
{
	struct folio *folio;

	while (READ_ONCE(kept) < READ_ONCE(wanted)) {
		folio = folio_alloc(GFP_HIGHUSER | __GFP_NOWARN, HPAGE_PMD_ORDER);
		if (!folio)
			return;
		if (!add(folio)) {
			folio_put(folio);
			return;
		}
	}
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_pool_fill);

static struct folio *remove(void)
{
	struct folio *folio;

	spin_lock(&lock);
	folio = list_first_entry_or_null(&pool, struct folio, lru);
	if (folio) {
		list_del_init(&folio->lru);
		kept--;
	}
	spin_unlock(&lock);
	return folio;
}

/* A folio that belongs to the caller, or NULL. */
struct folio *softtdx_pool_take(void)
{
	struct folio *folio = remove();

	if (folio) {
		spin_lock(&lock);
		taken++;
		spin_unlock(&lock);
	}
	return folio;
}

void softtdx_pool_drain(void)
{
	struct folio *folio;

	while ((folio = remove()))
		folio_put(folio);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_pool_drain);

void softtdx_pool_show(struct seq_file *m)
{
	spin_lock(&lock);
	seq_printf(m, "kept %u\ntaken %lu\n", kept, taken);
	spin_unlock(&lock);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_pool_show);
