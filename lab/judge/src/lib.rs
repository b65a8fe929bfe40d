//! Judges a step: compares the prediction with every witness.
//!
//! Each witness has a function and a file that compare it with the prediction; witnesses of the
//! same event are also compared with each other.
//!
//! Invariant: nothing here talks to a host, so a recorded step can be judged again from its journal.
//!
//! | file | what it does |
//! |---|---|
//! | `findings` | collects findings, and which witnesses were read or missing |
//! | `control` | checks that the counters move, before they are used |
//! | `plan_judge` | judges one plan from the positive control to its last step |
//! | `oracle` | predicts a step |
//! | `rejudge`, `recorded_case`, `recorded_reads` | judge a recorded run again, without a host |
//! | `step` | compares every witness of one step |
//! | the others | one witness each |

mod access;
mod content;
pub mod control;
mod counters;
mod dirty_log;
mod findings;
mod guest;
mod host;
mod kernel_log;
pub mod oracle;
mod plan_judge;
mod recorded_case;
mod recorded_reads;
mod rejudge;
mod remains;
mod segments;
mod splits;
mod step;
#[cfg(test)]
mod tests;

pub use findings::{Evidence, branches};
pub use kernel_log::{AllowList, AllowListError};
pub use oracle::{HostOracle, Oracle};
pub use plan_judge::PlanJudge;
pub use rejudge::{RejudgeError, rejudge};
pub use step::Judge;
