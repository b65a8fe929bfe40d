//! Hooks called around each step; they may also fix the order of a race.

use std::path::Path;

use tdxlab_host::Session;
use tdxlab_journal::Sample;
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::journal::PlanId;
use tdxlab_journal::verdict::Judgement;
use tdxlab_plan::{Expectation, MemoryMap, Plan};

/// Called for every plan, from several threads. To stop the run, set its
/// [`tdxlab_qemu::interrupt::Interrupt`].
pub trait Hooks: Sync {
    /// The order of turns for a parallel step; `None` to draw it from the seed. Steps count from 0.
    fn order(&self, plan: PlanId, step: usize) -> Option<&Interleaving> {
        let _ = (plan, step);
        None
    }

    /// A step is about to be done.
    fn before_step(&self, stand: &StepContext<'_>) {
        let _ = stand;
    }

    /// A step was done and judged. Steps count from 0.
    fn judged(&self, plan: &Plan, step: usize, judgement: &Judgement) {
        let _ = (plan, step, judgement);
    }

    /// A plan did not pass, its evidence is in `folder`, and its guest is about to be ended.
    fn failed(&self, plan: &Plan, folder: &Path, session: &mut dyn Session) {
        let _ = (plan, folder, session);
    }
}

/// State of a plan before a step.
pub struct StepContext<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The step, from 0.
    pub step: usize,
    /// The prediction.
    pub expected: &'a Expectation,
    /// How memory must look now.
    pub map: &'a MemoryMap,
    /// Current readings of the witnesses.
    pub sample: &'a Sample,
}

/// Lets everything take its course.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {}
