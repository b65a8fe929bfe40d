/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The TDX module that is played: what its parts know of each other.
 *
 * As with the real one, all it knows of a TD lies in pages that the host gave:
 * the TDR page holds struct soft_td, the first TDCS page the root of the S-EPT,
 * and a vCPU's TDVPR page struct soft_vp.  It calls nothing of KVM but to read
 * and write guest registers.
 *
 * Rules are those of Intel's public TDX module 1.5.25, by execution.
 */
#ifndef __KVM_SOFTTDX_MODULE_H
#define __KVM_SOFTTDX_MODULE_H

/* Distribution kernels may have it off; of its declarations only types are used. */
#ifndef CONFIG_INTEL_TDX_HOST
#define CONFIG_INTEL_TDX_HOST 1
#endif
#ifndef CONFIG_KVM_INTEL_TDX
#define CONFIG_KVM_INTEL_TDX 1
#endif

#include <linux/atomic.h>
#include <linux/bitfield.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <asm/tdx.h>

/* Sizes in the module's numbering: 0 is 4K, 1 is 2M; the root's entries are 3. */
#define SOFT_LEVEL_4K		0
#define SOFT_LEVEL_2M		1
#define SOFT_LEVEL_ROOT		3

#define SOFT_GPAW		48
#define SOFT_SHARED_BIT		BIT_ULL(SOFT_GPAW - 1)

/*
 * An entry of the S-EPT.  Mapped leaves and tables are entries of a nested page
 * table, which the CPU walks; all others are not present for it.
 */
#define SE_PRESENT		BIT_ULL(0)
#define SE_WRITE		BIT_ULL(1)
#define SE_USER			BIT_ULL(2)
#define SE_ACCESSED		BIT_ULL(5)
#define SE_DIRTY		BIT_ULL(6)
#define SE_LARGE		BIT_ULL(7)
#define SE_ADDRESS		GENMASK_ULL(51, 12)
#define SE_STATE		GENMASK_ULL(54, 52)
#define SE_LOCKED		BIT_ULL(55)
#define SE_HOST_PRIORITY	BIT_ULL(56)
/* Not present: the epoch of the BLOCK, or of a pending 2M the 4K that are accepted. */
#define SE_NUMBER_LOW		GENMASK_ULL(11, 1)
#define SE_NUMBER_HIGH		GENMASK_ULL(60, 57)
#define SE_NUMBER_BITS		15

enum soft_state {
	SOFT_FREE,
	SOFT_BLOCKED,
	SOFT_PENDING,
	SOFT_PENDING_BLOCKED,
	SOFT_MAPPED,
	SOFT_TABLE,
	SOFT_TABLE_BLOCKED,
	SOFT_STATE_NR,
};

/* What a SEAMCALL or TDCALL is counted as. */
enum soft_call {
	SOFT_SEPT_ADD,
	SOFT_PAGE_ADD,
	SOFT_PAGE_AUG,
	SOFT_RANGE_BLOCK,
	SOFT_TRACK,
	SOFT_PAGE_REMOVE,
	SOFT_PAGE_DEMOTE,
	SOFT_VP_ENTER,
	SOFT_ACCEPT_4K,
	SOFT_ACCEPT_2M,
	SOFT_ATTR_RD,
	SOFT_VMCALL,
	SOFT_TDCALL_OTHER,
	SOFT_CALL_NR,
};

extern const char * const soft_call_names[SOFT_CALL_NR];

/* Life of a TD's key, and of the TD (numbers of the module's). */
enum { SOFT_KEY_ASSIGNED, SOFT_KEYS_CONFIGURED, SOFT_TD_BLOCKED, SOFT_TEARDOWN };
enum { SOFT_UNINITIALIZED, SOFT_INITIALIZED, SOFT_RUNNABLE };

/* A lock that is never waited for: free, taken by some, or taken by one. */
struct soft_lock {
	atomic_t users;
};

bool soft_trylock(struct soft_lock *lock, bool exclusive);
void soft_unlock(struct soft_lock *lock, bool exclusive);

#define SOFT_TD_MAGIC	0x5444522065736c66ULL

/* In the TDR page. */
struct soft_td {
	u64 magic;
	struct list_head node;		/* in the list of all TDs */
	u32 lifecycle;
	u32 op_state;
	bool fatal;
	bool frames_untouched;		/* vectors: the frames are no memory */
	struct soft_lock tdr, op, tree, epoch_lock;
	u64 epoch;
	u64 *root;
	u64 attributes;
	u64 xfam;
	u64 td_ctls;
	int hkid;
	int tdcs_pages;
	spinlock_t vcpus_lock;		/* of the list below */
	struct list_head vcpus;
	u32 vcpu_count;
	s32 interrupt_in;		/* vectors: checks until one is pending, or -1 */
	atomic64_t calls[SOFT_CALL_NR];
	atomic64_t refused[SOFT_CALL_NR];
	atomic64_t exits_accept[2];	/* EPT violations of ACCEPT, by size asked for */
	atomic64_t exits_access;
	atomic64_t accepted[2];		/* pages accepted, by size */
	atomic64_t size_mismatch;	/* ACCEPTs of 2M over a table */
	atomic64_t ve;
	u64 tsc_khz;
};

/* In a vCPU's TDVPR page. */
struct soft_vp {
	u64 magic;
	struct list_head node;
	struct soft_td *td;
	u64 *npt_root;			/* private half: S-EPT, shared half: KVM's */
	u32 index;
	bool inside;
	u64 epoch;
	u64 initial_rcx;
	bool ve_valid;
	u64 ve_reason, ve_qual, ve_gla, ve_gpa, ve_length;
	u64 vmcall_mask;		/* registers of an unfinished VP.VMCALL */
	bool in_vmcall;
};

static inline struct soft_td *soft_td_of(struct tdx_td *td)
{
	return page_address(td->tdr_page);
}

static inline struct soft_vp *soft_vp_of(struct tdx_vp *vp)
{
	return page_address(vp->tdvpr_page);
}

/* sept.c */
struct soft_walk {
	u64 *entry;
	u64 value;
	int level;
};

static inline u64 soft_level_bytes(int level)
{
	return 1ULL << (PAGE_SHIFT + 9 * level);
}

static inline enum soft_state soft_state(u64 e)
{
	return FIELD_GET(SE_STATE, e);
}

static inline u64 soft_number(u64 e)
{
	return FIELD_GET(SE_NUMBER_LOW, e) | FIELD_GET(SE_NUMBER_HIGH, e) << 11;
}

u64 soft_entry(enum soft_state state, int level, u64 hpa, u64 number);
struct soft_walk soft_walk(struct soft_td *td, u64 gpa, int level);
bool soft_entry_lock(struct soft_walk *walk);
void soft_entry_set(struct soft_walk *walk, u64 value);
u8 soft_arch_state(u64 e);
u64 soft_entry_rcx(u64 e, int level);
u64 soft_entry_rdx(u64 e, int level);
void *soft_private_va(struct soft_td *td, u64 gpa);

/* seamcall.c: registers in, registers and status out. */
u64 soft_sept_add(struct soft_td *td, struct tdx_module_args *a, u64 *page);
u64 soft_page_add(struct soft_td *td, struct tdx_module_args *a);
u64 soft_page_aug(struct soft_td *td, struct tdx_module_args *a);
u64 soft_range_block(struct soft_td *td, struct tdx_module_args *a);
u64 soft_track(struct soft_td *td);
u64 soft_page_remove(struct soft_td *td, struct tdx_module_args *a);
u64 soft_page_demote(struct soft_td *td, struct tdx_module_args *a, u64 *page);
bool soft_interrupted(struct soft_td *td);
u64 tdh_mem_page_demote(struct tdx_td *td, u64 gpa, enum pg_level level, struct page *page,
			u64 *ext_err1, u64 *ext_err2);

/* manage.c */
extern struct list_head soft_tds;
extern struct mutex soft_tds_lock;
const struct tdx_sys_info *soft_sysinfo(void);
void soft_td_start(struct soft_td *td, int hkid);
void soft_vp_start(struct soft_vp *vp, struct soft_td *td);
void soft_sysinfo_init(u64 xfam);

/* tdcall.c: what a vCPU's instruction comes to. */
enum soft_outcome {
	SOFT_DONE,		/* status in RAX */
	SOFT_EXIT,		/* TD exit: EPT violation */
	SOFT_RESTART,		/* interrupted, to be executed again */
	SOFT_ACCESS_OK,
	SOFT_INJECT,		/* an exception, by its vector */
};

struct soft_result {
	enum soft_outcome outcome;
	u64 rax, rcx, rdx;
	u64 exit_gpa, exit_qual, eeq;
	int vector;
};

struct soft_result soft_accept(struct soft_td *td, u64 rcx);
struct soft_result soft_attr_rd(struct soft_td *td, u64 rcx);
struct soft_result soft_access(struct soft_td *td, struct soft_vp *vp, u64 gpa, bool write);
u64 soft_vp_enter(struct soft_vp *vp, bool *flush);
void soft_vp_exit(struct soft_vp *vp);
void soft_set_ve(struct soft_vp *vp, u64 reason, u64 qual, u64 gpa, u64 gla, u64 length);

/* Statuses; the low word is a detail. */
#define SOFT_OPERAND_INVALID		0xc000010000000000ULL
#define SOFT_OPERAND_ADDRESS_RANGE	0xc000010100000000ULL
#define SOFT_OPERAND_BUSY		0x8000020000000000ULL
#define SOFT_PREVIOUS_EPOCH_BUSY	0x8000020100000000ULL
#define SOFT_HOST_PRIORITY		0x8000020400000000ULL
#define SOFT_INTERRUPTED		0x8000000400000000ULL
#define SOFT_TD_FATAL			0xe000060400000000ULL
#define SOFT_OP_STATE			0xc000060800000000ULL
#define SOFT_NO_VE_INFO			0xc000070400000000ULL
#define SOFT_KEYS_NOT_CONFIGURED	0x8000081000000000ULL
#define SOFT_WALK_FAILED		0xc0000b0000000000ULL
#define SOFT_NOT_BLOCKED		0xc0000b0600000000ULL
#define SOFT_ALREADY_BLOCKED		0x00000b0700000000ULL
#define SOFT_NOT_TRACKED		0xc0000b0800000000ULL
#define SOFT_ALREADY_ACCEPTED		0x00000b0a00000000ULL
#define SOFT_SIZE_MISMATCH		0xc0000b0b00000000ULL
#define SOFT_STATE_INCORRECT		0xc0000b0d00000000ULL
#define SOFT_FIELD_ID_INCORRECT		0xc0000c0000000000ULL
#define SOFT_FIELD_NOT_WRITABLE		0xc0000c0100000000ULL

#define SOFT_RCX			1
#define SOFT_RDX			2
#define SOFT_R8				8
#define SOFT_TDR			0x02
#define SOFT_TRACK_TDR			0x01
#define SOFT_TREE			0x92
#define SOFT_EPOCH			0xa9
#define SOFT_OPERAND_OP_STATE		0xac

/* Extended exit qualification. */
#define SOFT_EEQ_ACCEPT			1
#define SOFT_EEQ_PENDING		6

/* The TD says of itself that its module is played. */
#define SOFT_ATTRIBUTE_REHEARSAL	BIT_ULL(62)

#endif /* __KVM_SOFTTDX_MODULE_H */
