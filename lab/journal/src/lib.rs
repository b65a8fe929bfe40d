//! What was seen and what was concluded, and the files that hold it.
//!
//! Invariant: everything in here can be written to a file and read back. This crate names plans
//! and the guest protocol; it talks to no host and judges nothing.
//!
//! | file | holds |
//! |---|---|
//! | `observed` | what came back from an operation |
//! | `sample` | what every witness said |
//! | `content` | what guest memory holds |
//! | `verdict` | verdicts, findings, judgements |
//! | `journal` | `journal.jsonl`, one event a line, as it happens; `recording` reads it back |
//! | `folder` | where a run's files go |
//! | `interleaving` | the order in which racing operations took turns |
//! | `shard` | which part of a run a machine takes |
//! | `klog`, `seamcall` | what lines of the kernel log say |
//! | `replay` | a plan to run again, as it was run |

#![warn(missing_docs)]

pub mod content;
pub mod folder;
mod inside;
pub mod interleaving;
pub mod journal;
pub mod klog;
mod observed;
pub mod reader;
pub mod replay;
mod sample;
pub mod seamcall;
pub mod shard;
pub mod verdict;

pub use content::{ContentSpan, PageClass};
pub use folder::{FolderError, RunFolder};
pub use journal::{Journal, JournalError, PlanId};
pub use observed::{
    Death, Killer, ONE_SHOT, Observed, REHEARSAL, REHEARSAL_FACT, REJUDGED_FACT, after_rehearsal,
};
pub use reader::JournalReader;
pub use sample::{Ending, ExitCounters, PageCounters, Reading, Sample, SplitEvent};
pub use shard::{Shard, ShardError};
pub use verdict::{Finding, FindingKind, Judgement, MissingWitness, Verdict, Witness};
