//! How a plan ended, in a form that two runs can be compared by.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use tdxlab_plan::Plan;

use crate::{Judgement, Verdict, Witness};

/// The verdict; for a bad one also the first bad step and its witnesses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The verdict.
    pub verdict: Verdict,
    /// The first step that did not pass, counted from 1; `None` where every step did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// Witnesses of the findings.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub witnesses: BTreeSet<Witness>,
}

impl Signature {
    /// Signature of a plan without findings.
    pub fn passing() -> Signature {
        Signature {
            verdict: Verdict::Pass,
            step: None,
            witnesses: BTreeSet::new(),
        }
    }

    /// Takes a judged step in; steps count from 0.
    pub fn add(&mut self, step: u32, judgement: &Judgement) {
        self.verdict = self.verdict.and(judgement.verdict);
        let bad = matches!(judgement.verdict, Verdict::Fail | Verdict::Error);
        if bad && self.step.is_none() {
            self.step = Some(step.saturating_add(1));
            self.witnesses = judgement.findings.iter().map(|f| f.witness).collect();
        }
    }

    /// Takes the judged end of the guest in, which is numbered after the last step of its plan.
    pub fn add_end(&mut self, plan: &Plan, judgement: &Judgement) {
        let place = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
        self.add(place, judgement);
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        if let Some(step) = self.step {
            write!(f, " in step {step}")?;
        }
        if !self.witnesses.is_empty() {
            let names: Vec<&str> = self.witnesses.iter().map(|w| w.name()).collect();
            write!(f, " by {}", names.join(", "))?;
        }
        Ok(())
    }
}
