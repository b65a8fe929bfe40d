// SPDX-License-Identifier: GPL-2.0-only
/*
 * TDs on SVM: KVM's operations, wrapped.  A VM that is no TD goes through what
 * SVM has set up, unchanged.
 */
#define pr_fmt(fmt) "softtdx: " fmt

#include "softtdx/kvm_tdx.h"

const unsigned int softtdx_vcpu_size = sizeof(struct vcpu_tdx);

/* SVM's own operations, as they are without TDs. */
struct kvm_x86_ops softtdx_svm;

/* XFAM bits that TDs on this host may have, as far as KVM supports them. */
#define XFAM	0x000602e7ULL

static int td_vm_init(struct kvm *kvm)
{
	int r = softtdx_svm.vm_init(kvm);

	if (!r && is_td(kvm))
		r = softtdx_vm_init(kvm);
	return r;
}

static void td_vm_pre_destroy(struct kvm *kvm)
{
	if (softtdx_svm.vm_pre_destroy)
		softtdx_svm.vm_pre_destroy(kvm);
	if (is_td(kvm))
		softtdx_vm_pre_destroy(kvm);
}

static void td_vm_destroy(struct kvm *kvm)
{
	if (is_td(kvm))
		softtdx_vm_destroy(kvm);
	softtdx_svm.vm_destroy(kvm);
}

static int td_vcpu_create(struct kvm_vcpu *vcpu)
{
	if (is_td_vcpu(vcpu)) {
		int r = softtdx_vcpu_create(vcpu);

		if (r)
			return r;
	}
	return softtdx_svm.vcpu_create(vcpu);
}

static void td_vcpu_free(struct kvm_vcpu *vcpu)
{
	if (is_td_vcpu(vcpu))
		softtdx_vcpu_free(vcpu);
	softtdx_svm.vcpu_free(vcpu);
}

static void td_vcpu_load(struct kvm_vcpu *vcpu, int cpu)
{
	if (is_td_vcpu(vcpu))
		softtdx_vcpu_load(vcpu, cpu);
	softtdx_svm.vcpu_load(vcpu, cpu);
}

/* The private half of what the CPU walks is the S-EPT, the shared half KVM's own root. */
static void td_load_mmu_pgd(struct kvm_vcpu *vcpu, hpa_t root_hpa, int root_level)
{
	struct vcpu_svm *svm = to_svm(vcpu);
	u64 *shared, *root;

	softtdx_svm.load_mmu_pgd(vcpu, root_hpa, root_level);
	if (!is_td_vcpu(vcpu) || !softtdx_vcpu(vcpu)->vp.tdvpr_page)
		return;
	root = soft_vp_of(&softtdx_vcpu(vcpu)->vp)->npt_root;
	shared = __va(root_hpa & SE_ADDRESS);
	memcpy(root + 256, shared + 256, 256 * sizeof(u64));
	svm->vmcb->control.nested_cr3 = __sme_set(__pa(root));
	vmcb_mark_dirty(svm->vmcb, VMCB_NPT);
}

/* Both halves may have got new tables since the last entry. */
static void refresh_root(struct kvm_vcpu *vcpu, struct soft_vp *vp)
{
	hpa_t shared = vcpu->arch.mmu->root.hpa;

	memcpy(vp->npt_root, vp->td->root, 256 * sizeof(u64));
	if (VALID_PAGE(shared))
		memcpy(vp->npt_root + 256, (u64 *)__va(shared & SE_ADDRESS) + 256,
		       256 * sizeof(u64));
}

/* Registers that TDG.VP.VMCALL gives back to the guest. */
static void finish_vmcall(struct kvm_vcpu *vcpu, struct soft_vp *vp)
{
	struct tdx_module_args *a = &softtdx_vcpu(vcpu)->vp_enter_args;
	const struct {
		int reg;
		u64 value;
	} back[] = {
		{ VCPU_REGS_RDX, a->rdx }, { VCPU_REGS_RBX, a->rbx },
		{ VCPU_REGS_RSI, a->rsi }, { VCPU_REGS_RDI, a->rdi },
		{ VCPU_REGS_R8, a->r8 }, { VCPU_REGS_R9, a->r9 },
		{ VCPU_REGS_R10, a->r10 }, { VCPU_REGS_R11, a->r11 },
		{ VCPU_REGS_R12, a->r12 }, { VCPU_REGS_R13, a->r13 },
		{ VCPU_REGS_R14, a->r14 }, { VCPU_REGS_R15, a->r15 },
	};
	int i;

	vp->in_vmcall = false;
	kvm_rax_write_raw(vcpu, 0);
	for (i = 0; i < ARRAY_SIZE(back); i++) {
		if (vp->vmcall_mask & BIT_ULL(back[i].reg))
			kvm_register_write_raw(vcpu, back[i].reg, back[i].value);
	}
}

static fastpath_t td_vcpu_run(struct kvm_vcpu *vcpu, u64 run_flags)
{
	struct soft_vp *vp;
	bool flush = false;
	fastpath_t r;

	if (!is_td_vcpu(vcpu))
		return softtdx_svm.vcpu_run(vcpu, run_flags);

	/* As tdx_vcpu_run(): not while a SEAMCALL is tried again. */
	if (unlikely(READ_ONCE(softtdx_vm(vcpu->kvm)->wait_for_sept_zap)))
		return EXIT_FASTPATH_EXIT_HANDLED;

	vp = soft_vp_of(&softtdx_vcpu(vcpu)->vp);
	if (soft_vp_enter(vp, &flush))
		return EXIT_FASTPATH_EXIT_HANDLED;
	refresh_root(vcpu, vp);
	if (flush)
		softtdx_svm.flush_tlb_current(vcpu);
	if (vp->in_vmcall)
		finish_vmcall(vcpu, vp);

	r = softtdx_svm.vcpu_run(vcpu, run_flags);
	soft_vp_exit(vp);
	return r;
}

static int td_npf(struct kvm_vcpu *vcpu)
{
	struct vmcb_control_area *control = &to_svm(vcpu)->vmcb->control;
	struct soft_vp *vp = soft_vp_of(&softtdx_vcpu(vcpu)->vp);
	bool write = control->exit_info_1 & PFERR_WRITE_MASK;
	gpa_t gpa = control->exit_info_2;
	struct soft_result result;
	gfn_t gfn;

	if (!vt_is_tdx_private_gpa(vcpu->kvm, gpa)) {
		gfn = gpa_to_gfn(gpa) & ~kvm_gfn_direct_bits(vcpu->kvm);
		if (kvm_vcpu_gfn_to_memslot(vcpu, gfn))
			return softtdx_svm.handle_exit(vcpu, EXIT_FASTPATH_NONE);
		softtdx_queue_ve(vcpu, EXIT_REASON_EPT_VIOLATION,
				 write ? EPT_VIOLATION_ACC_WRITE : EPT_VIOLATION_ACC_READ, gpa, 0);
		return 1;
	}

	result = soft_access(vp->td, vp, gpa, write);
	switch (result.outcome) {
	case SOFT_EXIT:
		return softtdx_ept_exit(vcpu, &result);
	case SOFT_INJECT:
		if (result.vector == X86_TRAP_DF) {
			kvm_queue_exception_e(vcpu, DF_VECTOR, 0);
			return 1;
		}
		/* SVM does not say which linear address it was: only in which half it is. */
		vp->ve_gla = kvm_rip_read(vcpu);
		kvm_queue_exception(vcpu, X86_TRAP_VE);
		return 1;
	default:
		/* Mapped meanwhile. */
		return 1;
	}
}

static int td_ud(struct kvm_vcpu *vcpu)
{
	static const u8 tdcall[] = { 0x66, 0x0f, 0x01, 0xcc };
	u8 *insn = softtdx_guest_va(vcpu, kvm_rip_read(vcpu));

	if (insn && offset_in_page(insn) <= PAGE_SIZE - sizeof(tdcall) &&
	    !memcmp(insn, tdcall, sizeof(tdcall)))
		return softtdx_tdcall(vcpu);
	kvm_queue_exception(vcpu, UD_VECTOR);
	return 1;
}

static int td_handle_exit(struct kvm_vcpu *vcpu, fastpath_t fastpath)
{
	u64 code = to_svm(vcpu)->vmcb->control.exit_code;

	if (!is_td_vcpu(vcpu) || fastpath != EXIT_FASTPATH_NONE)
		return softtdx_svm.handle_exit(vcpu, fastpath);

	switch (code) {
	case SVM_EXIT_NPF:
		return td_npf(vcpu);
	case SVM_EXIT_EXCP_BASE + UD_VECTOR:
		return td_ud(vcpu);
	case SVM_EXIT_CPUID:
		return softtdx_cpuid(vcpu);
	case SVM_EXIT_IOIO:
		return softtdx_io(vcpu);
	case SVM_EXIT_READ_CR0 ... SVM_EXIT_READ_CR0 + 15:
	case SVM_EXIT_WRITE_CR0 ... SVM_EXIT_WRITE_CR0 + 15:
	case SVM_EXIT_CR0_SEL_WRITE:
		return softtdx_cr(vcpu);
	case SVM_EXIT_SHUTDOWN:
		softtdx_dump(vcpu, "triple fault");
		return softtdx_td_exit(vcpu, EXIT_REASON_TRIPLE_FAULT);
	default:
		return softtdx_svm.handle_exit(vcpu, fastpath);
	}
}

/* Emulated SVM does not say where the next instruction is. */
static int td_skip_instruction(struct kvm_vcpu *vcpu)
{
	struct vcpu_svm *svm = to_svm(vcpu);

	if (is_td_vcpu(vcpu) && !svm->vmcb->control.next_rip && !svm->next_rip) {
		int length = softtdx_insn_length(vcpu);

		if (length)
			svm->next_rip = kvm_rip_read(vcpu) + length;
	}
	return softtdx_svm.skip_emulated_instruction(vcpu);
}

static int td_interrupt_allowed(struct kvm_vcpu *vcpu, bool for_injection)
{
	if (is_td_vcpu(vcpu) && !for_injection &&
	    vcpu->arch.mp_state == KVM_MP_STATE_HALTED && gif_set(to_svm(vcpu)))
		return softtdx_halt_wakes(vcpu);
	return softtdx_svm.interrupt_allowed(vcpu, for_injection);
}

static bool in_vmcall(struct kvm_vcpu *vcpu)
{
	struct tdx_vp *vp = &softtdx_vcpu(vcpu)->vp;

	return is_td_vcpu(vcpu) && vp->tdvpr_page && soft_vp_of(vp)->in_vmcall;
}

static int td_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	return in_vmcall(vcpu) ? softtdx_get_msr(vcpu, msr) : softtdx_svm.get_msr(vcpu, msr);
}

static int td_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	return in_vmcall(vcpu) ? softtdx_set_msr(vcpu, msr) : softtdx_svm.set_msr(vcpu, msr);
}

static int td_complete_msr(struct kvm_vcpu *vcpu, int err)
{
	return in_vmcall(vcpu) ? softtdx_complete_msr(vcpu, err) :
				 softtdx_svm.complete_emulated_msr(vcpu, err);
}

/* KVM's emulator reads instructions from shared memory, so it must not run in a TD. */
static int td_check_emulate(struct kvm_vcpu *vcpu, int emul_type, void *insn, int insn_len)
{
	if (is_td_vcpu(vcpu)) {
		softtdx_dump(vcpu, "nothing emulates this in a TD");
		return X86EMUL_RETRY_INSTR;
	}
	return softtdx_svm.check_emulate_instruction(vcpu, emul_type, insn, insn_len);
}

static int td_mem_enc_ioctl(struct kvm *kvm, void __user *argp)
{
	if (is_td(kvm))
		return softtdx_vm_ioctl(kvm, argp);
	return softtdx_svm.mem_enc_ioctl ? softtdx_svm.mem_enc_ioctl(kvm, argp) : -ENOTTY;
}

static int td_vcpu_mem_enc_ioctl(struct kvm_vcpu *vcpu, void __user *argp)
{
	return is_td_vcpu(vcpu) ? softtdx_vcpu_ioctl(vcpu, argp) : -EINVAL;
}

static int td_vcpu_mem_enc_unlocked_ioctl(struct kvm_vcpu *vcpu, void __user *argp)
{
	return is_td_vcpu(vcpu) ? softtdx_vcpu_unlocked_ioctl(vcpu, argp) : -ENOIOCTLCMD;
}

static int td_gmem_max_mapping_level(struct kvm *kvm, kvm_pfn_t pfn, bool is_private)
{
	if (is_td(kvm))
		return softtdx_gmem_level(kvm, pfn, is_private);
	if (!softtdx_svm.gmem_max_mapping_level)
		return 0;
	return softtdx_svm.gmem_max_mapping_level(kvm, pfn, is_private);
}

static void flat(struct vmcb_seg *seg, u16 attributes)
{
	seg->selector = 0;
	seg->attrib = attributes;
	seg->limit = 0xffffffff;
	seg->base = 0;
}

/*
 * A TD's vCPU at its reset vector.  CR4 has PAE beside MCE: QEMU loses the outer
 * CR0 at an exit with EFER.LME and neither CR0.PG nor CR4.PAE.
 */
void softtdx_vcpu_reset(struct kvm_vcpu *vcpu)
{
	struct soft_vp *vp = soft_vp_of(&softtdx_vcpu(vcpu)->vp);
	struct vmcb *vmcb = to_svm(vcpu)->vmcb;
	struct vmcb_save_area *save = &vmcb->save;

	flat(&save->cs, 0xc9b);
	flat(&save->ds, 0xc93);
	flat(&save->es, 0xc93);
	flat(&save->fs, 0xc93);
	flat(&save->gs, 0xc93);
	flat(&save->ss, 0xc93);
	save->cpl = 0;
	save->gdtr.base = 0;
	save->gdtr.limit = 0xffff;
	save->idtr.base = 0;
	save->idtr.limit = 0;
	svm_set_cr0(vcpu, X86_CR0_PE | X86_CR0_NE);
	svm_set_cr4(vcpu, X86_CR4_MCE | X86_CR4_PAE);
	svm_set_efer(vcpu, EFER_SCE | EFER_LME | EFER_NX);
	kvm_rax_write_raw(vcpu, 0);
	kvm_rbx_write_raw(vcpu, SOFT_GPAW);
	kvm_rcx_write_raw(vcpu, vp->initial_rcx);
	kvm_rdx_write_raw(vcpu, 0x806f8);
	kvm_r8_write_raw(vcpu, vp->initial_rcx);
	kvm_rsi_write_raw(vcpu, vp->index);
	kvm_rip_write(vcpu, 0xfffffff0);
	kvm_set_rflags(vcpu, X86_EFLAGS_FIXED);
	vmcb_mark_all_dirty(vmcb);
	kvm_mmu_reset_context(vcpu);
}

/* The last thing of SVM's setup: TDs from here on. */
void softtdx_hardware_setup(struct kvm_x86_ops *ops)
{
	/* Some members are const, so this is no assignment. */
	memcpy(&softtdx_svm, ops, sizeof(softtdx_svm));

	ops->vm_size = sizeof(struct kvm_tdx);
	ops->vm_init = td_vm_init;
	ops->vm_pre_destroy = td_vm_pre_destroy;
	ops->vm_destroy = td_vm_destroy;
	ops->vcpu_create = td_vcpu_create;
	ops->vcpu_free = td_vcpu_free;
	ops->vcpu_load = td_vcpu_load;
	ops->vcpu_run = td_vcpu_run;
	ops->handle_exit = td_handle_exit;
	ops->skip_emulated_instruction = td_skip_instruction;
	ops->interrupt_allowed = td_interrupt_allowed;
	ops->load_mmu_pgd = td_load_mmu_pgd;
	ops->get_msr = td_get_msr;
	ops->set_msr = td_set_msr;
	ops->complete_emulated_msr = td_complete_msr;
	ops->check_emulate_instruction = td_check_emulate;
	ops->mem_enc_ioctl = td_mem_enc_ioctl;
	ops->vcpu_mem_enc_ioctl = td_vcpu_mem_enc_ioctl;
	ops->vcpu_mem_enc_unlocked_ioctl = td_vcpu_mem_enc_unlocked_ioctl;
	ops->set_external_spte = softtdx_set_external_spte;
	ops->free_external_spt = softtdx_free_external_spt;
	ops->gmem_max_mapping_level = td_gmem_max_mapping_level;

	soft_sysinfo_init(XFAM & (kvm_caps.supported_xcr0 | kvm_caps.supported_xss));
	softtdx_tdx_init();
	/* The lower half of a table of four levels is private. */
	if (npt_enabled && tdp_mmu_enabled && !pgtable_l5_enabled())
		kvm_caps.supported_vm_types |= BIT(KVM_X86_TDX_VM);
	softtdx_host_setup();
	softtdx_debugfs_setup();
}

void softtdx_unsetup(void)
{
	softtdx_debugfs_unsetup();
	softtdx_pool_drain();
	softtdx_host_unsetup();
}
