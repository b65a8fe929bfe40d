// SPDX-License-Identifier: GPL-2.0-only
/* What a guest executes that a TD does otherwise: TDCALL, CPUID, control registers, port I/O. */
#define pr_fmt(fmt) "softtdx: " fmt

#include "softtdx/kvm_tdx.h"

#define TDCALL_LENGTH		4
#define TDG_MEM_PAGE_ATTR_RD	23

/* RAX, RCX, RSP and RBP, and the upper half, are never passed. */
#define NEVER_PASSED		(BIT_ULL(VCPU_REGS_RAX) | BIT_ULL(VCPU_REGS_RCX) | \
				 BIT_ULL(VCPU_REGS_RSP) | BIT_ULL(VCPU_REGS_RBP) | \
				 GENMASK_ULL(63, 32))

static void *private_va(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return soft_private_va(softtdx_td(vcpu->kvm), gpa);
}

/* Where linear address @la lies, or NULL.  Page tables of a TD are private. */
void *softtdx_guest_va(struct kvm_vcpu *vcpu, u64 la)
{
	u64 entry, gpa = la, *p, span;
	int level;

	if (is_paging(vcpu)) {
		if (!is_long_mode(vcpu))
			return NULL;
		entry = kvm_read_cr3(vcpu);
		for (level = PT64_ROOT_4LEVEL; level >= PG_LEVEL_4K; level--) {
			p = private_va(vcpu, (entry & SE_ADDRESS) |
				       ((la >> (PAGE_SHIFT + 9 * (level - 1))) & 511) << 3);
			if (!p || !(*p & PT_PRESENT_MASK))
				return NULL;
			entry = *p;
			if (level > PG_LEVEL_4K && entry & PT_PAGE_SIZE_MASK)
				break;
		}
		span = KVM_HPAGE_SIZE(max(level, PG_LEVEL_4K));
		gpa = (entry & SE_ADDRESS & ~(span - 1)) | (la & (span - 1));
	}
	return private_va(vcpu, gpa);
}

void softtdx_dump(struct kvm_vcpu *vcpu, const char *why)
{
	struct vmcb *vmcb = to_svm(vcpu)->vmcb;
	u8 *insn = softtdx_guest_va(vcpu, kvm_rip_read(vcpu));

	pr_warn_ratelimited("vCPU %d: %s: rip %lx cr0 %llx cr2 %llx cr3 %lx cr4 %llx efer %llx rsp %lx exit %llx insn %*ph\n",
			    vcpu->vcpu_id, why, kvm_rip_read(vcpu), vmcb->save.cr0, vmcb->save.cr2,
			    kvm_read_cr3(vcpu), vmcb->save.cr4, vmcb->save.efer, kvm_rsp_read(vcpu),
			    (u64)vmcb->control.exit_code, insn ? 8 : 0, insn);
}

void softtdx_queue_ve(struct kvm_vcpu *vcpu, u64 reason, u64 qual, u64 gpa, u64 length)
{
	struct soft_vp *vp = soft_vp_of(&softtdx_vcpu(vcpu)->vp);

	if (vp->ve_valid) {
		softtdx_dump(vcpu, "a #VE before the information of the last was read");
		kvm_queue_exception_e(vcpu, DF_VECTOR, 0);
		return;
	}
	/* Guests only ask whether the address is the kernel's. */
	soft_set_ve(vp, reason, qual, gpa, kvm_rip_read(vcpu), length);
	kvm_queue_exception(vcpu, X86_TRAP_VE);
}

static void tdcall_done(struct kvm_vcpu *vcpu, u64 rax)
{
	kvm_rax_write_raw(vcpu, rax);
	kvm_rip_write(vcpu, kvm_rip_read(vcpu) + TDCALL_LENGTH);
}

/* A TDCALL that a lie makes the TD's last. */
static bool ends_at_accept(struct kvm_vcpu *vcpu, int *r)
{
	static const char words[] = "a lie of a rehearsal";
	struct tdx_module_args *a = &softtdx_vcpu(vcpu)->vp_enter_args;
	u64 code;

	switch (softtdx_end_at_accept(&code)) {
	case SOFTTDX_KILLED:
		WARN(1, "KVM_BUG_ON (a lie of the rehearsal)\n");
		kvm_vm_bugged(vcpu->kvm);
		*r = -EIO;
		return true;
	case SOFTTDX_PANICS:
		memset(a, 0, sizeof(*a));
		a->r11 = TDVMCALL_REPORT_FATAL_ERROR;
		a->r12 = code;
		a->rcx = TDX_R14 | TDX_R15 | TDX_RBX;
		memcpy(&a->r14, words, 8);
		memcpy(&a->r15, words + 8, 8);
		memcpy(&a->rbx, words + 16, sizeof(words) - 17);
		*r = softtdx_td_exit(vcpu, EXIT_REASON_TDCALL);
		return true;
	case SOFTTDX_TRIPLE_FAULT:
		*r = softtdx_td_exit(vcpu, EXIT_REASON_TRIPLE_FAULT);
		return true;
	default:
		return false;
	}
}

/*
 * A TDCALL that takes locks of the S-EPT.  It counts as the guest's time: KVM's
 * kick waits for it, and it does not start while KVM tries a SEAMCALL again.
 */
static bool take_guests_time(struct kvm_vcpu *vcpu)
{
	local_irq_disable();
	/* Pairs with who sets wait_for_sept_zap and then looks at the mode to kick. */
	smp_store_mb(vcpu->mode, IN_GUEST_MODE);
	if (likely(!READ_ONCE(softtdx_vm(vcpu->kvm)->wait_for_sept_zap)))
		return true;
	WRITE_ONCE(vcpu->mode, OUTSIDE_GUEST_MODE);
	local_irq_enable();
	return false;
}

static void give_guests_time(struct kvm_vcpu *vcpu)
{
	/* What the TDCALL has written is seen by who finds the vCPU outside. */
	smp_store_release(&vcpu->mode, OUTSIDE_GUEST_MODE);
	local_irq_enable();
}

/* What the dispatcher makes of a TDCALL that ran into the host's priority. */
static u64 dispatched(u64 rax)
{
	if ((rax & TDX_SEAMCALL_STATUS_MASK) == SOFT_HOST_PRIORITY)
		return SOFT_OPERAND_BUSY | (u32)rax;
	return rax;
}

static int mem_tdcall(struct kvm_vcpu *vcpu, bool accept)
{
	struct soft_td *td = softtdx_td(vcpu->kvm);
	u64 rcx = kvm_rcx_read_raw(vcpu);
	struct soft_result result;
	int r;

	if (!take_guests_time(vcpu))
		return 1;
	result = accept ? soft_accept(td, rcx) : soft_attr_rd(td, rcx);
	give_guests_time(vcpu);

	if (result.outcome == SOFT_EXIT)
		return softtdx_ept_exit(vcpu, &result);
	/* Counted when done, not when KVM must map the page first. */
	if (accept && result.outcome == SOFT_DONE && ends_at_accept(vcpu, &r))
		return r;
	if (result.outcome == SOFT_DONE) {
		if (!accept) {
			kvm_rcx_write_raw(vcpu, result.rcx);
			kvm_rdx_write_raw(vcpu, result.rdx);
			kvm_r8_write_raw(vcpu, 0);
		}
		tdcall_done(vcpu, dispatched(result.rax));
	}
	return 1;
}

static int vmcall(struct kvm_vcpu *vcpu)
{
	struct vcpu_tdx *tdx = softtdx_vcpu(vcpu);
	struct soft_vp *vp = soft_vp_of(&tdx->vp);
	u64 mask = kvm_rcx_read_raw(vcpu);
	static const struct {
		int reg;
		size_t at;
	} passed[] = {
		{ VCPU_REGS_RDX, offsetof(struct tdx_module_args, rdx) },
		{ VCPU_REGS_RBX, offsetof(struct tdx_module_args, rbx) },
		{ VCPU_REGS_RSI, offsetof(struct tdx_module_args, rsi) },
		{ VCPU_REGS_RDI, offsetof(struct tdx_module_args, rdi) },
		{ VCPU_REGS_R8, offsetof(struct tdx_module_args, r8) },
		{ VCPU_REGS_R9, offsetof(struct tdx_module_args, r9) },
		{ VCPU_REGS_R10, offsetof(struct tdx_module_args, r10) },
		{ VCPU_REGS_R11, offsetof(struct tdx_module_args, r11) },
		{ VCPU_REGS_R12, offsetof(struct tdx_module_args, r12) },
		{ VCPU_REGS_R13, offsetof(struct tdx_module_args, r13) },
		{ VCPU_REGS_R14, offsetof(struct tdx_module_args, r14) },
		{ VCPU_REGS_R15, offsetof(struct tdx_module_args, r15) },
	};
	int i;

	atomic64_inc(&vp->td->calls[SOFT_VMCALL]);
	if (mask & NEVER_PASSED) {
		tdcall_done(vcpu, SOFT_OPERAND_INVALID | SOFT_RCX);
		return 1;
	}
	memset(&tdx->vp_enter_args, 0, sizeof(tdx->vp_enter_args));
	tdx->vp_enter_args.rcx = mask;
	for (i = 0; i < ARRAY_SIZE(passed); i++) {
		if (mask & BIT_ULL(passed[i].reg))
			*(u64 *)((void *)&tdx->vp_enter_args + passed[i].at) =
				kvm_register_read_raw(vcpu, passed[i].reg);
	}
	vp->vmcall_mask = mask;
	vp->in_vmcall = true;
	kvm_rip_write(vcpu, kvm_rip_read(vcpu) + TDCALL_LENGTH);
	return softtdx_td_exit(vcpu, EXIT_REASON_TDCALL);
}

static u64 vp_info(struct kvm_vcpu *vcpu, struct soft_td *td)
{
	kvm_rcx_write_raw(vcpu, SOFT_GPAW);
	kvm_rdx_write_raw(vcpu, td->attributes | SOFT_ATTRIBUTE_REHEARSAL);
	kvm_r8_write_raw(vcpu, td->vcpu_count | (u64)td->vcpu_count << 32);
	kvm_r9_write_raw(vcpu, soft_vp_of(&softtdx_vcpu(vcpu)->vp)->index);
	kvm_r10_write_raw(vcpu, 0);
	kvm_r11_write_raw(vcpu, 0);
	return 0;
}

static u64 ve_info(struct kvm_vcpu *vcpu)
{
	struct soft_vp *vp = soft_vp_of(&softtdx_vcpu(vcpu)->vp);

	if (!vp->ve_valid)
		return SOFT_NO_VE_INFO;
	vp->ve_valid = false;
	kvm_rcx_write_raw(vcpu, vp->ve_reason);
	kvm_rdx_write_raw(vcpu, vp->ve_qual);
	kvm_r8_write_raw(vcpu, vp->ve_gla);
	kvm_r9_write_raw(vcpu, vp->ve_gpa);
	kvm_r10_write_raw(vcpu, vp->ve_length);
	return 0;
}

/* Fields are known by class and number; the rest of an identifier says how wide they are. */
#define FIELD_MASK	(GENMASK_ULL(61, 56) | GENMASK_ULL(23, 0))
#define FIELD(id)	((id) & FIELD_MASK)

static u64 vm_rd(struct kvm_vcpu *vcpu, struct soft_td *td)
{
	u64 value = 0, status = 0;

	switch (FIELD(kvm_rdx_read_raw(vcpu))) {
	case FIELD(TDCS_TD_CTLS):
		value = td->td_ctls;
		break;
	case FIELD(TDCS_TOPOLOGY_ENUM_CONFIGURED):
		value = 1;
		break;
	case FIELD(TDCS_CONFIG_FLAGS):
	case FIELD(TDCS_NOTIFY_ENABLES):
		break;
	default:
		status = SOFT_FIELD_ID_INCORRECT;
	}
	kvm_r8_write_raw(vcpu, value);
	return status;
}

static u64 vm_wr(struct kvm_vcpu *vcpu, struct soft_td *td)
{
	u64 mask = kvm_r9_read_raw(vcpu), value = kvm_r8_read_raw(vcpu);

	switch (FIELD(kvm_rdx_read_raw(vcpu))) {
	case FIELD(TDCS_TD_CTLS):
		/* Whether pending pages raise #VE was settled when the TD was made. */
		if (mask & (td->td_ctls ^ value) & TD_CTLS_PENDING_VE_DISABLE)
			return 0xc0000c0300000000ULL;
		kvm_r8_write_raw(vcpu, td->td_ctls);
		td->td_ctls = (td->td_ctls & ~mask) | (value & mask);
		return 0;
	case FIELD(TDCS_NOTIFY_ENABLES):
		kvm_r8_write_raw(vcpu, 0);
		return 0;
	default:
		return SOFT_FIELD_ID_INCORRECT;
	}
}

/* TDG.MR.REPORT: a report without measurements and without a MAC. */
static u64 mr_report(struct kvm_vcpu *vcpu, struct soft_td *td)
{
	u64 at = kvm_rcx_read_raw(vcpu), from = kvm_rdx_read_raw(vcpu);
	u8 *report = private_va(vcpu, at), *data = private_va(vcpu, from);
	u8 report_data[64];

	if (!report || !IS_ALIGNED(at, 1024))
		return SOFT_OPERAND_INVALID | SOFT_RCX;
	if (!data || !IS_ALIGNED(from, 64))
		return SOFT_OPERAND_INVALID | SOFT_RDX;
	/* Linux has REPORTDATA in the buffer of the report. */
	memcpy(report_data, data, sizeof(report_data));
	memset(report, 0, 1024);
	report[0] = 0x81;
	memcpy(report + 128, report_data, sizeof(report_data));
	memcpy(report + 512, &td->attributes, sizeof(u64));
	memcpy(report + 520, &td->xfam, sizeof(u64));
	return 0;
}

int softtdx_tdcall(struct kvm_vcpu *vcpu)
{
	struct soft_td *td = softtdx_td(vcpu->kvm);
	u64 leaf = kvm_rax_read_raw(vcpu) & 0xffff, status;

	switch (leaf) {
	case TDG_VP_VMCALL:
		return vmcall(vcpu);
	case TDG_MEM_PAGE_ACCEPT:
		return mem_tdcall(vcpu, true);
	case TDG_MEM_PAGE_ATTR_RD:
		return mem_tdcall(vcpu, false);
	}
	atomic64_inc(&td->calls[SOFT_TDCALL_OTHER]);
	switch (leaf) {
	case TDG_VP_INFO:
		status = vp_info(vcpu, td);
		break;
	case TDG_VP_VEINFO_GET:
		status = ve_info(vcpu);
		break;
	case TDG_MR_RTMR_EXTEND:
		status = private_va(vcpu, kvm_rcx_read_raw(vcpu)) ? 0 :
			 SOFT_OPERAND_INVALID | SOFT_RCX;
		if (!status && kvm_rdx_read_raw(vcpu) > 3)
			status = SOFT_OPERAND_INVALID | SOFT_RDX;
		break;
	case TDG_MR_REPORT:
		status = mr_report(vcpu, td);
		break;
	case TDG_VM_RD:
		status = vm_rd(vcpu, td);
		break;
	case TDG_VM_WR:
		status = vm_wr(vcpu, td);
		break;
	default:
		pr_info_ratelimited("no TDCALL leaf %llu\n", leaf);
		status = SOFT_OPERAND_INVALID;
	}
	tdcall_done(vcpu, status);
	return 1;
}

/* Masks a register of CPUID by what KVM supports on this CPU, and @more. */
#define MASKED(reg, word, more)							\
	kvm_##reg##_write_raw(vcpu, (u32)kvm_##reg##_read_raw(vcpu) &		\
			      (kvm_cpu_caps[word] | (more)))

/* What QEMU fixes for TDs may be more than this CPU has. */
static void cpuid_mask(struct kvm_vcpu *vcpu, u32 leaf, u32 subleaf)
{
	if (leaf == 1) {
		/* OSXSAVE follows CR4, and there is a hypervisor. */
		MASKED(rcx, CPUID_1_ECX, BIT(27) | BIT(31));
		MASKED(rdx, CPUID_1_EDX, 0);
	} else if (leaf == 7 && !subleaf) {
		MASKED(rbx, CPUID_7_0_EBX, 0);
		MASKED(rcx, CPUID_7_ECX, BIT(4));
		MASKED(rdx, CPUID_7_EDX, 0);
	} else if (leaf == 7 && subleaf == 1) {
		MASKED(rax, CPUID_7_1_EAX, 0);
		MASKED(rdx, CPUID_7_1_EDX, 0);
	} else if (leaf == 0xd && subleaf == 1) {
		MASKED(rax, CPUID_D_1_EAX, 0);
	} else if (leaf == 0x80000001) {
		MASKED(rcx, CPUID_8000_0001_ECX, 0);
		MASKED(rdx, CPUID_8000_0001_EDX, 0);
		/* No SVM in a TD. */
		kvm_rcx_write_raw(vcpu, (u32)kvm_rcx_read_raw(vcpu) & ~BIT(2));
	}
}

static void cpuid_write(struct kvm_vcpu *vcpu, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	kvm_rax_write_raw(vcpu, eax);
	kvm_rbx_write_raw(vcpu, ebx);
	kvm_rcx_write_raw(vcpu, ecx);
	kvm_rdx_write_raw(vcpu, edx);
}

/* CPUID as a TD sees it: an Intel CPU, with the leaf that says TD, and the TSC's frequency. */
int softtdx_cpuid(struct kvm_vcpu *vcpu)
{
	u32 leaf = kvm_rax_read_raw(vcpu), subleaf = kvm_rcx_read_raw(vcpu);
	u32 khz = vcpu->arch.virtual_tsc_khz;
	int r = kvm_emulate_cpuid(vcpu);

	cpuid_mask(vcpu, leaf, subleaf);
	switch (leaf) {
	case 0:
		cpuid_write(vcpu, max_t(u32, kvm_rax_read_raw(vcpu), TDX_CPUID_LEAF_ID),
			    0x756e6547 /* Genu */, 0x6c65746e /* ntel */, 0x49656e69 /* ineI */);
		break;
	case 1:
		kvm_rax_write_raw(vcpu, 0x806f8);
		break;
	case 0x15:
		cpuid_write(vcpu, 1, khz / 25000, 25000000, 0);
		break;
	case 0x16:
		cpuid_write(vcpu, khz / 1000, khz / 1000, 25, 0);
		break;
	case TDX_CPUID_LEAF_ID:
		cpuid_write(vcpu, 0, 0x65746e49 /* Inte */, 0x20202020, 0x5844546c /* lTDX */);
		break;
	}
	return r;
}

/* MOV to and from control registers, without KVM's emulator. */
int softtdx_cr(struct kvm_vcpu *vcpu)
{
	u64 rip = kvm_rip_read(vcpu), value = 0;
	u8 *insn = softtdx_guest_va(vcpu, rip);
	int rex = 0, length = 3, cr, reg, r = 0;

	if (!insn)
		return 1;
	if ((*insn & 0xf0) == 0x40 && is_long_mode(vcpu)) {
		rex = *insn++;
		length++;
	}
	cr = ((insn[2] >> 3) & 7) | (rex & 4) << 1;
	reg = (insn[2] & 7) | (rex & 1) << 3;
	if (insn[0] != 0x0f || (insn[1] & ~2) != 0x20 || (cr != 0 && cr != 4 && cr != 8)) {
		softtdx_dump(vcpu, "no move of CR0, CR4 or CR8");
		kvm_queue_exception(vcpu, UD_VECTOR);
		return 1;
	}
	if (insn[1] == 0x20) {
		value = cr == 8 ? kvm_get_cr8(vcpu) : cr == 4 ? kvm_read_cr4(vcpu) :
							       kvm_read_cr0(vcpu);
		kvm_register_write_raw(vcpu, reg, value);
	} else {
		value = kvm_register_read_raw(vcpu, reg);
		r = cr == 8 ? kvm_set_cr8(vcpu, value) : cr == 4 ? kvm_set_cr4(vcpu, value) :
								  kvm_set_cr0(vcpu, value);
	}
	if (r)
		kvm_inject_gp(vcpu, 0);
	else
		kvm_rip_write(vcpu, rip + length);
	return 1;
}

/* Port I/O is a #VE, with the exit qualification of VMX. */
int softtdx_io(struct kvm_vcpu *vcpu)
{
	struct vmcb_control_area *c = &to_svm(vcpu)->vmcb->control;
	u32 info = c->exit_info_1;
	int size = (info & SVM_IOIO_SIZE_MASK) >> SVM_IOIO_SIZE_SHIFT;
	u64 qual = (size - 1) | (info & 0xffff0000);

	if (info & SVM_IOIO_TYPE_MASK)
		qual |= BIT(3);
	if (info & SVM_IOIO_STR_MASK)
		qual |= BIT(4);
	if (info & SVM_IOIO_REP_MASK)
		qual |= BIT(5);
	softtdx_queue_ve(vcpu, EXIT_REASON_IO_INSTRUCTION, qual, 0,
			 c->exit_info_2 - kvm_rip_read(vcpu));
	return 1;
}

/* Length of an instruction that was intercepted; 0 where it is none that is. */
int softtdx_insn_length(struct kvm_vcpu *vcpu)
{
	u8 *insn = softtdx_guest_va(vcpu, kvm_rip_read(vcpu)), *start = insn;

	if (!insn)
		return 0;
	while (*insn == 0x66 || *insn == 0xf2 || *insn == 0xf3 ||
	       (is_long_mode(vcpu) && (*insn & 0xf0) == 0x40))
		insn++;
	switch (*insn) {
	case 0xf4:	/* HLT */
	case 0x90:	/* PAUSE */
	case 0xec ... 0xef:
		return insn - start + 1;
	case 0xe4 ... 0xe7:
		return insn - start + 2;
	case 0x0f:
		/* 0F 01: XSETBV, MONITOR, MWAIT, RDTSCP; else CPUID, MSRs, WBINVD, RDTSC, RDPMC */
		return insn - start + (insn[1] == 0x01 ? 3 : 2);
	}
	softtdx_dump(vcpu, "an instruction of unknown length");
	return 0;
}
