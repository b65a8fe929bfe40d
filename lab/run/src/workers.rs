//! Runs many plans on a few worker threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::verdict::Verdict;

use super::confirm::confirm;
use super::context::{RunContext, TestCase};
use super::outcome::{Outcome, PANICKED};
use super::pool::in_parallel;
use super::shared::{Numbered, Sharing, batches};
use super::sink::EventSink;

/// How to go through the plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Plans run at the same time.
    pub jobs: usize,
    /// Start no further plan once one has failed or could not be judged.
    pub fail_fast: bool,
    /// How often a plan that failed is run again, to see how reliably it fails.
    pub confirm: u32,
    /// Let plans share guests that need the same one, and guests QEMUs, where booting costs.
    pub share: bool,
}

/// Runs all plans and writes the end of the run down.
pub fn run(
    items: &[TestCase],
    lab: &RunContext<'_>,
    drive: PoolOptions,
) -> Result<Verdict, JournalError> {
    let numbered: Vec<(PlanId, &TestCase)> = items
        .iter()
        .enumerate()
        .map(|(index, item)| (PlanId(u32::try_from(index).unwrap_or(u32::MAX)), item))
        .collect();
    run_some(&numbered, lab, drive)
}

/// Runs some plans of a run, each with its place in it, and writes the end of the run down.
pub fn run_some(
    items: &[(PlanId, &TestCase)],
    lab: &RunContext<'_>,
    drive: PoolOptions,
) -> Result<Verdict, JournalError> {
    let jobs = drive.jobs.clamp(1, items.len().max(1));
    // A seeded fault may strike by address, or once in a guest: it is tried in guests of its own.
    let share = drive.share && lab.host.profile().boots_cost && lab.host.fault().is_none();
    let workers = Workers {
        guests: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        verdict: Mutex::new(Verdict::Skip),
        lab,
        drive: PoolOptions { share, ..drive },
    };
    let batches = batches(items, lab, share, jobs);
    in_parallel(jobs, &batches, |worker, batch| workers.run(worker, batch))?;
    let verdict = workers.verdict.into_inner();
    let stopped = workers.stop.into_inner();
    lab.journal.write(&Event::RunEnded {
        verdict,
        interrupted: lab.interrupt.is_raised(),
        stopped,
        facts: lab.host.changing_facts(),
    })?;
    Ok(verdict)
}

struct Workers<'a> {
    /// Guests that were shared.
    guests: AtomicU32,
    stop: AtomicBool,
    verdict: Mutex<Verdict>,
    lab: &'a RunContext<'a>,
    drive: PoolOptions,
}

impl<'a> Workers<'a> {
    /// Runs the plans of a batch; whether to go on.
    fn run(&self, worker: usize, batch: &[Numbered<'a>]) -> Result<bool, JournalError> {
        let sharing = Sharing {
            lab: self.lab,
            worker,
            guests: &self.guests,
            alone: &|item, fresh| self.alone(worker, item, fresh),
            over: &|item, outcome| self.over(worker, item, outcome),
        };
        if self.is_stopped() {
            return Ok(false);
        }
        let ran = sharing.run(batch);
        // Others are in the middle of a batch.
        ran.inspect_err(|_| self.stop.store(true, Ordering::Relaxed))
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.lab.interrupt.is_raised()
    }

    /// Runs a plan in a guest of its own, and in a QEMU of its own if `fresh`.
    fn alone(
        &self,
        worker: usize,
        (id, item): Numbered<'_>,
        fresh: bool,
    ) -> Result<Outcome, JournalError> {
        let fresh = fresh || !self.drive.share;
        let run = || self.lab.execute(worker, id, item, fresh);
        let outcome = or_panicked(self.lab.journal, id, run)?;
        if outcome.verdict == Verdict::Fail && self.drive.confirm > 0 {
            confirm(self.lab, worker, id, item, self.drive.confirm)?;
        }
        Ok(outcome)
    }

    /// Takes down how a plan ended; whether to go on.
    fn over(&self, worker: usize, (_, item): Numbered<'_>, outcome: &Outcome) -> bool {
        self.lab
            .watcher
            .plan_ended(worker, &item.plan.name, outcome);
        if outcome.interrupted {
            return false;
        }
        let mut verdict = self.verdict.lock();
        *verdict = verdict.and(outcome.verdict);
        let bad = matches!(outcome.verdict, Verdict::Fail | Verdict::Error);
        if bad && self.drive.fail_fast {
            self.stop.store(true, Ordering::Relaxed);
        }
        !self.is_stopped()
    }
}

/// Runs a plan. If the lab itself panics, that is written down as an error of this one plan, and the
/// others go on.
///
/// # Errors
///
/// Those of `run`, or the journal cannot be written.
pub fn or_panicked(
    journal: &dyn EventSink,
    plan: PlanId,
    run: impl FnOnce() -> Result<Outcome, JournalError>,
) -> Result<Outcome, JournalError> {
    let panic = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => return outcome,
        Err(panic) => panic,
    };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    let reason = format!("{PANICKED}: {text}");
    journal.write(&Event::PlanEnded {
        plan,
        verdict: Verdict::Error,
        reason: Some(reason.clone()),
        micros: 0,
        evidence: None,
        fault_reached: None,
    })?;
    Ok(Outcome {
        verdict: Verdict::Error,
        reason: Some(reason),
        took: Duration::ZERO,
        interrupted: false,
        fault_reached: None,
    })
}
