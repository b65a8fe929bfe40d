//! Names of SEAMCALL leaves and completion statuses, which kernel logs show as numbers.
//!
//! Sources: [`tdx_status`] for statuses, `arch/x86/include/asm/tdx.h` for what the kernel's own wrapper
//! returns, and `arch/x86/virt/vmx/tdx/tdx.h` for the numbers of leaves.

use std::fmt;

use tdxlab_plan::tdx_status;

use crate::seamldr::LoaderStatus;

/// RAX of a failed SEAMCALL, by who answered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// The TDX module, or the kernel in its place.
    Module(SeamcallStatus),
    /// The P-SEAMLDR.
    Loader(LoaderStatus),
}

impl CallStatus {
    /// That of a failed call. No error of the module has number 0, which is success; all of the
    /// P-SEAMLDR's have.
    pub const fn of(status: u64) -> CallStatus {
        match status & ERROR != 0 && (status >> 32) as u16 == 0 {
            true => CallStatus::Loader(LoaderStatus(status)),
            false => CallStatus::Module(SeamcallStatus(status)),
        }
    }
}

impl fmt::Display for CallStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallStatus::Module(status) => status.fmt(f),
            CallStatus::Loader(status) => status.fmt(f),
        }
    }
}

/// RAX of a SEAMCALL that the TDX module failed, displayed with its name and meaning.
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

/// Bit of the leaves that the P-SEAMLDR serves.
const LOADER_LEAF: u64 = 1 << 63;

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
    (LOADER_LEAF, "SEAMLDR.INFO"),
    (LOADER_LEAF + 1, "SEAMLDR.INSTALL"),
    (LOADER_LEAF + 2, "SEAMLDR.SHUTDOWN"),
    (LOADER_LEAF + 3, "SEAMLDR.SEAMINFO"),
    (LOADER_LEAF + 4, "SEAMLDR.CLEANUP"),
];

/// The leaf with this number, in words if no kernel is known to call it.
pub fn leaf(number: u64) -> String {
    match find(LEAVES, number) {
        Some(name) => name.to_owned(),
        None if number & LOADER_LEAF != 0 => {
            format!("SEAMLDR call {:#x}", number & !LOADER_LEAF)
        }
        None => format!("SEAMCALL {number:#x}"),
    }
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
        match tdx_status::find(self.0) {
            Some((name, says)) => {
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
    fn what_the_loader_says_is_not_read_as_the_modules() {
        let said = |status| CallStatus::of(status).to_string();
        assert!(said(0x8000_0000_0001_0002).starts_with("ENOMEM: the new module"));
        assert!(said(0x8000_0000_0000_0000).starts_with("EBADPARAM: "));
        assert!(said(0x8000_0000_0000_7777).contains("no known P-SEAMLDR"));
        assert!(said(0x8000_0200_0000_0000).starts_with("OPERAND_BUSY: "));
        assert!(said(0x8000_ff00_0000_000d).starts_with("#GP: "));
    }

    #[test]
    fn tables_have_no_doubles() {
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
        assert_eq!(leaf(0x21), "TDH.SYS.INIT");
        assert_eq!(leaf(0xf), "TDH.MEM.PAGE.DEMOTE");
        assert_eq!(leaf(1000), "SEAMCALL 0x3e8");
        assert_eq!(leaf(LOADER_LEAF + 9), "SEAMLDR call 0x9");
    }
}
