//! What all plans of a run share.

use std::path::PathBuf;
use std::time::Duration;

use tdxlab_host::Host;
use tdxlab_journal::folder::RunFolder;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::verdict::Verdict;
use tdxlab_judge::AllowList;
use tdxlab_judge::oracle::Oracle;
use tdxlab_plan::Plan;
use tdxlab_plan::needs::HostAndDesign;
use tdxlab_qemu::interrupt::Interrupt;

use super::hooks::Hooks;
use super::outcome::Outcome;
use super::sink::EventSink;

/// A plan and its origin.
#[derive(Clone, Debug)]
pub struct TestCase {
    /// The plan.
    pub plan: Plan,
    /// Its scenario file; `None` for a replay.
    pub scenario: Option<PathBuf>,
}

/// Makes the oracle of a plan.
pub type MakeOracle = dyn Fn(&Plan) -> Box<dyn Oracle> + Sync;

/// Shared by all plans of a run.
pub struct RunContext<'a> {
    /// The host that runs the guests.
    pub host: &'a dyn Host,
    /// Host and design of the run.
    pub offer: HostAndDesign,
    /// Makes the source of predictions.
    pub oracle: &'a MakeOracle,
    /// Where everything is written down.
    pub journal: &'a dyn EventSink,
    /// The run folder.
    pub folder: &'a RunFolder,
    /// Kernel log lines that may pass.
    pub allowed_log: AllowList,
    /// Set to stop the run.
    pub interrupt: &'a Interrupt,
    /// Longest a single operation may take.
    pub patience: Duration,
    /// Whose evidence is kept.
    pub keep: KeepEvidence,
    /// Receives progress.
    pub watcher: &'a dyn Progress,
    /// Called around each step.
    pub hooks: &'a dyn Hooks,
}

/// Which plans leave evidence: the host's files, and a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepEvidence {
    /// None: only the verdicts matter.
    Nothing,
    /// That of plans that did not pass.
    #[default]
    Failures,
    /// That of all plans.
    Everything,
}

impl KeepEvidence {
    /// Whether the evidence of a plan with this verdict is kept.
    pub(super) fn keeps(self, verdict: Verdict) -> bool {
        match self {
            KeepEvidence::Nothing => false,
            KeepEvidence::Failures => verdict != Verdict::Pass,
            KeepEvidence::Everything => true,
        }
    }
}

/// Receives how far a run is, from several threads.
pub trait Progress: Sync {
    /// A worker takes up a plan.
    fn plan_started(&self, worker: usize, name: &str, steps: usize);
    /// A worker starts a step, counted from 0.
    fn step_started(&self, worker: usize, step: usize);
    /// A worker has ended a plan, or skipped it.
    fn plan_ended(&self, worker: usize, name: &str, outcome: &Outcome);
}

/// Ignores all progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn plan_started(&self, _: usize, _: &str, _: usize) {}
    fn step_started(&self, _: usize, _: usize) {}
    fn plan_ended(&self, _: usize, _: &str, _: &Outcome) {}
}

impl RunContext<'_> {
    /// A plan starts.
    pub(super) fn begin(
        &self,
        worker: usize,
        id: PlanId,
        item: &TestCase,
    ) -> Result<(), JournalError> {
        let plan = &item.plan;
        self.watcher
            .plan_started(worker, &plan.name, plan.steps.len());
        self.journal.write(&Event::PlanStarted {
            plan: id,
            scenario: item.scenario.clone(),
            body: plan.clone(),
        })
    }
}
