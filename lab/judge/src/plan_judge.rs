//! Judges one plan, from the positive control to its last step.
//!
//! The order is the same for a run, a hunt with random plans, and a recorded run that is judged
//! again. They differ in the source of observations and samples, and in the use of the judgements.

use tdxlab_journal::{Ending, Judgement, MissingWitness, Observed, Sample};
use tdxlab_plan::{Action, Expect, Expectation, Guest, MemoryMap};
use tdxlab_protocol::addr::GpaRange;

use crate::control::{self, Control};
use crate::findings::Evidence;
use crate::kernel_log::AllowList;
use crate::oracle::Oracle;
use crate::step::Judge;

/// Judges one plan.
#[derive(Debug)]
pub struct PlanJudge<O> {
    oracle: O,
    judge: Judge,
    memory: GpaRange,
    /// Counters that did not count in the positive control.
    distrusted: Vec<MissingWitness>,
    /// Witnesses before the next step; `None` before the positive control.
    before: Option<Sample>,
}

impl<O: Oracle> PlanJudge<O> {
    /// For a guest that has just been booted.
    pub fn new(oracle: O, guest: &Guest, allowed_log: AllowList) -> PlanJudge<O> {
        PlanJudge {
            oracle,
            judge: Judge::new(allowed_log),
            memory: guest.memory,
            distrusted: Vec::new(),
            before: None,
        }
    }

    /// Judges the positive control. Counters that did not move are ignored from then on.
    pub fn control(&mut self, observed: &Observed, before: &Sample, after: &Sample) -> Control {
        let control = control::judge(&self.judge, observed, before, after);
        self.distrusted.clone_from(&control.distrusted);
        self.before = Some(after.clone().without(&self.distrusted));
        control
    }

    /// Predicts the next step: what it may show, and no more than its author allows.
    ///
    /// # Errors
    ///
    /// It cannot be predicted, and why.
    pub fn expect(&mut self, action: &Action, author: &Expect) -> Result<Expectation, String> {
        let mut expected = self.oracle.foresee(action)?;
        expected.narrow(author);
        Ok(expected)
    }

    /// Judges a step by its observations and the witnesses after it. `None` before the positive
    /// control.
    pub fn step(
        &mut self,
        action: &Action,
        expected: &Expectation,
        observed: &[Vec<Observed>],
        after: Sample,
    ) -> Option<Judgement> {
        let before = self.before.take()?;
        let after = after.without(&self.distrusted);
        let judgement = self.judge.step(&Evidence {
            action,
            expected,
            observed,
            before: &before,
            after: &after,
        });
        self.before = Some(after);
        Some(judgement)
    }

    /// Judges the teardown of the guest.
    pub fn end(&self, ending: &Ending) -> Judgement {
        self.judge.end(ending)
    }

    /// Witnesses before the next step, without the ignored ones.
    pub fn before(&self) -> Option<&Sample> {
        self.before.as_ref()
    }

    /// How memory must look now.
    pub fn map(&self) -> MemoryMap {
        self.oracle.map(self.memory)
    }

    /// The source of expectations.
    pub fn oracle(&self) -> &O {
        &self.oracle
    }
}
