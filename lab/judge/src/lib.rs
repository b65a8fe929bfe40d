//! One step judged: what had to happen against what every witness says.
//!
//! Each witness is compared with the prediction by a function of its own, in a file of its own;
//! witnesses of the same thing are compared with each other as well.
//!
//! Invariant: nothing here talks to a host, so a recorded step can be judged again from its journal.
//!
//! | file | what it does |
//! |---|---|
//! | `findings` | collects findings, who spoke, and who could not |
//! | `control` | shows that the counters count, before anything is judged |
//! | `plan_judge` | one plan from the positive control to its last step |
//! | `oracle` | says what a step must show |
//! | `rejudge`, `read_elsewhere` | judge a recorded run again, without a host |
//! | `step` | asks every witness about one step |
//! | the others | one witness each |

mod access;
mod content;
pub mod control;
mod counters;
mod findings;
mod guest;
mod host;
mod kernel_log;
pub mod oracle;
mod plan_judge;
mod recorded_reads;
mod rejudge;
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
