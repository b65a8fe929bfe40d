//! A plan: a scenario made fully concrete, and what each of its steps must show.
//!
//! Everything random has been drawn, every `matrix` and `repeat` expanded, every address turned
//! into a GPA. A plan does not depend on the design under test; [`Expectation`]s do.
//!
//! Invariant: pure data. This crate names the guest protocol and nothing else, and does no I/O.
//!
//! | file | holds |
//! |---|---|
//! | `design`, `converts` | where designs differ |
//! | `plan`, `plan_name` | plans, guests, steps; names of plans |
//! | `op` | operations of the guest, the host, the whole VM |
//! | `limits`, `check` | bounds and validity of a plan from any source |
//! | `host` | kinds of hosts and their properties |
//! | `needs` | whether host and design offer what a plan needs |
//! | `expect` | expectations written by the scenario's author |
//! | `expectation` | the predictor's expectation of a step |
//! | `linux` | plans for a Linux guest |
//! | `map` | the state of guest memory |
//! | `range_set` | sets of addresses |
//! | `repeat` | scenarios that a run does several times |
//! | `tdx_status` | statuses of the TDX module, and what they mean |
//! | `names`, `text` | statuses, operations and expectations in words |

#![warn(missing_docs)]

mod check;
mod conversion_holes;
mod converts;
mod design;
mod expect;
mod expectation;
mod host;
pub mod limits;
pub mod linux;
mod map;
pub mod names;
pub mod needs;
mod op;
pub mod op_words;
mod plan;
pub mod plan_name;
mod range_set;
pub mod repeat;
mod tdx_module;
pub mod tdx_status;
pub mod text;

pub use check::{WrongPlan, check};
pub use conversion_holes::ConversionHoles;
pub use converts::Converts;
pub use design::{Design, RangeSplit, Unmet};
pub use expect::{Expect, ExpectErrno, ExpectMapGpa, ExpectStatus, ExpectTd};
pub use expectation::{
    AccessOutcome, Content, Expectation, Interval, LoggedPages, PageDelta, ProbeRun, ReadPlan,
    SplitLeaf, StatusRun,
};
pub use host::{HostKind, HostProfile, Races};
pub use map::{MemoryMap, RegionState};
pub use op::{Action, Branch, Gone, GuestOp, HostOp, Kind, Op, Size, SlotChange, VmOp, VmmAnswer};
pub use plan::{
    Backing, CONTROL_PAGE, Guest, HIGH_BASE, LOW_BASE, Needs, Plan, Slot, Step, VERSION,
};
pub use range_set::RangeSet;
pub use repeat::Repeat;
pub use tdx_module::TdxModule;
pub use tdxlab_protocol::addr;
pub use tdxlab_protocol::message::{AccessKind, OnVe, Side, VcpuId};
pub use tdxlab_protocol::pattern::Generation;
