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
//! | `oracle` | says what a step must show |
//! | `rejudge`, `read_elsewhere` | judge a recorded run again, without a host |
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
mod recorded_reads;
mod rejudge;
mod segments;
mod splits;
#[cfg(test)]
mod tests;

pub use findings::{Evidence, branches};
pub use kernel_log::{AllowList, AllowListError};
pub use oracle::Oracle;
pub use rejudge::{RejudgeError, rejudge};

use tdxlab_journal::{Judgement, Sample};

use findings::Findings;

/// Judges the steps of one plan, in order.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    allowed_log: AllowList,
    /// Populated pages beyond the prediction that an earlier step has answered for.
    populated_drift: i64,
}

impl Judge {
    /// A judge for a fresh plan, who lets these kernel log lines pass.
    pub fn new(allowed_log: AllowList) -> Judge {
        Judge {
            allowed_log,
            populated_drift: 0,
        }
    }

    /// Judges one step.
    pub fn step(&mut self, evidence: &Evidence<'_>) -> Judgement {
        let mut findings = Findings {
            heard: Vec::with_capacity(8),
            ..Findings::default()
        };
        host::life(evidence, &mut findings);
        counters::pages(evidence, &mut findings);
        self.populated_drift = counters::populated(evidence, self.populated_drift, &mut findings);
        counters::exits(evidence, &mut findings);
        counters::entries(evidence, &mut findings);
        splits::events(evidence, &mut findings);
        guest::plausible(evidence, &mut findings);
        guest::statuses(evidence, &mut findings);
        guest::probes(evidence, &mut findings);
        guest::map_gpa(evidence, &mut findings);
        access::outcomes(evidence, &mut findings);
        host::errnos(evidence, &mut findings);
        content::reads(evidence, &mut findings);
        kernel_log::lines(evidence.after, &self.allowed_log, &mut findings);
        findings.close()
    }

    /// Judges what the kernel said while nothing was asked of it, such as during boot.
    pub fn quiet_time(&self, sample: &Sample) -> Judgement {
        let mut findings = Findings::default();
        kernel_log::lines(sample, &self.allowed_log, &mut findings);
        findings.close()
    }
}
