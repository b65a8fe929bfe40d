// SPDX-License-Identifier: GPL-2.0-only
/* The Secure EPT: entries, their states, and the walk. */
#include "softtdx/module.h"

u64 soft_entry(enum soft_state state, int level, u64 hpa, u64 number)
{
	u64 e = FIELD_PREP(SE_STATE, state) | (hpa & SE_ADDRESS);

	switch (state) {
	case SOFT_FREE:
		return 0;
	case SOFT_MAPPED:
		e |= SE_PRESENT | SE_WRITE | SE_USER | SE_ACCESSED | SE_DIRTY;
		return level > SOFT_LEVEL_4K ? e | SE_LARGE : e;
	case SOFT_TABLE:
		return e | SE_PRESENT | SE_WRITE | SE_USER | SE_ACCESSED;
	default:
		return e | FIELD_PREP(SE_NUMBER_LOW, number & GENMASK(10, 0)) |
		       FIELD_PREP(SE_NUMBER_HIGH, (number >> 11) & GENMASK(3, 0));
	}
}

/* Down to @level, or to where there is no table below. */
struct soft_walk soft_walk(struct soft_td *td, u64 gpa, int level)
{
	struct soft_walk walk;
	u64 *table = td->root;

	for (walk.level = SOFT_LEVEL_ROOT; ; walk.level--) {
		walk.entry = &table[(gpa >> (PAGE_SHIFT + 9 * walk.level)) & 511];
		walk.value = READ_ONCE(*walk.entry);
		if (walk.level <= level || soft_state(walk.value) != SOFT_TABLE)
			return walk;
		table = __va(walk.value & SE_ADDRESS);
	}
}

/* Takes the entry's lock.  False where it is taken, or the entry has changed. */
bool soft_entry_lock(struct soft_walk *walk)
{
	u64 seen = walk->value;

	if (seen & SE_LOCKED)
		return false;
	return try_cmpxchg64(walk->entry, &seen, seen | SE_LOCKED);
}

/* Gives the entry its new value, and with it its lock back. */
void soft_entry_set(struct soft_walk *walk, u64 value)
{
	/* What a table or page holds is there before the entry that leads to it. */
	smp_store_release(walk->entry, value & ~SE_LOCKED);
}

/* The state as the module tells it to the host. */
u8 soft_arch_state(u64 e)
{
	static const u8 codes[SOFT_STATE_NR] = {
		[SOFT_FREE] = 0,
		[SOFT_BLOCKED] = 1,
		[SOFT_PENDING] = 2,
		[SOFT_PENDING_BLOCKED] = 3,
		[SOFT_MAPPED] = 4,
		[SOFT_TABLE] = 0x84,
		[SOFT_TABLE_BLOCKED] = 0x81,
	};

	return codes[soft_state(e)];
}

/*
 * The entry as an EPT entry: of a table without its address, and of a pending 2M
 * with the 4K that are accepted already where the address has zeros.
 */
u64 soft_entry_rcx(u64 e, int level)
{
	switch (soft_state(e)) {
	case SOFT_FREE:
		return BIT_ULL(63);
	case SOFT_TABLE:
		return 0x407;
	case SOFT_TABLE_BLOCKED:
		return 0;
	case SOFT_MAPPED:
		return BIT_ULL(63) | (e & SE_ADDRESS) | 0x4f7;
	case SOFT_PENDING:
		return BIT_ULL(63) | (e & SE_ADDRESS) | soft_number(e) << PAGE_SHIFT | 0xf0;
	default:
		return BIT_ULL(63) | (e & SE_ADDRESS) | 0xf0;
	}
}

u64 soft_entry_rdx(u64 e, int level)
{
	return level | (u64)soft_arch_state(e) << 8;
}

/* Where a private page that the guest has accepted lies, or NULL. */
void *soft_private_va(struct soft_td *td, u64 gpa)
{
	struct soft_walk walk;

	if (gpa & ~(SOFT_SHARED_BIT - 1))
		return NULL;
	walk = soft_walk(td, gpa, SOFT_LEVEL_4K);
	if (soft_state(walk.value) != SOFT_MAPPED)
		return NULL;
	return __va((walk.value & SE_ADDRESS) + (gpa & (soft_level_bytes(walk.level) - 1)));
}
