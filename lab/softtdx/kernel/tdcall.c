// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a vCPU does with private memory, and how it comes in: ACCEPT, ATTR.RD,
 * accesses, and the epochs of TLB tracking.
 */
#include "softtdx/module.h"

static struct soft_result done(u64 rax)
{
	return (struct soft_result) { .outcome = SOFT_DONE, .rax = rax };
}

static struct soft_result ept_violation(struct soft_td *td, u64 gpa, u64 qual, u64 eeq)
{
	atomic64_inc(&td->exits_access);
	return (struct soft_result) {
		.outcome = SOFT_EXIT,
		.exit_gpa = gpa & ~0xfffULL,
		.exit_qual = qual,
		.eeq = eeq,
	};
}

/* EPT violation of ACCEPT: which level was asked for, and where the walk ended. */
static struct soft_result accept_violation(struct soft_td *td, u64 gpa, int level,
					   const struct soft_walk *walk)
{
	enum soft_state state = soft_state(walk->value);
	bool leaf = state != SOFT_FREE && state != SOFT_TABLE && state != SOFT_TABLE_BLOCKED;
	u64 info = level | walk->level << 3 | (u64)soft_arch_state(walk->value) << 6 |
		   (leaf ? BIT(14) : 0);

	atomic64_inc(&td->exits_accept[level]);
	atomic64_dec(&td->exits_access);
	return ept_violation(td, gpa, BIT(1), SOFT_EEQ_ACCEPT | info << 32);
}

/*
 * A pending page becomes zeros.  Of 2M, interrupts are looked for after each 4K;
 * what was accepted by then stays, and the instruction is executed again.
 */
static struct soft_result accept_pending(struct soft_td *td, struct soft_walk *walk)
{
	u64 pages = soft_level_bytes(walk->level) >> PAGE_SHIFT;
	u64 hpa = walk->value & SE_ADDRESS, page;

	for (page = soft_number(walk->value); page < pages; page++) {
		if (!td->frames_untouched)
			clear_page(__va(hpa + (page << PAGE_SHIFT)));
		if (page + 1 < pages && soft_interrupted(td)) {
			soft_entry_set(walk, soft_entry(SOFT_PENDING, walk->level, hpa, page + 1));
			return (struct soft_result) { .outcome = SOFT_RESTART };
		}
	}
	soft_entry_set(walk, soft_entry(SOFT_MAPPED, walk->level, hpa, 0));
	atomic64_inc(&td->accepted[walk->level]);
	return done(0);
}

struct soft_result soft_accept(struct soft_td *td, u64 rcx)
{
	u64 gpa = rcx & ~0xfffULL;
	struct soft_walk walk;
	int level = rcx & 7;

	if (level > SOFT_LEVEL_2M || rcx & GENMASK_ULL(11, 3) || gpa >= SOFT_SHARED_BIT ||
	    !IS_ALIGNED(gpa, soft_level_bytes(level)))
		return done(SOFT_OPERAND_INVALID | SOFT_RCX);
	atomic64_inc(&td->calls[level ? SOFT_ACCEPT_2M : SOFT_ACCEPT_4K]);

	walk = soft_walk(td, gpa, level);
	switch (soft_state(walk.value)) {
	case SOFT_MAPPED:
		if (walk.level > level)
			return done(SOFT_ALREADY_ACCEPTED | walk.level);
		break;
	case SOFT_PENDING:
		if (walk.level > level)
			return accept_violation(td, gpa, level, &walk);
		break;
	case SOFT_TABLE:
		break;
	default:
		return accept_violation(td, gpa, level, &walk);
	}
	if (walk.value & SE_HOST_PRIORITY)
		return done(SOFT_HOST_PRIORITY | SOFT_RCX);
	if (!soft_entry_lock(&walk))
		return done(SOFT_OPERAND_BUSY | SOFT_RCX);

	if (soft_state(walk.value) == SOFT_PENDING)
		return accept_pending(td, &walk);
	soft_entry_set(&walk, walk.value);
	if (soft_state(walk.value) == SOFT_TABLE) {
		atomic64_inc(&td->size_mismatch);
		return done(SOFT_SIZE_MISMATCH | walk.level);
	}
	return done(SOFT_ALREADY_ACCEPTED | walk.level);
}

/* MEM.PAGE.ATTR.RD: bits 11:0 of RCX do not matter; attributes of L1 are told as 0. */
struct soft_result soft_attr_rd(struct soft_td *td, u64 rcx)
{
	u64 gpa = rcx & ~0xfffULL;
	struct soft_result result;
	struct soft_walk walk;

	atomic64_inc(&td->calls[SOFT_ATTR_RD]);
	if (gpa >= SOFT_SHARED_BIT)
		return done(SOFT_OPERAND_INVALID | SOFT_RCX);
	walk = soft_walk(td, gpa, SOFT_LEVEL_4K);
	if (soft_state(walk.value) != SOFT_MAPPED && soft_state(walk.value) != SOFT_PENDING)
		return ept_violation(td, gpa, 0, 0);
	if (walk.value & SE_HOST_PRIORITY)
		return done(SOFT_HOST_PRIORITY | SOFT_RCX);
	if (walk.value & SE_LOCKED)
		return done(SOFT_OPERAND_BUSY | SOFT_RCX);

	result = done(0);
	result.rcx = (gpa & ~(soft_level_bytes(walk.level) - 1)) | walk.level;
	if (soft_state(walk.value) == SOFT_PENDING)
		result.rcx |= BIT_ULL(62);
	return result;
}

void soft_set_ve(struct soft_vp *vp, u64 reason, u64 qual, u64 gpa, u64 gla, u64 length)
{
	vp->ve_valid = true;
	vp->ve_reason = reason;
	vp->ve_qual = qual;
	vp->ve_gpa = gpa;
	vp->ve_gla = gla;
	vp->ve_length = length;
	atomic64_inc(&vp->td->ve);
}

/* An access to private memory that the page tables did not allow. */
struct soft_result soft_access(struct soft_td *td, struct soft_vp *vp, u64 gpa, bool write)
{
	struct soft_walk walk = soft_walk(td, gpa, SOFT_LEVEL_4K);
	u64 qual = write ? BIT(1) : BIT(0);

	switch (soft_state(walk.value)) {
	case SOFT_MAPPED:
		return (struct soft_result) { .outcome = SOFT_ACCESS_OK };
	case SOFT_PENDING:
		break;
	default:
		return ept_violation(td, gpa, qual, 0);
	}
	if (td->attributes & TDX_TD_ATTR_SEPT_VE_DISABLE)
		return ept_violation(td, gpa, qual, SOFT_EEQ_PENDING);
	/* A second #VE before the information of the first was read. */
	if (vp->ve_valid)
		return (struct soft_result) { .outcome = SOFT_INJECT, .vector = X86_TRAP_DF };
	soft_set_ve(vp, 48 /* EPT violation */, qual | BIT(7) | BIT(8), gpa, 0, 0);
	return (struct soft_result) { .outcome = SOFT_INJECT, .vector = X86_TRAP_VE };
}

/* Enters in the current epoch; @flush: translations of an earlier one must go. */
u64 soft_vp_enter(struct soft_vp *vp, bool *flush)
{
	struct soft_td *td = vp->td;

	atomic64_inc(&td->calls[SOFT_VP_ENTER]);
	if (td->fatal)
		return SOFT_TD_FATAL;
	if (!soft_trylock(&td->epoch_lock, false))
		return SOFT_OPERAND_BUSY | SOFT_EPOCH;
	*flush = vp->epoch != td->epoch;
	vp->epoch = td->epoch;
	/* The epoch is there before TRACK counts the vCPU as inside. */
	smp_store_release(&vp->inside, true);
	soft_unlock(&td->epoch_lock, false);
	return 0;
}

void soft_vp_exit(struct soft_vp *vp)
{
	/* What the guest has done is done before TRACK stops counting it. */
	smp_store_release(&vp->inside, false);
}
