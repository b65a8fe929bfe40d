//! Results of a TDCALL or an access: completed, #VE, or an exit to KVM.

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
#[cfg(doc)]
use tdxlab_protocol::tdcall::reg;

use super::status::Status;
use crate::entry::{Level, SeptEntry};

/// General registers in the order of [`reg`].
pub type Gprs = [u64; 16];

/// How a TDCALL or an access went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Over; this is RAX (of no meaning for an access).
    Complete(Status),
    /// Interrupted with progress kept: it runs again.
    Restart,
    /// #VE for the guest.
    Ve,
    /// A #VE while the information of the one before was not fetched: #DF, and the guest is lost.
    DoubleFault,
    /// The vCPU leaves the TD; the instruction runs again at the next entry.
    Exit(Exit),
}

/// Why a vCPU left the TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// EPT violation.
    EptViolation {
        /// Where: the page, without the offset in it.
        gpa: Gpa,
        /// Private or shared half.
        side: Side,
        /// Exit qualification: [`Exit::READ`] or [`Exit::WRITE`].
        qualification: u64,
        /// Extended exit qualification.
        eeq: Eeq,
    },
    /// TDG.VP.VMCALL; the arguments are in the registers.
    Vmcall(Vmcall),
}

impl Exit {
    /// Exit qualification of a read.
    pub const READ: u64 = 0b01;
    /// Exit qualification of a write.
    pub const WRITE: u64 = 0b10;

    pub(super) const fn qualification(write: bool) -> u64 {
        match write {
            true => Exit::WRITE,
            false => Exit::READ,
        }
    }
}

/// A hypercall with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vmcall {
    /// R10: 0 for the calls of the GHCI.
    pub kind: u64,
    /// R11: the sub-function.
    pub function: u64,
    /// R12..R15.
    pub args: [u64; 4],
}

/// Extended exit qualification of an EPT violation.
///
/// ```text
/// bits 3:0     type: 0 none, 1 ACCEPT, 6 access to a pending page
/// bits 34:32   requested level
/// bits 37:35   level where the walk ended
/// bits 45:38   S-EPT state code there
/// bit 46       leaf
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eeq(pub u64);

impl Eeq {
    const TYPE_ACCEPT: u64 = 1;
    const TYPE_PENDING: u64 = 6;

    /// A plain access.
    pub const NONE: Eeq = Eeq(0);
    /// An access to a pending page with SEPT_VE_DISABLE set.
    pub const PENDING: Eeq = Eeq(Eeq::TYPE_PENDING);

    pub(super) fn accept(requested: PageLevel, level: Level, entry: SeptEntry) -> Eeq {
        let leaf = u64::from(entry.is_leaf(level));
        Eeq(Eeq::TYPE_ACCEPT
            | (u64::from(requested.tdx()) << 32)
            | (level.tdx() << 35)
            | (entry.state(level).code() << 38)
            | (leaf << 46))
    }

    /// The level of the ACCEPT that caused the exit; `None` for other exits.
    pub fn accept_level(self) -> Option<PageLevel> {
        if self.0 & 0xf == Eeq::TYPE_ACCEPT {
            PageLevel::from_tdx(((self.0 >> 32) & 0b111) as u8)
        } else {
            None
        }
    }

    /// Whether the exit is about a pending page.
    pub fn is_pending(self) -> bool {
        self.0 & 0xf == Eeq::TYPE_PENDING
    }
}

/// Result of TDG.VP.VEINFO.GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VeInfo {
    /// VMX exit reason.
    pub reason: u32,
    /// VMX exit qualification.
    pub qualification: u64,
    /// Linear address.
    pub gla: u64,
    /// Guest-physical address, with its offset in the page.
    pub gpa: u64,
}
