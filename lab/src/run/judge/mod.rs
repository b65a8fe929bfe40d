//! One step judged: what had to happen against what every witness says.
//!
//! Each witness is compared with the prediction by a function of its own, in a file of its own;
//! witnesses of the same thing are compared with each other as well. Nothing here talks to a host,
//! so a recorded step can be judged again from its journal.

mod access;
mod content;
mod counters;
mod guest;
mod host;
mod kernel_log;
mod splits;
mod stretch;
#[cfg(test)]
mod tests;

pub(crate) use content::wanted as wanted_content;
pub use content::{ContentSpan, PageClass};
pub(in crate::run) use counters::disagreement;
pub use kernel_log::{AllowList, AllowListError};

use tdxlab_protocol::message::Run;

use crate::host::{Death, Observed};
use crate::plan::{Action, Op};
use crate::predict::Expectation;
use crate::run::verdict::{Finding, FindingKind, Judgement, MissingWitness, Verdict, Witness};
use crate::witness::{Reading, Sample};

/// All that is known about one step.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What was done.
    pub action: &'a Action,
    /// What had to happen.
    pub expected: &'a Expectation,
    /// What came back: one list per branch, one branch where the step has one operation.
    pub observed: &'a [Vec<Observed>],
    /// Witnesses before the step.
    pub before: &'a Sample,
    /// Witnesses after it.
    pub after: &'a Sample,
}

impl<'a> Evidence<'a> {
    /// Each operation with what came back from it, branch after branch. Operations that never ran
    /// because the TD died have no entry.
    fn pairs(&self) -> impl Iterator<Item = (&'a Op, &'a Observed)> {
        let observed = self.observed;
        branches(self.action)
            .zip(observed)
            .flat_map(|(ops, results)| ops.iter().zip(results))
    }

    /// What the guest reported, in order.
    fn runs(&self) -> impl Iterator<Item = &'a Run> {
        self.pairs().flat_map(|(_, observed)| &observed.runs)
    }

    /// How the TD died, if it did.
    fn death(&self) -> Option<&'a Death> {
        self.observed
            .iter()
            .flatten()
            .find_map(|observed| observed.death.as_ref())
    }
}

/// The operations of a step, branch by branch.
pub(crate) fn branches(action: &Action) -> impl Iterator<Item = &[Op]> {
    let (one, many) = match action {
        Action::One(op) => (Some(std::slice::from_ref(op)), &[][..]),
        Action::Parallel(branches) => (None, branches.as_slice()),
    };
    let many = many.iter().map(|branch| branch.0.as_slice());
    one.into_iter().chain(many)
}

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
        let mut court = Court {
            heard: Vec::with_capacity(8),
            ..Court::default()
        };
        host::life(evidence, &mut court);
        counters::pages(evidence, &mut court);
        self.populated_drift = counters::populated(evidence, self.populated_drift, &mut court);
        counters::exits(evidence, &mut court);
        counters::entries(evidence, &mut court);
        splits::events(evidence, &mut court);
        guest::plausible(evidence, &mut court);
        guest::statuses(evidence, &mut court);
        guest::probes(evidence, &mut court);
        guest::map_gpa(evidence, &mut court);
        access::outcomes(evidence, &mut court);
        host::errnos(evidence, &mut court);
        content::reads(evidence, &mut court);
        kernel_log::lines(evidence.after, &self.allowed_log, &mut court);
        court.close()
    }

    /// Judges what the kernel said while nothing was asked of it, such as during boot.
    pub fn quiet_time(&self, sample: &Sample) -> Judgement {
        let mut court = Court::default();
        kernel_log::lines(sample, &self.allowed_log, &mut court);
        court.close()
    }
}

/// Where witnesses are heard: collects findings, who spoke, and who could not.
#[derive(Debug, Default)]
struct Court {
    findings: Vec<Finding>,
    omitted: u64,
    heard: Vec<Witness>,
    missing: Vec<MissingWitness>,
    content: Vec<ContentSpan>,
    spans_omitted: u64,
}

impl Court {
    fn find(&mut self, finding: Finding) {
        if self.findings.len() < Judgement::MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.omitted += 1;
        }
    }

    fn hear(&mut self, witness: Witness) {
        if !self.heard.contains(&witness) {
            self.heard.push(witness);
        }
    }

    fn miss(&mut self, witness: Witness, reason: impl Into<String>) {
        if !self
            .missing
            .iter()
            .any(|missing| missing.witness == witness)
        {
            self.missing.push(MissingWitness {
                witness,
                reason: reason.into(),
            });
        }
    }

    /// The values before and after, if both could be read; otherwise notes who is missing.
    fn both<'a, T>(
        &mut self,
        witness: Witness,
        before: &'a Reading<T>,
        after: &'a Reading<T>,
    ) -> Option<(&'a T, &'a T)> {
        match (before, after) {
            (Reading::Read(before), Reading::Read(after)) => {
                self.hear(witness);
                Some((before, after))
            }
            (_, Reading::Spoilt { reason }) | (Reading::Spoilt { reason }, _) => {
                self.find(spoilt(witness, reason));
                None
            }
            (_, Reading::Missing { reason }) => {
                self.miss(witness, reason);
                None
            }
            (Reading::Missing { reason }, _) => {
                self.miss(witness, format!("no value before the step: {reason}"));
                None
            }
        }
    }

    /// The value, if it could be read; otherwise notes who is missing.
    fn one<'a, T>(&mut self, witness: Witness, reading: &'a Reading<T>) -> Option<&'a T> {
        match reading {
            Reading::Read(value) => {
                self.hear(witness);
                Some(value)
            }
            Reading::Missing { reason } => {
                self.miss(witness, reason);
                None
            }
            Reading::Spoilt { reason } => {
                self.find(spoilt(witness, reason));
                None
            }
        }
    }

    /// What cannot be keeps the lab from judging, unless something else is plainly wrong. A silent
    /// kernel log proves nothing, so a step only it was heard about was not judged.
    fn close(self) -> Judgement {
        let has = |kinds: &[FindingKind]| self.findings.iter().any(|f| kinds.contains(&f.kind));
        let judged = self.heard.iter().any(|w| *w != Witness::KernelLog);
        let verdict = if has(&[FindingKind::Impossible]) {
            Verdict::Error
        } else if has(&[FindingKind::Wrong, FindingKind::Disagreement]) {
            Verdict::Fail
        } else if judged {
            Verdict::Pass
        } else {
            Verdict::Error
        };
        Judgement {
            verdict,
            findings: self.findings,
            findings_omitted: self.omitted,
            heard: self.heard,
            missing: self.missing,
            content: self.content,
            spans_omitted: self.spans_omitted,
        }
    }
}

/// A witness that has lost some of what it saw.
fn spoilt(witness: Witness, reason: &str) -> Finding {
    Finding::impossible(witness, "all that there was", reason)
}
