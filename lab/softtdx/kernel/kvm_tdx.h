/* SPDX-License-Identifier: GPL-2.0-only */
/* KVM's own TDX code as this module's parts see it, and the parts to each other. */
#ifndef __KVM_SOFTTDX_KVM_TDX_H
#define __KVM_SOFTTDX_KVM_TDX_H

#include "softtdx/module.h"

#include "x86.h"
#include "mmu.h"
#include "lapic.h"
#include "cpuid.h"
#include "irq.h"
#include "mmu/spte.h"
#include "mmu/tdp_mmu.h"
#include "svm/svm.h"
#include "svm/svm_ops.h"
/* Its structures begin with a union of KVM's and SVM's: see the edits. */
#include "vmx/tdx.h"
#include "softtdx/softtdx.h"

static __always_inline struct kvm_tdx *softtdx_vm(struct kvm *kvm)
{
	return container_of(kvm, struct kvm_tdx, kvm);
}

static __always_inline struct vcpu_tdx *softtdx_vcpu(struct kvm_vcpu *vcpu)
{
	return container_of(vcpu, struct vcpu_tdx, vcpu);
}

/* Null until KVM_TDX_INIT_VM. */
static inline struct soft_td *softtdx_td(struct kvm *kvm)
{
	struct page *tdr = softtdx_vm(kvm)->td.tdr_page;

	return tdr ? page_address(tdr) : NULL;
}

/* KVM declares it itself from Linux 7.3 on. */
int vt_handle_bus_lock_vmexit(struct kvm_vcpu *vcpu);

/* kvm_tdx.c: KVM's functions, and what stands around them. */
int softtdx_td_exit(struct kvm_vcpu *vcpu, u32 reason);
int softtdx_ept_exit(struct kvm_vcpu *vcpu, const struct soft_result *result);
int softtdx_vm_ioctl(struct kvm *kvm, void __user *argp);
int softtdx_vcpu_ioctl(struct kvm_vcpu *vcpu, void __user *argp);
int softtdx_vcpu_unlocked_ioctl(struct kvm_vcpu *vcpu, void __user *argp);
int softtdx_set_external_spte(struct kvm *kvm, gfn_t gfn, u64 old_spte, u64 new_spte,
			      enum pg_level level);
void softtdx_free_external_spt(struct kvm *kvm, struct kvm_mmu_page *sp);
int softtdx_gmem_level(struct kvm *kvm, kvm_pfn_t pfn, bool is_private);
int softtdx_vm_init(struct kvm *kvm);
void softtdx_vm_pre_destroy(struct kvm *kvm);
void softtdx_vm_destroy(struct kvm *kvm);
int softtdx_vcpu_create(struct kvm_vcpu *vcpu);
void softtdx_vcpu_free(struct kvm_vcpu *vcpu);
void softtdx_vcpu_load(struct kvm_vcpu *vcpu, int cpu);
int softtdx_complete_msr(struct kvm_vcpu *vcpu, int err);
int softtdx_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr);
int softtdx_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr);
bool softtdx_halt_wakes(struct kvm_vcpu *vcpu);
void softtdx_tdx_init(void);

/* vcpu.c */
extern struct kvm_x86_ops softtdx_svm;
void softtdx_vcpu_reset(struct kvm_vcpu *vcpu);

/* guest.c */
int softtdx_tdcall(struct kvm_vcpu *vcpu);
void softtdx_queue_ve(struct kvm_vcpu *vcpu, u64 reason, u64 qual, u64 gpa, u64 length);
void *softtdx_guest_va(struct kvm_vcpu *vcpu, u64 la);
int softtdx_insn_length(struct kvm_vcpu *vcpu);
int softtdx_cpuid(struct kvm_vcpu *vcpu);
int softtdx_cr(struct kvm_vcpu *vcpu);
int softtdx_io(struct kvm_vcpu *vcpu);
void softtdx_dump(struct kvm_vcpu *vcpu, const char *why);

/* host.c, debugfs.c, vectors.c */
void softtdx_host_setup(void);
void softtdx_host_unsetup(void);
void softtdx_debugfs_setup(void);
void softtdx_debugfs_unsetup(void);
void softtdx_debugfs_td(struct kvm *kvm);
extern const struct file_operations softtdx_vectors_fops;

#endif /* __KVM_SOFTTDX_KVM_TDX_H */
