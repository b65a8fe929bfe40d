// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM's own TDX code: functions of vmx/tdx.c, taken out of the user's kernel
 * source by name when this is built, and the little that they need around them.
 */
/* Messages as people know them. */
#define pr_fmt(fmt) "kvm_intel: " fmt

#include <linux/cleanup.h>
#include <linux/cpu.h>
#include <linux/misc_cgroup.h>

#include "softtdx/kvm_tdx.h"
#include "vmx/x86_ops.h"

#include <trace/events/kvm.h>
#include "trace.h"

/* The misc controller's TDX resource is not in a kernel without TDX. */
#undef misc_cg_try_charge
#define misc_cg_try_charge(type, cg, amount)	((void)(cg), (void)(amount), 0)
#undef misc_cg_uncharge
#define misc_cg_uncharge(type, cg, amount)	((void)(cg), (void)(amount))

static const struct tdx_sys_info *tdx_sysinfo;
static DEFINE_MUTEX(tdx_lock);
static DEFINE_PER_CPU(struct list_head, associated_tdvcpus);

/* Of VMX, what KVM's TDX code asks for. */
#define to_vt(vcpu)			(&softtdx_vcpu(vcpu)->vt)
#define vmx_get_exit_reason(vcpu)	(to_vt(vcpu)->exit_reason)
#define vmx_get_exit_qual(vcpu)		(to_vt(vcpu)->exit_qualification)
#define vmx_vcpu_pi_load(vcpu, cpu)	((void)(vcpu), (void)(cpu))
#define cpu_has_vmx_ept_5levels()	false

int vt_handle_bus_lock_vmexit(struct kvm_vcpu *vcpu)
{
	return 1;
}

/* No exception and no NMI leaves a TD here. */
static int tdx_handle_exception_nmi(struct kvm_vcpu *vcpu)
{
	return 1;
}

static int softtdx_honor_accept_level(struct kvm_vcpu *vcpu, gfn_t gfn);
static int softtdx_split_leaf(struct kvm *kvm, gfn_t gfn, enum pg_level level, u64 new_spte);
static int softtdx_max_level(struct kvm *kvm);

#include "softtdx/taken.inc"

/* The guest accepts at a level, which the exit tells: type ACCEPT, level asked for. */
static int softtdx_honor_accept_level(struct kvm_vcpu *vcpu, gfn_t gfn)
{
	u64 eeq = to_tdx(vcpu)->ext_exit_qualification;

	if ((eeq & TDX_EXT_EXIT_QUAL_TYPE_MASK) != SOFT_EEQ_ACCEPT)
		return 0;
	return softtdx_accept_level(vcpu, gfn, ((eeq >> 32) & 7) + PG_LEVEL_4K);
}

static int softtdx_max_level(struct kvm *kvm)
{
	/* The initial image is added in 4K. */
	if (softtdx_huge(kvm) && to_kvm_tdx(kvm)->state == TD_STATE_RUNNABLE)
		return PG_LEVEL_2M;
	return PG_LEVEL_4K;
}

/* A leaf of the S-EPT becomes a table, as the mirror's has; mmu_lock is held for write. */
static int __maybe_unused softtdx_split_leaf(struct kvm *kvm, gfn_t gfn,
					     enum pg_level level, u64 new_spte)
{
	struct kvm_tdx *kvm_tdx = to_kvm_tdx(kvm);
	gpa_t gpa = gfn_to_gpa(gfn);
	u64 err, entry, level_state;
	struct page *sept_pt;

	lockdep_assert_held_write(&kvm->mmu_lock);

	if (softtdx_bug(DEMOTE_LOST))
		return 0;
	if (KVM_BUG_ON(is_last_spte(new_spte, level), kvm))
		return -EIO;

	sept_pt = tdx_spte_to_sept_pt(kvm, gfn, new_spte, level);
	if (!sept_pt)
		return -EIO;

	err = tdh_do_no_vcpus(tdh_mem_range_block, kvm, &kvm_tdx->td, gpa,
			      level, &entry, &level_state);
	if (TDX_BUG_ON_2(err, TDH_MEM_RANGE_BLOCK, entry, level_state, kvm))
		return -EIO;

	if (!softtdx_bug(DEMOTE_WITHOUT_TRACK))
		tdx_track(kvm);
	if (softtdx_bug(LEAF_LEFT_BLOCKED))
		return 0;

	err = tdh_do_no_vcpus(tdh_mem_page_demote, kvm, &kvm_tdx->td, gpa,
			      level, sept_pt, &entry, &level_state);
	if (TDX_BUG_ON_2(err, TDH_MEM_PAGE_DEMOTE, entry, level_state, kvm))
		return -EIO;
	return 0;
}

int softtdx_set_external_spte(struct kvm *kvm, gfn_t gfn, u64 old_spte, u64 new_spte,
			      enum pg_level level)
{
	if (softtdx_bug(SEPT_NOT_REMOVED) && !is_shadow_present_pte(new_spte))
		return 0;
	return tdx_sept_set_private_spte(kvm, gfn, old_spte, new_spte, level);
}

void softtdx_free_external_spt(struct kvm *kvm, struct kvm_mmu_page *sp)
{
	tdx_sept_free_private_spt(kvm, sp);
}

int softtdx_gmem_level(struct kvm *kvm, kvm_pfn_t pfn, bool is_private)
{
	return tdx_gmem_max_mapping_level(kvm, pfn, is_private);
}

/* TD exit with what lies in vp_enter_args: KVM's handler does the rest. */
int softtdx_td_exit(struct kvm_vcpu *vcpu, u32 reason)
{
	typeof(tdx_to_vmx_exit_reason(vcpu)) vmx_reason;
	struct vcpu_tdx *tdx = to_tdx(vcpu);

	tdx->vp_enter_ret = reason;
	/* A u32 up to Linux 7.2, a union since. */
	vmx_reason = tdx_to_vmx_exit_reason(vcpu);
	BUILD_BUG_ON(sizeof(vmx_reason) != sizeof(to_vt(vcpu)->exit_reason));
	memcpy(&to_vt(vcpu)->exit_reason, &vmx_reason, sizeof(vmx_reason));
	return tdx_handle_exit(vcpu, EXIT_FASTPATH_NONE);
}

int softtdx_ept_exit(struct kvm_vcpu *vcpu, const struct soft_result *result)
{
	struct vcpu_tdx *tdx = to_tdx(vcpu);

	to_vt(vcpu)->exit_qualification = result->exit_qual;
	tdx->ext_exit_qualification = result->eeq;
	tdx->exit_gpa = result->exit_gpa;
	return softtdx_td_exit(vcpu, EXIT_REASON_EPT_VIOLATION);
}

bool softtdx_halt_wakes(struct kvm_vcpu *vcpu)
{
	return tdx_interrupt_allowed(vcpu);
}

int softtdx_complete_msr(struct kvm_vcpu *vcpu, int err)
{
	return tdx_complete_emulated_msr(vcpu, err);
}

int softtdx_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	return tdx_get_msr(vcpu, msr);
}

int softtdx_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	return tdx_set_msr(vcpu, msr);
}

/* Life of a TD and its vCPUs: KVM's, but for what is VMX's own. */

int softtdx_vm_init(struct kvm *kvm)
{
	kvm->arch.has_private_mem = true;
	/* KVM allows as many vCPUs as the host has CPUs; an emulated host has few. */
	to_kvm_tdx(kvm)->state = TD_STATE_UNINITIALIZED;
	softtdx_lies_restart();
	if (softtdx_huge(kvm))
		softtdx_pool_fill();
	return 0;
}

void softtdx_vm_pre_destroy(struct kvm *kvm)
{
	tdx_mmu_release_hkid(kvm);
}

void softtdx_vm_destroy(struct kvm *kvm)
{
	tdx_vm_destroy(kvm);
}

int softtdx_vcpu_create(struct kvm_vcpu *vcpu)
{
	if (to_kvm_tdx(vcpu->kvm)->state != TD_STATE_INITIALIZED)
		return -EIO;
	if (!irqchip_split(vcpu->kvm))
		return -EINVAL;
	INIT_LIST_HEAD(&to_tdx(vcpu)->cpu_list);
	to_tdx(vcpu)->state = VCPU_TD_STATE_UNINITIALIZED;
	return 0;
}

void softtdx_vcpu_free(struct kvm_vcpu *vcpu)
{
	tdx_vcpu_free(vcpu);
}

void softtdx_vcpu_load(struct kvm_vcpu *vcpu, int cpu)
{
	tdx_vcpu_load(vcpu, cpu);
}

/* The lie "populate": pages that nobody has asked for, before the TD runs. */
#define UNPOPULATED	gpa_to_gfn(SZ_1G + 14 * SZ_1M)

static void populate(struct kvm *kvm)
{
	unsigned long i, pages = softtdx_populates();
	struct kvm_memory_slot *slot;
	struct page *page;
	kvm_pfn_t pfn;

	for (i = 0; i < pages; i++) {
		slot = gfn_to_memslot(kvm, UNPOPULATED + i);
		if (!slot || kvm_gmem_get_pfn(kvm, slot, UNPOPULATED + i, &pfn, &page, NULL))
			return;
		put_page(page);
	}
}

static int refused(struct kvm *kvm, void __user *argp, u32 *id)
{
	struct kvm_tdx_cmd cmd;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;
	*id = cmd.id;
	/* What can be refused is numbered as KVM numbers its commands. */
	BUILD_BUG_ON((int)SOFTTDX_GET_CPUID != (int)KVM_TDX_GET_CPUID);
	return cmd.id <= KVM_TDX_GET_CPUID ? softtdx_refused(kvm, cmd.id) : 0;
}

int softtdx_vm_ioctl(struct kvm *kvm, void __user *argp)
{
	u32 id;
	int r = refused(kvm, argp, &id);

	if (r)
		return r;
	if (id == KVM_TDX_FINALIZE_VM) {
		int idx = srcu_read_lock(&kvm->srcu);

		populate(kvm);
		srcu_read_unlock(&kvm->srcu, idx);
	}
	r = tdx_vm_ioctl(kvm, argp);
	if (!r && id == KVM_TDX_INIT_VM)
		softtdx_debugfs_td(kvm);
	return r;
}

int softtdx_vcpu_ioctl(struct kvm_vcpu *vcpu, void __user *argp)
{
	u32 id;
	int r = refused(vcpu->kvm, argp, &id);

	return r ?: tdx_vcpu_ioctl(vcpu, argp);
}

int softtdx_vcpu_unlocked_ioctl(struct kvm_vcpu *vcpu, void __user *argp)
{
	u32 id;
	int r = refused(vcpu->kvm, argp, &id);

	if (r)
		return r;
	r = tdx_vcpu_unlocked_ioctl(vcpu, argp);
	if (!r && id == KVM_TDX_INIT_VCPU) {
		/* The state that the TDVPR holds goes to where the CPU takes it from. */
		mutex_lock(&vcpu->mutex);
		vcpu_load(vcpu);
		softtdx_vcpu_reset(vcpu);
		vcpu_put(vcpu);
		mutex_unlock(&vcpu->mutex);
	}
	return r;
}

void softtdx_tdx_init(void)
{
	int cpu;

	tdx_sysinfo = soft_sysinfo();
	for_each_possible_cpu(cpu)
		INIT_LIST_HEAD(&per_cpu(associated_tdvcpus, cpu));
}
