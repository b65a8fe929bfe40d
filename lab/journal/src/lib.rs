//! Observations and conclusions, and the files that hold them.
//!
//! Invariant: everything in here can be written to a file and read back. This crate names plans
//! and the guest protocol; it talks to no host and judges nothing.
//!
//! | file | holds |
//! |---|---|
//! | `observed` | results of an operation |
//! | `moved` | observations of a plan in a shared guest, at its own addresses |
//! | `cost` | what an operation cost besides |
//! | `sample` | readings of all witnesses |
//! | `boot` | what a Linux guest did to its memory while it booted |
//! | `content` | content of guest memory |
//! | `verdict` | verdicts, findings, judgements |
//! | `event` | what happens in a run |
//! | `journal` | `journal.jsonl`, one event per line, as it happens; `reader` reads it back |
//! | `folder` | the folder of a run |
//! | `as_text` | paths and words that need not be UTF-8, in a journal |
//! | `interleaving` | the order of turns in a race |
//! | `shard` | the part of a run for one machine |
//! | `klog`, `seamcall`, `seamldr` | decoding of kernel log lines |
//! | `replay` | a plan with all that is needed to repeat it |

#![warn(missing_docs)]

pub mod as_text;
pub mod boot;
pub mod content;
mod cost;
mod event;
pub mod folder;
pub mod input;
mod inside;
pub mod interleaving;
pub mod journal;
pub mod klog;
mod moved;
mod observed;
pub mod reader;
pub mod replay;
mod sample;
pub mod seamcall;
pub mod seamldr;
pub mod shard;
pub mod verdict;

pub use content::{ContentSpan, PageClass};
pub use cost::Cost;
pub use folder::{FolderError, RunFolder};
pub use journal::{Journal, JournalError, PlanId, SharedGuest};
pub use observed::{
    Death, Killer, MODULE_FACT, ONE_SHOT, Observed, REHEARSAL, REHEARSAL_FACT, REJUDGED_FACT,
    after_rehearsal,
};
pub use reader::JournalReader;
pub use sample::{Ending, ExitCounters, PageCounters, Reading, Sample, SplitEvent, Taken};
pub use shard::{Shard, ShardError};
pub use verdict::{Finding, FindingKind, Judgement, MissingWitness, Verdict, Witness};

/// Whether a number is zero: journals and reports leave out counts that are.
pub fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}
