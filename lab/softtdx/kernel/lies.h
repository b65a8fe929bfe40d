/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lies on request, so that tests can show what the lab makes of a host that does
 * wrong.  The parameter softtdx_lies of kvm.ko holds them, separated by commas:
 *
 *   refuse=COMMAND:ERRNO	KVM_TDX_COMMAND fails, e.g. refuse=INIT_VM:EBUSY; so do
 *				CREATE_GUEST_MEMFD and SET_MEMORY_ATTRIBUTES
 *   refuse=COMMAND:ERRNO*N	only the first N times in the life of a VM
 *   no-tdx			KVM has no VM type for TDs
 *   no-attributes		KVM has no memory attributes
 *   populate=N			N pages more than the initial image are populated
 *   kill=N			KVM gives the TD up at its Nth ACCEPT
 *   panic=N, panic=N:CODE	the TD reports a fatal error there
 *   triple-fault=N		the TD ends in a triple fault there
 *   drop-conversion=N		the Nth chunk of MapGPA reports success and changes nothing
 *   fragmented			the buddy allocator has no 2M in one piece
 *   coarse-holes		the guest_memfd refuses holes that are not of whole 2M
 *
 * They are told to TDs only, and counted from the start of each TD.
 */
#ifndef __KVM_SOFTTDX_LIES_H
#define __KVM_SOFTTDX_LIES_H

#include <linux/types.h>

/* What can be refused. */
enum softtdx_refusable {
	SOFTTDX_CAPABILITIES,
	SOFTTDX_INIT_VM,
	SOFTTDX_INIT_VCPU,
	SOFTTDX_INIT_MEM_REGION,
	SOFTTDX_FINALIZE_VM,
	SOFTTDX_GET_CPUID,
	SOFTTDX_CREATE_GUEST_MEMFD,
	SOFTTDX_SET_MEMORY_ATTRIBUTES,
	SOFTTDX_REFUSABLE_NR,
};

/* How a TD is to end. */
enum softtdx_end {
	SOFTTDX_GOES_ON,
	SOFTTDX_KILLED,
	SOFTTDX_PANICS,
	SOFTTDX_TRIPLE_FAULT,
	SOFTTDX_END_NR,
};

struct kvm;

void softtdx_lies_restart(void);
int softtdx_refused(struct kvm *kvm, enum softtdx_refusable what);
enum softtdx_end softtdx_end_at_accept(u64 *code);
bool softtdx_drops_conversion(struct kvm *kvm);
unsigned long softtdx_populates(void);
bool softtdx_no_tdx(void);
bool softtdx_no_attributes(struct kvm *kvm);
bool softtdx_coarse_holes(void);
bool softtdx_fragmented(void);

#endif /* __KVM_SOFTTDX_LIES_H */
