//! Completion statuses of the TDX module, by number: their names and what they mean.
//!
//! A status has flags in bits 63:60, class and number in bits 47:32, and the operand or level in
//! bits 31:0. Source: `tdx_error_codes_defs.h` of the public TDX module 1.5 source.

/// Class and number, name without `TDX_`, and meaning.
#[rustfmt::skip]
const STATUSES: &[(u16, &str, &str)] = &[
    (0x0000, "SUCCESS", "nothing failed"),
    (0x0001, "NON_RECOVERABLE_VCPU", "the vCPU cannot go on"),
    (0x0002, "NON_RECOVERABLE_TD", "the TD cannot go on"),
    (0x0003, "INTERRUPTED_RESUMABLE", "an interrupt came first; the call is to be made again"),
    (0x0004, "INTERRUPTED_RESTARTABLE", "an interrupt came first; the call is to be made again"),
    (0x0005, "NON_RECOVERABLE_TD_NON_ACCESSIBLE", "the TD's memory cannot be read any more, as after a machine check or a foreign write to it"),
    (0x0006, "INVALID_RESUMPTION", "an interrupted call was taken up with other operands"),
    (0x0007, "NON_RECOVERABLE_TD_WRONG_APIC_MODE", "the host's local APIC is not in x2APIC mode"),
    (0x000a, "NON_RECOVERABLE_TD_CORRUPTED_MD", "control structures of the TD are corrupted"),
    (0x0100, "OPERAND_INVALID", "an operand is wrong"),
    (0x0101, "OPERAND_ADDR_RANGE_ERROR", "an address lies outside of TDX memory (the TDMRs)"),
    (0x0200, "OPERAND_BUSY", "another call holds a lock that this one needs"),
    (0x0201, "PREVIOUS_TLB_EPOCH_BUSY", "a vCPU has not left the previous TLB epoch"),
    (0x0202, "SYS_BUSY", "another call of the whole system is under way"),
    (0x0203, "RND_NO_ENTROPY", "the random number generator had nothing to give"),
    (0x0204, "OPERAND_BUSY_HOST_PRIORITY", "the host waits for a lock, which comes first"),
    (0x0205, "HOST_PRIORITY_BUSY_TIMEOUT", "the host did not take the lock it was given in time"),
    (0x0206, "INTERRUPTED_BUSY", "the host waits for a lock, and the call was interrupted for it"),
    (0x0300, "PAGE_METADATA_INCORRECT", "the PAMT has the page in another state or type"),
    (0x0301, "PAGE_ALREADY_FREE", "the page was free already"),
    (0x0302, "PAGE_NOT_OWNED_BY_TD", "the page belongs to another TD"),
    (0x0303, "PAGE_NOT_FREE", "the page is in use"),
    (0x0304, "HPA_RANGE_NOT_FREE", "a page of the range is in use"),
    (0x0305, "NO_PAMT_PAGE_PAIR", "there is no pair of PAMT pages to take back"),
    (0x0306, "PAMT_PAGE_NOT_EMPTY", "PAMT pages are still in use"),
    (0x0307, "INTERRUPTED_PAMT", "interrupted while PAMT pages were handled"),
    (0x0308, "MISSING_PAMT_PAGE_PAIR", "the 2M range has no PAMT pages (Dynamic PAMT)"),
    (0x0400, "TD_ASSOCIATED_PAGES_EXIST", "pages of the TD were not reclaimed"),
    (0x0500, "SYS_INIT_NOT_PENDING", "TDH.SYS.INIT was called before"),
    (0x0502, "SYS_LP_INIT_NOT_DONE", "TDH.SYS.LP.INIT was not called on every processor"),
    (0x0503, "SYS_LP_INIT_DONE", "TDH.SYS.LP.INIT was called on this processor before"),
    (0x0505, "SYS_NOT_READY", "the module is not initialised"),
    (0x0506, "SYS_SHUTDOWN", "the module is shut down"),
    (0x0507, "SYS_KEY_CONFIG_NOT_PENDING", "TDH.SYS.KEY.CONFIG came too early or twice"),
    (0x0508, "SYS_STATE_INCORRECT", "the module is in another state"),
    (0x0509, "SYS_INVALID_HANDOFF", "data handed over by the previous module are no good"),
    (0x050a, "SYS_INCOMPATIBLE_SIGSTRUCT", "the new module does not fit the old one"),
    (0x050b, "SYS_LP_INIT_NOT_PENDING", "TDH.SYS.LP.INIT came too early"),
    (0x050c, "SYS_CONFIG_NOT_PENDING", "TDH.SYS.CONFIG came too early or twice"),
    (0x050d, "INCOMPATIBLE_SEAM_CAPABILITIES", "the processors' SEAM capabilities do not fit the module"),
    (0x0511, "CRYPTO_SELF_TEST_FAILED", "the module's self test of its cryptography failed"),
    (0x0512, "UPDATE_COMPATIBILITY_SENSITIVE", "a running operation keeps the module from being updated"),
    (0x0604, "TD_FATAL", "the TD is in fatal state"),
    (0x0605, "TD_NON_DEBUG", "the TD is no debug TD"),
    (0x0606, "TDCS_NOT_ALLOCATED", "the TD has no TDCS yet"),
    (0x0607, "LIFECYCLE_STATE_INCORRECT", "the TD is in another state of its life"),
    (0x0608, "OP_STATE_INCORRECT", "the TD is in a state that does not allow the call"),
    (0x0609, "NO_VCPUS", "the TD has no vCPU"),
    (0x0610, "TDCX_NUM_INCORRECT", "the TD has another number of control pages"),
    (0x0621, "X2APIC_ID_NOT_UNIQUE", "two vCPUs have the same x2APIC id"),
    (0x0700, "VCPU_STATE_INCORRECT", "the vCPU is in another state"),
    (0x0701, "VCPU_ASSOCIATED", "the vCPU is associated with another processor"),
    (0x0702, "VCPU_NOT_ASSOCIATED", "the vCPU is associated with no processor"),
    (0x0704, "NO_VALID_VE_INFO", "there is no #VE information"),
    (0x0705, "MAX_VCPUS_EXCEEDED", "the TD has as many vCPUs as it may have"),
    (0x0706, "TSC_ROLLBACK", "the TSC went back"),
    (0x0730, "TD_VMCS_FIELD_NOT_INITIALIZED", "a VMCS field of the TD is not set"),
    (0x0731, "TD_VMCS_FIELD_ERROR", "a VMCS field of the TD is wrong"),
    (0x0800, "KEY_GENERATION_FAILED", "no key could be made, for want of entropy"),
    (0x0810, "TD_KEYS_NOT_CONFIGURED", "the TD's key is not configured on every package"),
    (0x0811, "KEY_STATE_INCORRECT", "the key id is in another state"),
    (0x0815, "KEY_CONFIGURED", "the key was configured before"),
    (0x0817, "WBCACHE_NOT_COMPLETE", "caches are not written back on every package"),
    (0x0820, "HKID_NOT_FREE", "the key id is in use"),
    (0x0821, "NO_HKID_READY_TO_WBCACHE", "no key id waits for caches to be written back"),
    (0x0823, "WBCACHE_RESUME_ERROR", "writing caches back was taken up wrongly"),
    (0x0824, "FLUSHVP_NOT_DONE", "a vCPU was not flushed"),
    (0x0825, "NUM_ACTIVATED_HKIDS_NOT_SUPPORTED", "the firmware gave more key ids than the module knows"),
    (0x0900, "INCORRECT_CPUID_VALUE", "CPUID of a processor is not what the module needs"),
    (0x0901, "LIMIT_CPUID_MAXVAL_SET", "the firmware limits CPUID (\"limit CPUID maximum\")"),
    (0x0902, "INCONSISTENT_CPUID_FIELD", "CPUID differs between processors"),
    (0x0903, "CPUID_MAX_SUBLEAVES_UNRECOGNIZED", "CPUID has more sub-leaves than the module knows"),
    (0x0904, "CPUID_LEAF_1F_FORMAT_UNRECOGNIZED", "CPUID leaf 1FH has a format that the module does not know"),
    (0x0905, "INVALID_WBINVD_SCOPE", "WBINVD has a scope that the module does not know"),
    (0x0906, "INVALID_PKG_ID", "a package id is out of range"),
    (0x0907, "ENABLE_MONITOR_FSM_NOT_SET", "the firmware has turned MONITOR/MWAIT off"),
    (0x0908, "CPUID_LEAF_NOT_SUPPORTED", "a CPUID leaf is missing"),
    (0x0910, "SMRR_NOT_LOCKED", "the firmware has not locked the SMRRs"),
    (0x0911, "INVALID_SMRR_CONFIGURATION", "the firmware set the SMRRs wrongly"),
    (0x0912, "SMRR_OVERLAPS_CMR", "the firmware's SMRRs overlap TDX memory"),
    (0x0913, "SMRR_LOCK_NOT_SUPPORTED", "the processor cannot lock SMRRs"),
    (0x0914, "SMRR_NOT_SUPPORTED", "the processor has no SMRRs"),
    (0x0920, "INCONSISTENT_MSR", "an MSR differs between processors"),
    (0x0921, "INCORRECT_MSR_VALUE", "an MSR is not what the module needs"),
    (0x0930, "SEAMREPORT_NOT_AVAILABLE", "the processor has no SEAMREPORT"),
    (0x0a00, "INVALID_TDMR", "a TDMR is wrong"),
    (0x0a01, "NON_ORDERED_TDMR", "TDMRs overlap or are not in order"),
    (0x0a02, "TDMR_OUTSIDE_CMRS", "a TDMR lies outside of convertible memory (CMRs)"),
    (0x0a03, "TDMR_ALREADY_INITIALIZED", "the TDMR was initialised before"),
    (0x0a10, "INVALID_PAMT", "a PAMT is wrong"),
    (0x0a11, "PAMT_OUTSIDE_CMRS", "a PAMT lies outside of convertible memory (CMRs)"),
    (0x0a12, "PAMT_OVERLAP", "PAMTs overlap"),
    (0x0a20, "INVALID_RESERVED_IN_TDMR", "a reserved area of a TDMR is wrong"),
    (0x0a21, "NON_ORDERED_RESERVED_IN_TDMR", "reserved areas of a TDMR are not in order"),
    (0x0a22, "CMR_LIST_INVALID", "the firmware's list of convertible memory is wrong"),
    (0x0b00, "EPT_WALK_FAILED", "the S-EPT has no entry at that level"),
    (0x0b01, "EPT_ENTRY_FREE", "the S-EPT entry is free"),
    (0x0b02, "EPT_ENTRY_NOT_FREE", "the S-EPT entry is not free"),
    (0x0b03, "EPT_ENTRY_NOT_PRESENT", "the S-EPT entry is not present"),
    (0x0b04, "EPT_ENTRY_NOT_LEAF", "the S-EPT entry is a table"),
    (0x0b05, "EPT_ENTRY_LEAF", "the S-EPT entry is a leaf"),
    (0x0b06, "GPA_RANGE_NOT_BLOCKED", "the range was not blocked first"),
    (0x0b07, "GPA_RANGE_ALREADY_BLOCKED", "the range was blocked before"),
    (0x0b08, "TLB_TRACKING_NOT_DONE", "no TLB flush (TDH.MEM.TRACK and a kick of each vCPU) since the range was blocked"),
    (0x0b09, "EPT_INVALID_PROMOTE_CONDITIONS", "the small leaves do not make a large one"),
    (0x0b0a, "PAGE_ALREADY_ACCEPTED", "the guest had accepted the page"),
    (0x0b0b, "PAGE_SIZE_MISMATCH", "the page is mapped at another size"),
    (0x0b0c, "GPA_RANGE_BLOCKED", "the range is blocked"),
    (0x0b0d, "EPT_ENTRY_STATE_INCORRECT", "the S-EPT entry is in a state that does not allow the call"),
    (0x0b0e, "EPT_PAGE_NOT_FREE", "the table still has entries in use"),
    (0x0b0f, "L2_SEPT_WALK_FAILED", "the S-EPT of an L2 VM has no entry at that level"),
    (0x0b10, "L2_SEPT_ENTRY_NOT_FREE", "the S-EPT entry of an L2 VM is not free"),
    (0x0b11, "PAGE_ATTR_INVALID", "the page's attributes are wrong"),
    (0x0b12, "L2_SEPT_PAGE_NOT_PROVIDED", "a table for an L2 VM is missing"),
    (0x0c00, "METADATA_FIELD_ID_INCORRECT", "the module has no such metadata field"),
    (0x0c01, "METADATA_FIELD_NOT_WRITABLE", "the metadata field cannot be written"),
    (0x0c02, "METADATA_FIELD_NOT_READABLE", "the metadata field cannot be read"),
    (0x0c03, "METADATA_FIELD_VALUE_NOT_VALID", "the metadata field takes no such value"),
    (0x1000, "INVALID_CPUSVN", "a security version is wrong"),
    (0x1001, "INVALID_REPORTMACSTRUCT", "the report was not made on this machine"),
];

/// Name and meaning of a status (RAX of TDCALL or SEAMCALL); `None` where no module returns such a one.
pub fn find(status: u64) -> Option<(&'static str, &'static str)> {
    let number = (status >> 32) as u16;
    let entry = STATUSES.iter().find(|(known, _, _)| *known == number)?;
    Some((entry.1, entry.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_and_no_name_is_there_twice() {
        assert!(STATUSES.is_sorted_by(|one, next| one.0 < next.0));
        let mut names: Vec<&str> = STATUSES.iter().map(|(_, name, _)| *name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one != next));
    }

    #[test]
    fn a_status_is_found_by_class_and_number() {
        let (name, _) = find(0xc000_0b0b_0000_0001).unwrap();
        assert_eq!(name, "PAGE_SIZE_MISMATCH");
        assert_eq!(find(0x8000_ff00_ffff_0000), None);
    }
}
