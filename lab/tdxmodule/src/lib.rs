//! The TDX module in software: the state of a TD's memory, in an S-EPT that only the module may
//! change.
//!
//! Invariant: this crate names the guest protocol and no other crate of the lab. Each decision that
//! KVM or the module could get wrong is a method of [`Policy`], and no code here depends on which
//! policy it has.
//!
//! | file | holds |
//! |---|---|
//! | `profile` | the versions of the module, and where they differ |
//! | `platform` | the hardware with one TD |
//! | `physical_memory`, `memory`, `frame_allocator` | machine memory, one in process, its free frames |
//! | `entry`, `sept`, `walk` | an S-EPT entry, the radix tree, the walk through it |
//! | `pamt` | type of each page of machine memory |
//! | `lock` | locks held by other calls |
//! | `state` | the TD's operation and life cycle states |
//! | `seamcall`, `calls` | SEAMCALLs by registers, and with typed operands |
//! | `dispatch` | the host's side: the checks of all SEAMCALLs on a TD's memory, in order |
//! | `page` | PAGE.ADD, PAGE.AUG, PAGE.REMOVE, PAGE.RELOCATE |
//! | `table` | SEPT.ADD, SEPT.REMOVE, SEPT.RD, PAGE.DEMOTE, PAGE.PROMOTE |
//! | `range` | RANGE.BLOCK, RANGE.UNBLOCK, TRACK |
//! | `phymem` | PHYMEM.PAMT.ADD, PHYMEM.PAMT.REMOVE |
//! | `accept` | TDG.MEM.PAGE.ACCEPT |
//! | `tdcall` | the rest of the guest's side, and plain accesses |
//! | `exit` | their results |
//! | `stepping`, `vp_enter` | the filter against zero-stepping |
//! | `status` | completion status codes |
//! | `policy`, `decision` | decisions that a fault can change, and what they are about |
//! | `watched` | whether it has changed one |
//!
//! Source of the rules: the public module, 1.5.01 and 1.5.25, `src/vmm_dispatcher/api_calls` and
//! `src/td_dispatcher`. `tests/vectors` compares it with recorded answers of those.

pub mod memory;
pub mod policy;

mod accept;
mod calls;
mod decision;
mod dispatch;
mod entry;
mod exit;
mod frame_allocator;
mod lock;
mod page;
mod pamt;
mod phymem;
mod physical_memory;
mod platform;
mod profile;
mod range;
mod seamcall;
mod sept;
mod sparse_page;
mod state;
mod status;
mod stepping;
mod table;
mod tdcall;
mod vp_enter;
mod walk;
mod watched;

#[cfg(test)]
mod tests;

pub use self::entry::{Level, SeptEntry, State};
pub use self::exit::{Eeq, Exit, Gprs, Outcome, VeInfo, Vmcall};
pub use self::frame_allocator::Pool;
pub use self::lock::{Hold, Lock};
pub use self::physical_memory::{Pfn, PhysicalMemory};
pub use self::platform::{Done, Platform, SHARED_BIT, TdParams};
pub use self::policy::{Faithful, Policy, Watched};
pub use self::profile::{ModuleVersion, NoSuchModule};
pub use self::seamcall::{Seamcall, SeamcallRegs};
pub use self::sparse_page::{SparsePage, WORDS};
pub use self::state::{Lifecycle, OpState};
pub use self::status::Status;
pub use self::vp_enter::Entry;
