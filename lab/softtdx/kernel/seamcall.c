// SPDX-License-Identifier: GPL-2.0-only
/*
 * SEAMCALLs on the memory of a TD, under the names that KVM calls them by, so
 * that a kprobe sees what it would see on a TDX host.
 *
 * Order of checks: TDR lock, fatal, key, op state, RCX, GPA, tree lock, walk,
 * entry lock, state, blocked, tracked, then the page that is given.
 */
#define pr_fmt(fmt) "softtdx: " fmt

#include "softtdx/module.h"

const char * const soft_call_names[SOFT_CALL_NR] = {
	[SOFT_SEPT_ADD] = "sept_add",
	[SOFT_PAGE_ADD] = "page_add",
	[SOFT_PAGE_AUG] = "page_aug",
	[SOFT_RANGE_BLOCK] = "range_block",
	[SOFT_TRACK] = "track",
	[SOFT_PAGE_REMOVE] = "page_remove",
	[SOFT_PAGE_DEMOTE] = "page_demote",
	[SOFT_VP_ENTER] = "vp_enter",
	[SOFT_ACCEPT_4K] = "accept_4k",
	[SOFT_ACCEPT_2M] = "accept_2m",
	[SOFT_ATTR_RD] = "attr_rd",
	[SOFT_VMCALL] = "vmcall",
	[SOFT_TDCALL_OTHER] = "tdcall_other",
};

bool soft_trylock(struct soft_lock *lock, bool exclusive)
{
	int users = atomic_read(&lock->users);

	if (exclusive)
		return !users && atomic_try_cmpxchg(&lock->users, &users, -1);
	do {
		if (users < 0)
			return false;
	} while (!atomic_try_cmpxchg(&lock->users, &users, users + 1));
	return true;
}

void soft_unlock(struct soft_lock *lock, bool exclusive)
{
	if (exclusive)
		atomic_set_release(&lock->users, 0);
	else
		atomic_dec_return_release(&lock->users);
}

/* Op states of the module; numbers above RUNNABLE are those of a migration. */
#define ONLY_INITIALIZED	BIT(1)
#define WHILE_BUILT		(BIT(1) | BIT(2) | BIT(3) | BIT(6) | BIT(7) | BIT(9))
#define WHILE_RUN		(BIT(1) | BIT(2) | BIT(3) | BIT(9))
#define WHILE_CHANGED		(WHILE_RUN | BIT(8))
#define WHILE_DEMOTED		(WHILE_CHANGED | BIT(4) | BIT(5))

/* What a SEAMCALL takes. */
struct soft_form {
	enum soft_call call;
	u32 op_states;
	int lowest, highest;
	bool tree_exclusive;
};

static u64 refused(struct soft_td *td, enum soft_call call, u64 status)
{
	if (status)
		atomic64_inc(&td->refused[call]);
	return status;
}

/* TDR, key, op state.  On success, TDR and op state are locked. */
static u64 td_begin(struct soft_td *td, u32 op_states, u64 tdr_operand)
{
	u64 status = 0;

	if (!soft_trylock(&td->tdr, false))
		return SOFT_OPERAND_BUSY | tdr_operand;
	if (td->fatal) {
		status = SOFT_TD_FATAL;
	} else if (td->lifecycle != SOFT_KEYS_CONFIGURED) {
		status = SOFT_KEYS_NOT_CONFIGURED;
	} else if (!soft_trylock(&td->op, false)) {
		status = SOFT_OPERAND_BUSY | SOFT_OPERAND_OP_STATE;
	} else if (!(op_states & BIT(td->op_state))) {
		soft_unlock(&td->op, false);
		status = SOFT_OP_STATE | td->op_state;
	}
	if (status)
		soft_unlock(&td->tdr, false);
	return status;
}

static void td_end(struct soft_td *td)
{
	soft_unlock(&td->op, false);
	soft_unlock(&td->tdr, false);
}

static bool form_is_valid(u64 rcx, int lowest, int highest)
{
	int level = rcx & 7;
	u64 gpa = rcx & ~0xfffULL;

	if (rcx & GENMASK_ULL(11, 3) || level < lowest || level > highest)
		return false;
	return gpa < SOFT_SHARED_BIT && IS_ALIGNED(gpa, soft_level_bytes(level));
}

/* Shows the host where the walk ended. */
static u64 at_entry(struct tdx_module_args *a, const struct soft_walk *walk, u64 status)
{
	a->rcx = soft_entry_rcx(walk->value, walk->level);
	a->rdx = soft_entry_rdx(walk->value, walk->level);
	return status | SOFT_RCX;
}

/*
 * Up to the entry's lock.  On success, it is held, and so are the locks of the
 * tree, the op state and the TDR; mem_end() gives them back.
 */
static u64 mem_begin(struct soft_td *td, const struct soft_form *form,
		     struct tdx_module_args *a, struct soft_walk *walk)
{
	u64 rcx = a->rcx, status;

	a->rcx = 0;
	a->rdx = 0;
	atomic64_inc(&td->calls[form->call]);
	status = td_begin(td, form->op_states, SOFT_TDR);
	if (status)
		return refused(td, form->call, status);

	if (!form_is_valid(rcx, form->lowest, form->highest)) {
		status = SOFT_OPERAND_INVALID | SOFT_RCX;
		goto out;
	}
	if (!soft_trylock(&td->tree, form->tree_exclusive)) {
		status = SOFT_OPERAND_BUSY | SOFT_TREE;
		goto out;
	}
	*walk = soft_walk(td, rcx & ~0xfffULL, rcx & 7);
	if (walk->level != (rcx & 7))
		status = at_entry(a, walk, SOFT_WALK_FAILED);
	else if (!soft_entry_lock(walk))
		status = at_entry(a, walk, SOFT_OPERAND_BUSY);
	if (!status)
		return 0;
	soft_unlock(&td->tree, form->tree_exclusive);
out:
	td_end(td);
	return refused(td, form->call, status);
}

/* Gives everything back, the entry with @value where the call has succeeded. */
static u64 mem_end(struct soft_td *td, const struct soft_form *form,
		   struct soft_walk *walk, u64 value, u64 status)
{
	soft_entry_set(walk, status ? walk->value : value);
	soft_unlock(&td->tree, form->tree_exclusive);
	td_end(td);
	return refused(td, form->call, status);
}

/* For vectors: whether an interrupt is pending at this check. */
bool soft_interrupted(struct soft_td *td)
{
	if (td->interrupt_in < 0)
		return false;
	return !td->interrupt_in || !td->interrupt_in--;
}

u64 soft_sept_add(struct soft_td *td, struct tdx_module_args *a, u64 *page)
{
	static const struct soft_form form = {
		SOFT_SEPT_ADD, WHILE_BUILT, SOFT_LEVEL_2M, SOFT_LEVEL_ROOT,
	};
	struct soft_walk walk;
	u64 status;

	status = mem_begin(td, &form, a, &walk);
	if (status)
		return status;
	if (soft_state(walk.value) != SOFT_FREE)
		status = at_entry(a, &walk, SOFT_STATE_INCORRECT);
	else
		clear_page(page);
	return mem_end(td, &form, &walk, soft_entry(SOFT_TABLE, walk.level, __pa(page), 0), status);
}

/* PAGE.ADD: the initial image.  R8: the frame, R9: where its content comes from. */
u64 soft_page_add(struct soft_td *td, struct tdx_module_args *a)
{
	static const struct soft_form form = {
		SOFT_PAGE_ADD, ONLY_INITIALIZED, SOFT_LEVEL_4K, SOFT_LEVEL_4K,
	};
	struct soft_walk walk;
	u64 status;

	status = mem_begin(td, &form, a, &walk);
	if (status)
		return status;
	if (soft_state(walk.value) != SOFT_FREE)
		status = at_entry(a, &walk, SOFT_STATE_INCORRECT);
	else if (!td->frames_untouched)
		copy_page(__va(a->r8), __va(a->r9));
	return mem_end(td, &form, &walk, soft_entry(SOFT_MAPPED, walk.level, a->r8, 0), status);
}

/* PAGE.AUG.  R8: the frame. */
u64 soft_page_aug(struct soft_td *td, struct tdx_module_args *a)
{
	static const struct soft_form form = {
		SOFT_PAGE_AUG, WHILE_RUN, SOFT_LEVEL_4K, SOFT_LEVEL_2M,
	};
	struct soft_walk walk;
	u64 status;

	status = mem_begin(td, &form, a, &walk);
	if (status)
		return status;
	if (soft_state(walk.value) != SOFT_FREE)
		status = at_entry(a, &walk, SOFT_STATE_INCORRECT);
	else if (!IS_ALIGNED(a->r8, soft_level_bytes(walk.level)) || a->r8 & ~SE_ADDRESS)
		status = SOFT_OPERAND_INVALID | SOFT_R8;
	return mem_end(td, &form, &walk, soft_entry(SOFT_PENDING, walk.level, a->r8, 0), status);
}

u64 soft_range_block(struct soft_td *td, struct tdx_module_args *a)
{
	static const struct soft_form form = {
		SOFT_RANGE_BLOCK, WHILE_CHANGED, SOFT_LEVEL_4K, SOFT_LEVEL_ROOT, true,
	};
	enum soft_state to = SOFT_FREE;
	struct soft_walk walk;
	u64 status;

	status = mem_begin(td, &form, a, &walk);
	if (status)
		return status;
	switch (soft_state(walk.value)) {
	case SOFT_MAPPED:
		to = SOFT_BLOCKED;
		break;
	case SOFT_PENDING:
		to = SOFT_PENDING_BLOCKED;
		break;
	case SOFT_TABLE:
		to = SOFT_TABLE_BLOCKED;
		break;
	case SOFT_BLOCKED:
	case SOFT_PENDING_BLOCKED:
	case SOFT_TABLE_BLOCKED:
		status = at_entry(a, &walk, SOFT_ALREADY_BLOCKED);
		break;
	default:
		status = at_entry(a, &walk, SOFT_STATE_INCORRECT);
	}
	return mem_end(td, &form, &walk,
		       soft_entry(to, walk.level, walk.value, td->epoch), status);
}

/* Whether a vCPU is still inside since before the epoch @before. */
static bool inside_since(struct soft_td *td, u64 before)
{
	struct soft_vp *vp;
	bool found = false;

	spin_lock(&td->vcpus_lock);
	list_for_each_entry(vp, &td->vcpus, node) {
		/* Pairs with the release of soft_vp_enter() and soft_vp_exit(). */
		if (smp_load_acquire(&vp->inside) && vp->epoch < before)
			found = true;
	}
	spin_unlock(&td->vcpus_lock);
	return found;
}

u64 soft_track(struct soft_td *td)
{
	u64 status;

	atomic64_inc(&td->calls[SOFT_TRACK]);
	status = td_begin(td, WHILE_CHANGED, SOFT_TRACK_TDR);
	if (status)
		return refused(td, SOFT_TRACK, status);
	if (!soft_trylock(&td->epoch_lock, true)) {
		status = SOFT_OPERAND_BUSY | SOFT_EPOCH;
	} else {
		if (inside_since(td, td->epoch))
			status = SOFT_PREVIOUS_EPOCH_BUSY;
		else
			WRITE_ONCE(td->epoch, td->epoch + 1);
		soft_unlock(&td->epoch_lock, true);
	}
	td_end(td);
	return refused(td, SOFT_TRACK, status);
}

/*
 * Whether no vCPU can hold a translation of an entry blocked in an earlier
 * epoch.  Epochs are kept modulo 2^15: of a leaf that stays blocked, one of
 * 2^15 later epochs looks like its own.
 */
static bool is_tracked(struct soft_td *td, u64 e)
{
	u64 age = (td->epoch - soft_number(e)) & GENMASK_ULL(SE_NUMBER_BITS - 1, 0);

	if (!age)
		return false;
	return age > 1 || !inside_since(td, td->epoch);
}

/* Blocked and tracked, which a TD that has not run yet need not be. */
static u64 check_blocked(struct soft_td *td, struct tdx_module_args *a, struct soft_walk *walk)
{
	u64 status;

	switch (soft_state(walk->value)) {
	case SOFT_MAPPED:
	case SOFT_PENDING:
		if (td->op_state == SOFT_INITIALIZED)
			return 0;
		status = at_entry(a, walk, SOFT_NOT_BLOCKED);
		/* Without what is accepted of a pending 2M. */
		a->rcx &= ~(soft_level_bytes(walk->level) - 1) | ~SE_ADDRESS;
		return status;
	case SOFT_BLOCKED:
	case SOFT_PENDING_BLOCKED:
		if (td->op_state == SOFT_INITIALIZED || is_tracked(td, walk->value))
			return 0;
		return SOFT_NOT_TRACKED | SOFT_RCX;
	default:
		return at_entry(a, walk, SOFT_STATE_INCORRECT);
	}
}

u64 soft_page_remove(struct soft_td *td, struct tdx_module_args *a)
{
	static const struct soft_form form = {
		SOFT_PAGE_REMOVE, WHILE_CHANGED, SOFT_LEVEL_4K, SOFT_LEVEL_2M + 1,
	};
	struct soft_walk walk;
	u64 status;

	status = mem_begin(td, &form, a, &walk);
	if (status)
		return status;
	status = check_blocked(td, a, &walk);
	if (!status)
		a->rcx = walk.value & SE_ADDRESS;
	return mem_end(td, &form, &walk, 0, status);
}

u64 soft_page_demote(struct soft_td *td, struct tdx_module_args *a, u64 *page)
{
	static const struct soft_form form = {
		SOFT_PAGE_DEMOTE, WHILE_DEMOTED, SOFT_LEVEL_2M, SOFT_LEVEL_2M + 1,
	};
	u64 rcx = a->rcx, rdx = a->rdx, status;
	enum soft_state parts;
	struct soft_walk walk;
	int i;

	status = mem_begin(td, &form, a, &walk);
	if (status)
		return status;
	status = check_blocked(td, a, &walk);
	if (!status && soft_interrupted(td)) {
		a->rcx = rcx;
		a->rdx = rdx;
		status = SOFT_INTERRUPTED;
	}
	if (!status) {
		parts = soft_state(walk.value) == SOFT_BLOCKED ||
			soft_state(walk.value) == SOFT_MAPPED ? SOFT_MAPPED : SOFT_PENDING;
		for (i = 0; i < 512; i++)
			page[i] = soft_entry(parts, walk.level - 1, (walk.value & SE_ADDRESS) +
					     i * soft_level_bytes(walk.level - 1), 0);
	}
	return mem_end(td, &form, &walk, soft_entry(SOFT_TABLE, walk.level, __pa(page), 0), status);
}

/* What KVM calls.  Refusals are told in the log, as KVM tells them, with the place. */

static u64 told(const char *name, u64 gpa, enum pg_level level, u64 status,
		const struct tdx_module_args *a, u64 *ext1, u64 *ext2)
{
	*ext1 = a->rcx;
	*ext2 = a->rdx;
	if (status && (status & TDX_SEAMCALL_STATUS_MASK) != SOFT_OPERAND_BUSY)
		pr_warn_ratelimited("%s of 0x%llx, level %d: 0x%llx, entry 0x%llx, state 0x%llx\n",
				    name, gpa, level - 1, status, a->rcx, a->rdx);
	return status;
}

#define MAPPING(gpa, level)	((gpa) | ((level) - PG_LEVEL_4K))

u64 tdh_mem_sept_add(struct tdx_td *td, u64 gpa, enum pg_level level, struct page *page,
		     u64 *ext_err1, u64 *ext_err2)
{
	struct tdx_module_args a = { .rcx = MAPPING(gpa, level) };
	u64 r = soft_sept_add(soft_td_of(td), &a, page_address(page));

	return told("TDH.MEM.SEPT.ADD", gpa, level, r, &a, ext_err1, ext_err2);
}

u64 tdh_mem_page_add(struct tdx_td *td, u64 gpa, kvm_pfn_t pfn, struct page *source,
		     u64 *ext_err1, u64 *ext_err2)
{
	struct tdx_module_args a = {
		.rcx = gpa, .r8 = PFN_PHYS(pfn), .r9 = page_to_phys(source),
	};
	u64 r = soft_page_add(soft_td_of(td), &a);

	return told("TDH.MEM.PAGE.ADD", gpa, PG_LEVEL_4K, r, &a, ext_err1, ext_err2);
}

u64 tdh_mem_page_aug(struct tdx_td *td, u64 gpa, enum pg_level level, kvm_pfn_t pfn,
		     u64 *ext_err1, u64 *ext_err2)
{
	struct tdx_module_args a = { .rcx = MAPPING(gpa, level), .r8 = PFN_PHYS(pfn) };
	u64 r = soft_page_aug(soft_td_of(td), &a);

	return told("TDH.MEM.PAGE.AUG", gpa, level, r, &a, ext_err1, ext_err2);
}

u64 tdh_mem_range_block(struct tdx_td *td, u64 gpa, enum pg_level level,
			u64 *ext_err1, u64 *ext_err2)
{
	struct tdx_module_args a = { .rcx = MAPPING(gpa, level) };
	u64 r = soft_range_block(soft_td_of(td), &a);

	return told("TDH.MEM.RANGE.BLOCK", gpa, level, r, &a, ext_err1, ext_err2);
}

u64 tdh_mem_track(struct tdx_td *td)
{
	return soft_track(soft_td_of(td));
}

u64 tdh_mem_page_remove(struct tdx_td *td, u64 gpa, enum pg_level level,
			u64 *ext_err1, u64 *ext_err2)
{
	struct tdx_module_args a = { .rcx = MAPPING(gpa, level) };
	u64 r = soft_page_remove(soft_td_of(td), &a);

	return told("TDH.MEM.PAGE.REMOVE", gpa, level, r, &a, ext_err1, ext_err2);
}

u64 tdh_mem_page_demote(struct tdx_td *td, u64 gpa, enum pg_level level, struct page *page,
			u64 *ext_err1, u64 *ext_err2)
{
	struct tdx_module_args a = { .rcx = MAPPING(gpa, level) };
	u64 r = soft_page_demote(soft_td_of(td), &a, page_address(page));

	return told("TDH.MEM.PAGE.DEMOTE", gpa, level, r, &a, ext_err1, ext_err2);
}
