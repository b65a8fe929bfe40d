//! Names of SEAMCALL leaves and completion statuses, which kernel logs show as numbers.
//!
//! A status has flags in bits 63:60, class and number in bits 47:32, and the operand or level in
//! bits 31:0. Sources: `tdx_error_codes_defs.h` of the public TDX module 1.5 source,
//! `arch/x86/include/asm/tdx.h` for what the kernel's own wrapper returns, and
//! `arch/x86/virt/vmx/tdx/tdx.h` for the numbers of leaves.

use std::fmt;

/// RAX of a failed SEAMCALL, displayed with its name and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeamcallStatus(pub u64);

/// The call failed, and could be made again where this alone is set.
const ERROR: u64 = 1 << 63;
/// The call cannot succeed if it is made again.
const NON_RECOVERABLE: u64 = 1 << 62;
/// The TD cannot continue.
const FATAL: u64 = 1 << 61;

/// Class of statuses that no module returns: the kernel's wrapper made them up.
const SOFTWARE: u8 = 0xff;

/// `TDX_SEAMCALL_VMFAILINVALID`.
const VMFAILINVALID: u64 = 0x8000_ff00_ffff_0000;
/// `TDX_SEAMCALL_GP`.
const GP: u64 = 0x8000_ff00_0000_000d;
/// `TDX_SEAMCALL_UD`.
const UD: u64 = 0x8000_ff00_0000_0006;

/// Bits 47:32 of statuses that hosts get to see, name without `TDX_`, and meaning.
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

/// Names of classes (bits 47:40), for statuses that are not in the table.
const CLASSES: &[(u8, &str)] = &[
    (0x00, "how the call or the TD ended"),
    (0x01, "operands"),
    (0x02, "contention"),
    (0x03, "a physical page"),
    (0x04, "pages of the TD"),
    (0x05, "the state of the module"),
    (0x06, "the state of the TD"),
    (0x07, "a vCPU"),
    (0x08, "keys"),
    (0x09, "processor or firmware"),
    (0x0a, "memory regions of the machine"),
    (0x0b, "the S-EPT"),
    (0x0c, "metadata"),
    (0x0d, "service TDs"),
    (0x0e, "migration"),
    (0x10, "a report"),
    (0x11, "an L2 VM"),
];

/// Operands that bits 31:0 name.
const OPERANDS: &[(u32, &str)] = &[
    (0, "RAX"),
    (1, "RCX"),
    (2, "RDX"),
    (8, "R8"),
    (9, "R9"),
    (10, "R10"),
    (11, "R11"),
    (12, "R12"),
    (13, "R13"),
    (64, "ATTRIBUTES"),
    (65, "XFAM"),
    (66, "EXEC_CONTROLS"),
    (67, "EPTP_CONTROLS"),
    (68, "MAX_VCPUS"),
    (69, "CPUID_CONFIG"),
    (70, "TSC_FREQUENCY"),
    (95, "PAGE"),
    (96, "TDMR_INFO_PA"),
    (128, "TDR"),
    (129, "TDCX"),
    (130, "TDVPR"),
    (144, "TDCS"),
    (145, "TDVPS"),
    (146, "SEPT_TREE"),
    (147, "SEPT_ENTRY"),
    (168, "RTMR"),
    (169, "TD_EPOCH"),
    (172, "OP_STATE"),
    (176, "METADATA_FIELD"),
    (177, "NUM_VCPUS"),
    (184, "SYS"),
    (185, "TDMR"),
    (186, "KOT"),
    (187, "KET"),
    (188, "WBCACHE"),
];

/// Numbers of the leaves that a kernel calls (RAX of SEAMCALL), by name.
const LEAVES: &[(u64, &str)] = &[
    (0, "TDH.VP.ENTER"),
    (1, "TDH.MNG.ADDCX"),
    (2, "TDH.MEM.PAGE.ADD"),
    (3, "TDH.MEM.SEPT.ADD"),
    (4, "TDH.VP.ADDCX"),
    (5, "TDH.MEM.PAGE.RELOCATE"),
    (6, "TDH.MEM.PAGE.AUG"),
    (7, "TDH.MEM.RANGE.BLOCK"),
    (8, "TDH.MNG.KEY.CONFIG"),
    (9, "TDH.MNG.CREATE"),
    (10, "TDH.VP.CREATE"),
    (11, "TDH.MNG.RD"),
    (12, "TDH.MEM.RD"),
    (13, "TDH.MNG.WR"),
    (14, "TDH.MEM.WR"),
    (15, "TDH.MEM.PAGE.DEMOTE"),
    (16, "TDH.MR.EXTEND"),
    (17, "TDH.MR.FINALIZE"),
    (18, "TDH.VP.FLUSH"),
    (19, "TDH.MNG.VPFLUSHDONE"),
    (20, "TDH.MNG.KEY.FREEID"),
    (21, "TDH.MNG.INIT"),
    (22, "TDH.VP.INIT"),
    (23, "TDH.MEM.PAGE.PROMOTE"),
    (24, "TDH.PHYMEM.PAGE.RDMD"),
    (25, "TDH.MEM.SEPT.RD"),
    (26, "TDH.VP.RD"),
    (28, "TDH.PHYMEM.PAGE.RECLAIM"),
    (29, "TDH.MEM.PAGE.REMOVE"),
    (30, "TDH.MEM.SEPT.REMOVE"),
    (31, "TDH.SYS.KEY.CONFIG"),
    (32, "TDH.SYS.INFO"),
    (33, "TDH.SYS.INIT"),
    (34, "TDH.SYS.RD"),
    (35, "TDH.SYS.LP.INIT"),
    (36, "TDH.SYS.TDMR.INIT"),
    (37, "TDH.SYS.RDALL"),
    (38, "TDH.MEM.TRACK"),
    (39, "TDH.MEM.RANGE.UNBLOCK"),
    (40, "TDH.PHYMEM.CACHE.WB"),
    (41, "TDH.PHYMEM.PAGE.WBINVD"),
    (43, "TDH.VP.WR"),
    (44, "TDH.SYS.LP.SHUTDOWN"),
    (45, "TDH.SYS.CONFIG"),
    (52, "TDH.SYS.SHUTDOWN"),
    (53, "TDH.SYS.UPDATE"),
    (58, "TDH.PHYMEM.PAMT.ADD"),
    (59, "TDH.PHYMEM.PAMT.REMOVE"),
    (69, "TDH.SYS.DISABLE"),
    (1 << 63, "SEAMLDR.INFO"),
    ((1 << 63) + 1, "SEAMLDR.INSTALL"),
];

/// The leaf with this number; `None` where no kernel is known to call it.
pub fn leaf(number: u64) -> Option<&'static str> {
    find(LEAVES, number)
}

fn find<K: PartialEq + Copy>(table: &'static [(K, &'static str)], key: K) -> Option<&'static str> {
    table
        .iter()
        .find(|(known, _)| *known == key)
        .map(|(_, name)| *name)
}

impl SeamcallStatus {
    /// Bits 47:40: the class.
    pub const fn class(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Bits 47:32: class and number.
    const fn number(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Bits 31:0: which operand, or a level.
    const fn detail(self) -> u32 {
        self.0 as u32
    }

    /// Name of the operand, if the status has one. Operand 0 is RAX, the leaf number, which only an
    /// invalid operand can mean; in other statuses 0 means none.
    fn operand(self) -> Option<&'static str> {
        let about_operands = self.class() == 1;
        if self.detail() == 0 && !about_operands {
            return None;
        }
        find(OPERANDS, self.detail())
    }
}

impl fmt::Display for SeamcallStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            VMFAILINVALID => return f.write_str("VMFAILINVALID: no TDX module is loaded"),
            GP => return f.write_str("#GP: the processor does not let the kernel make SEAMCALLs"),
            UD => return f.write_str("#UD: VMX is off on this processor"),
            _ => {}
        }
        let known = STATUSES
            .iter()
            .find(|(number, _, _)| *number == self.number());
        match known {
            Some((_, name, says)) => {
                write!(f, "{name}")?;
                if let Some(operand) = self.operand() {
                    write!(f, ", operand {operand}")?;
                }
                write!(f, ": {says}")
            }
            None if self.class() == SOFTWARE => {
                f.write_str("a status that the kernel made up, not the TDX module")
            }
            None => {
                let about = find(CLASSES, self.class()).unwrap_or("what no known module tells of");
                write!(f, "a status about {about}")?;
                f.write_str(match self.0 {
                    status if status & FATAL != 0 => ", fatal for the TD",
                    status if status & NON_RECOVERABLE != 0 => ", which no repetition mends",
                    status if status & ERROR != 0 => ", worth another try",
                    _ => ", no error",
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0x8000_0200_0000_0000, "OPERAND_BUSY: another call holds")]
    #[case(0x8000_0200_0000_0092, "OPERAND_BUSY, operand SEPT_TREE: another")]
    #[case(0xc000_0100_0000_0000, "OPERAND_INVALID, operand RAX: ")]
    #[case(0xc000_0100_0000_0008, "OPERAND_INVALID, operand R8: ")]
    #[case(
        0xc000_0b08_0000_0001,
        "TLB_TRACKING_NOT_DONE, operand RCX: no TLB flush"
    )]
    #[case(0xc000_0505_0000_0000, "SYS_NOT_READY: the module is not initialised")]
    #[case(0xc000_0900_0000_0000, "INCORRECT_CPUID_VALUE: CPUID of a processor")]
    #[case(0x8000_ff00_ffff_0000, "VMFAILINVALID: no TDX module")]
    #[case(0x8000_ff00_0000_000d, "#GP: ")]
    #[case(0x8000_ff00_0000_0006, "#UD: ")]
    #[case(0x8000_ff00_0000_0001, "the kernel made up")]
    #[case(
        0xc000_0bfe_0000_0000,
        "a status about the S-EPT, which no repetition mends"
    )]
    #[case(0x8000_02ee_0000_0000, "a status about contention, worth another try")]
    #[case(0xe000_06ee_0000_0000, "a status about the state of the TD, fatal")]
    #[case(0xdead_beef_0000_0000, "no known module")]
    fn statuses_are_decoded(#[case] status: u64, #[case] says: &str) {
        let said = SeamcallStatus(status).to_string();
        assert!(said.contains(says), "{said}");
    }

    #[test]
    fn tables_have_no_doubles() {
        for (at, (number, name, _)) in STATUSES.iter().enumerate() {
            let others = STATUSES[at + 1..].iter();
            assert!(
                others.clone().all(|(other, _, _)| other != number),
                "{number:#x}"
            );
            assert!(others.clone().all(|(_, other, _)| other != name), "{name}");
        }
        for (at, (number, name)) in LEAVES.iter().enumerate() {
            let mut others = LEAVES[at + 1..].iter();
            assert!(
                others.all(|(other, title)| other != number && title != name),
                "{name}"
            );
        }
    }

    #[test]
    fn leaves_have_names() {
        assert_eq!(leaf(0x21), Some("TDH.SYS.INIT"));
        assert_eq!(leaf(0xf), Some("TDH.MEM.PAGE.DEMOTE"));
        assert_eq!(leaf(1000), None);
    }
}
