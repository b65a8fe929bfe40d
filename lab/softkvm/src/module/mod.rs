//! The TDX module: what the TD's memory is, kept in an S-EPT that only the module may change.
//!
//! | part | what it holds |
//! |---|---|
//! | [`profile`] | the versions of the module, and where they differ |
//! | [`platform`] | the hardware with one TD |
//! | [`sept`], [`walk`] | the radix tree and the walk through it |
//! | [`pamt`] | what each page of machine memory is |
//! | [`lock`] | locks that others hold |
//! | [`state`] | the TD's operation and life cycle states |
//! | [`seamcall`], [`calls`] | SEAMCALLs by registers, and with typed operands |
//! | [`dispatch`] | the host's side: what all SEAMCALLs on a TD's memory check, and in which order |
//! | [`page`] | PAGE.ADD, PAGE.AUG, PAGE.REMOVE, PAGE.RELOCATE |
//! | [`table`] | SEPT.ADD, SEPT.REMOVE, SEPT.RD, PAGE.DEMOTE, PAGE.PROMOTE |
//! | [`range`] | RANGE.BLOCK, RANGE.UNBLOCK, TRACK |
//! | [`memory`] | PHYMEM.PAMT.ADD, PHYMEM.PAMT.REMOVE |
//! | [`accept`] | TDG.MEM.PAGE.ACCEPT |
//! | [`tdcall`] | the rest of the guest's side, and plain accesses |
//! | [`exit`] | how those end |
//! | [`stepping`], [`vp_enter`] | the filter against zero-stepping |
//! | [`status`] | completion status codes |
//!
//! Source of the rules: the public module, 1.5.01 and 1.5.25, `src/vmm_dispatcher/api_calls` and
//! `src/td_dispatcher`. `tests/vectors.rs` holds it against what those did when they were run.

mod accept;
mod calls;
mod dispatch;
mod exit;
mod lock;
mod memory;
mod page;
mod pamt;
mod platform;
mod profile;
mod range;
pub(crate) mod seamcall;
mod sept;
mod state;
pub(crate) mod status;
mod stepping;
mod table;
mod tdcall;
mod vp_enter;
mod walk;

#[cfg(test)]
mod tests;

pub use self::exit::{Eeq, Exit, Gprs, Outcome, VeInfo, Vmcall};
pub use self::lock::{Hold, Lock};
pub use self::platform::{Platform, SHARED_BIT, TdParams};
pub use self::profile::{ModuleVersion, NoSuchModule};
pub use self::seamcall::{Seamcall, SeamcallRegs};
pub use self::state::{Lifecycle, OpState};
pub use self::status::Status;
pub use self::vp_enter::Entry;
