//! Evidence about one step, and the collection of findings.

use tdxlab_journal::{
    ContentSpan, Death, Finding, Judgement, MissingWitness, Observed, Reading, Sample, Verdict,
    Witness,
};
use tdxlab_plan::{Action, Expectation, Op};
use tdxlab_protocol::message::Run;

/// All that is known about one step.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The action of the step.
    pub action: &'a Action,
    /// The prediction.
    pub expected: &'a Expectation,
    /// Observations: one list per branch, one branch if the step has one operation.
    pub observed: &'a [Vec<Observed>],
    /// Witnesses before the step.
    pub before: &'a Sample,
    /// Witnesses after the step.
    pub after: &'a Sample,
}

impl<'a> Evidence<'a> {
    /// Each operation with its observation, branch after branch. Operations that never ran because
    /// the TD died have no entry.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'a Op, &'a Observed)> {
        let observed = self.observed;
        branches(self.action)
            .zip(observed)
            .flat_map(|(ops, results)| ops.iter().zip(results))
    }

    /// Runs reported by the guest, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &'a Run> {
        self.pairs().flat_map(|(_, observed)| &observed.runs)
    }

    /// How the TD died, if it did.
    pub(crate) fn death(&self) -> Option<&'a Death> {
        self.observed
            .iter()
            .flatten()
            .find_map(|observed| observed.death.as_ref())
    }
}

/// The operations of a step, branch by branch.
pub fn branches(action: &Action) -> impl Iterator<Item = &[Op]> {
    let (one, many) = match action {
        Action::One(op) => (Some(std::slice::from_ref(op)), &[][..]),
        Action::Parallel(branches) => (None, branches.as_slice()),
    };
    let many = many.iter().map(|branch| branch.0.as_slice());
    one.into_iter().chain(many)
}

/// Collects findings, and which witnesses were read or missing.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) findings: Vec<Finding>,
    pub(crate) omitted: u64,
    pub(crate) heard: Vec<Witness>,
    pub(crate) missing: Vec<MissingWitness>,
    pub(crate) content: Vec<ContentSpan>,
    pub(crate) spans_omitted: u64,
}

impl Findings {
    pub(crate) fn find(&mut self, finding: Finding) {
        if self.findings.len() < Judgement::MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.omitted += 1;
        }
    }

    pub(crate) fn heard(&mut self, witness: Witness) {
        if !self.heard.contains(&witness) {
            self.heard.push(witness);
        }
    }

    pub(crate) fn missing(&mut self, witness: Witness, reason: impl Into<String>) {
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

    /// The values before and after, if both could be read; otherwise records the missing witness.
    pub(crate) fn both<'a, T>(
        &mut self,
        witness: Witness,
        before: &'a Reading<T>,
        after: &'a Reading<T>,
    ) -> Option<(&'a T, &'a T)> {
        match (before, after) {
            (Reading::Read(before), Reading::Read(after)) => {
                self.heard(witness);
                Some((before, after))
            }
            (_, Reading::Incomplete { reason, .. }) | (Reading::Incomplete { reason, .. }, _) => {
                self.find(incomplete(witness, reason));
                None
            }
            (_, Reading::Missing { reason }) => {
                self.missing(witness, reason);
                None
            }
            (Reading::Missing { reason }, _) => {
                self.missing(witness, format!("no value before the step: {reason}"));
                None
            }
        }
    }

    /// The value, if it could be read; otherwise records the missing witness.
    pub(crate) fn one<'a, T>(
        &mut self,
        witness: Witness,
        reading: &'a Reading<T>,
    ) -> Option<&'a T> {
        match reading {
            Reading::Read(value) => {
                self.heard(witness);
                Some(value)
            }
            Reading::Missing { reason } => {
                self.missing(witness, reason);
                None
            }
            Reading::Incomplete { reason, .. } => {
                self.find(incomplete(witness, reason));
                None
            }
        }
    }

    /// A silent kernel log proves nothing, so a step with no other witness was not judged.
    pub(crate) fn close(self) -> Judgement {
        let judged = self.heard.iter().any(|w| *w != Witness::KernelLog);
        let verdict = Finding::verdict(&self.findings).unwrap_or(match judged {
            true => Verdict::Pass,
            false => Verdict::Error,
        });
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

/// A witness with lost data.
fn incomplete(witness: Witness, reason: &str) -> Finding {
    Finding::impossible(witness, "all that there was", reason)
}
