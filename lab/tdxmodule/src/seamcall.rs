//! A SEAMCALL, its registers, and the description of an entry in them.
//!
//! Source: `set_arch_septe_details_in_vmm_regs()`.

use std::ops::RangeInclusive;

use tdxlab_protocol::addr::Gpa;

use super::sept::Found;
use super::status::Status;
use crate::entry::{Level, State};

/// A SEAMCALL, to count or to fail it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seamcall {
    /// TDH.MEM.SEPT.ADD.
    SeptAdd,
    /// TDH.MEM.SEPT.REMOVE.
    SeptRemove,
    /// TDH.MEM.SEPT.RD.
    SeptRead,
    /// TDH.MEM.PAGE.ADD.
    PageAdd,
    /// TDH.MEM.PAGE.AUG.
    PageAug,
    /// TDH.MEM.RANGE.BLOCK.
    RangeBlock,
    /// TDH.MEM.RANGE.UNBLOCK.
    RangeUnblock,
    /// TDH.MEM.TRACK.
    Track,
    /// TDH.MEM.PAGE.DEMOTE.
    PageDemote,
    /// TDH.MEM.PAGE.PROMOTE.
    PagePromote,
    /// TDH.MEM.PAGE.REMOVE.
    PageRemove,
    /// TDH.MEM.PAGE.RELOCATE.
    PageRelocate,
    /// TDH.PHYMEM.PAMT.ADD.
    PamtAdd,
    /// TDH.PHYMEM.PAMT.REMOVE.
    PamtRemove,
}

impl Seamcall {
    /// The name that KVM prints.
    pub const fn name(self) -> &'static str {
        match self {
            Seamcall::SeptAdd => "TDH_MEM_SEPT_ADD",
            Seamcall::SeptRemove => "TDH_MEM_SEPT_REMOVE",
            Seamcall::SeptRead => "TDH_MEM_SEPT_RD",
            Seamcall::PageAdd => "TDH_MEM_PAGE_ADD",
            Seamcall::PageAug => "TDH_MEM_PAGE_AUG",
            Seamcall::RangeBlock => "TDH_MEM_RANGE_BLOCK",
            Seamcall::RangeUnblock => "TDH_MEM_RANGE_UNBLOCK",
            Seamcall::Track => "TDH_MEM_TRACK",
            Seamcall::PageDemote => "TDH_MEM_PAGE_DEMOTE",
            Seamcall::PagePromote => "TDH_MEM_PAGE_PROMOTE",
            Seamcall::PageRemove => "TDH_MEM_PAGE_REMOVE",
            Seamcall::PageRelocate => "TDH_MEM_PAGE_RELOCATE",
            Seamcall::PamtAdd => "TDH_PHYMEM_PAMT_ADD",
            Seamcall::PamtRemove => "TDH_PHYMEM_PAMT_REMOVE",
        }
    }
}

/// Registers of a SEAMCALL, as far as these calls read or write them. RDX names the TD, and there is
/// one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeamcallRegs {
    /// Input: address and level. Output: depends on the call.
    pub rcx: u64,
    /// Input: the TDR's page; for PAMT.ADD the first page. Output: depends on the call.
    pub rdx: u64,
    /// Page that the call is given; for PAMT.ADD the second page.
    pub r8: u64,
    /// First page for PAMT.
    pub r12: u64,
    /// Second page for PAMT.
    pub r13: u64,
}

/// RCX taken apart.
///
/// ```text
/// bits 2:0     level
/// bits 11:3    zero
/// bits 51:12   address, aligned to the level
/// bits 63:52   zero
/// ```
#[derive(Clone, Copy, Debug)]
pub(super) struct PageInfo {
    pub(super) gpa: Gpa,
    pub(super) level: Level,
}

impl PageInfo {
    /// `None` if it is invalid, or of another level.
    pub(super) fn parse(rcx: u64, levels: RangeInclusive<Level>) -> Option<PageInfo> {
        let level = Level::from_tdx(rcx & 0b111).filter(|level| levels.contains(level))?;
        let gpa = Gpa::new(rcx & !0b111);
        let reserved = rcx & 0xff8 != 0 || rcx >> 52 != 0;
        (!reserved && level.base(gpa) == gpa).then_some(PageInfo { gpa, level })
    }
}

/// What RCX and RDX say of an entry: its architectural image, then level and state.
fn details(found: &Found) -> (u64, u64) {
    const SUPPRESS_VE: u64 = 1 << 63;
    const LEAF: u64 = 0xf0;
    const PERMISSIONS: u64 = 0x407;
    let state = found.state();
    // The count of an interrupted ACCEPT shows in the address.
    let address = found.entry.frame().address() | (found.entry.progress() << 12);
    let image = match state {
        State::Free => SUPPRESS_VE,
        State::Removed | State::NonLeafBlocked => 0,
        State::NonLeaf => PERMISSIONS,
        State::Mapped => SUPPRESS_VE | address | LEAF | PERMISSIONS,
        State::Blocked | State::Pending | State::PendingBlocked => SUPPRESS_VE | address | LEAF,
    };
    (image, (state.code() << 8) | found.level.tdx())
}

/// A rejection that describes the offending entry.
pub(super) fn told(found: &Found, status: Status, regs: &mut SeamcallRegs) -> Status {
    (regs.rcx, regs.rdx) = details(found);
    status.rcx()
}

/// Puts an entry's details into the registers.
pub(super) fn tell(found: &Found, regs: &mut SeamcallRegs) {
    (regs.rcx, regs.rdx) = details(found);
}
