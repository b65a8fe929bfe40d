//! Executes plans, judges every step, keeps the journal.
//!
//! | file | what it does |
//! |---|---|
//! | `conduct` | a whole run: folder, journal, plans, report |
//! | `pool` | takes plan after plan with a few workers |
//! | `executor` | boots a guest for a plan, does its steps, leaves evidence |
//! | `control` | shows that the counters count, before anything is judged |
//! | `judge` | compares a step with its prediction, witness by witness |
//! | `guide` | somebody who looks on between steps |
//! | `confirm` | runs a plan that failed again |
//! | `trial` | runs a plan and says what is said of it, without any files |
//! | `shard`, `resume` | a part of a run, and the rest of one |
//! | `journal` | writes everything down as it happens; `recording` reads it back |
//! | `scribe` | whoever else takes it down |
//! | `rejudge`, `read_elsewhere` | judge a recorded run again, without a host |
//! | `folder` | where all that goes |

pub mod conduct;
mod confirm;
pub mod control;
pub mod executor;
pub mod folder;
pub mod guide;
pub mod journal;
pub mod judge;
pub mod map;
pub mod names;
pub mod needs;
pub mod oracle;
pub mod pool;
mod read_elsewhere;
pub mod recording;
pub mod rejudge;
pub mod resume;
mod scribe;
pub mod shard;
pub mod trial;
pub mod verdict;

#[cfg(test)]
mod tests;

pub use conduct::{Conduct, ConductError, Conducted};
pub use executor::{Item, Keep, Lab, MakeOracle, Outcome, Silence, Watcher};
pub use folder::{FolderError, RunFolder};
pub use guide::{Guide, Stand, Unguided};
pub use journal::{Journal, JournalError, PlanId};
pub use judge::{AllowList, ContentSpan, Evidence, Judge, PageClass};
pub use map::MemoryMap;
pub use needs::Offer;
pub use oracle::Oracle;
pub use pool::{Drive, PANICKED};
pub use recording::Recording;
pub use rejudge::{RejudgeError, rejudge};
pub use resume::{Progress, ResumeError};
pub use scribe::{Scribe, Tried};
pub use shard::{Shard, ShardError};
pub use trial::Trial;
pub use verdict::{Finding, FindingKind, Judgement, MissingWitness, Verdict, Witness};
