//! Runs many plans on a few worker threads.
//!
//! A worker is a thread that runs one plan after the other. The kernel ends a QEMU when the thread
//! that started it ends (PR_SET_PDEATHSIG goes by thread, not by process), so a plan never leaves
//! its worker, and every guest ends with the runner.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::verdict::Verdict;

use super::confirm::confirm;
use super::executor::{RunContext, TestCase};
use crate::outcome::Outcome;

/// Message for a plan in which the lab itself panicked.
pub const PANICKED: &str = "tdxlab panicked, which is a defect of it";

/// How to go through the plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Plans run at the same time.
    pub jobs: usize,
    /// Start no further plan once one has failed or could not be judged.
    pub fail_fast: bool,
    /// How often a plan that failed is run again, to see how reliably it fails.
    pub confirm: u32,
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
    let queue = Queue {
        items,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        verdict: Mutex::new(None),
        broken: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        for worker in 0..drive.jobs.clamp(1, items.len().max(1)) {
            let queue = &queue;
            scope.spawn(move || queue.work(worker, lab, drive));
        }
    });
    if let Some(error) = queue.broken.lock().take() {
        return Err(error);
    }
    let verdict = queue.verdict.lock().unwrap_or(Verdict::Skip);
    lab.journal.write(&Event::RunEnded {
        verdict,
        interrupted: lab.interrupt.is_raised(),
    })?;
    Ok(verdict)
}

struct Queue<'a> {
    items: &'a [(PlanId, &'a TestCase)],
    next: AtomicUsize,
    stop: AtomicBool,
    verdict: Mutex<Option<Verdict>>,
    broken: Mutex<Option<JournalError>>,
}

impl Queue<'_> {
    fn work(&self, worker: usize, lab: &RunContext<'_>, drive: PoolOptions) {
        loop {
            if self.stop.load(Ordering::Relaxed) || lab.interrupt.is_raised() {
                return;
            }
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((id, item)) = self.items.get(index).copied() else {
                return;
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| lab.execute(worker, id, item)))
                .unwrap_or_else(|panic| lab_panicked(lab, id, &panic));
            let outcome = outcome.and_then(|outcome| {
                if outcome.verdict == Verdict::Fail && drive.confirm > 0 {
                    confirm(lab, worker, id, item, drive.confirm)?;
                }
                Ok(outcome)
            });
            match outcome {
                Ok(outcome) => {
                    lab.watcher.plan_ended(worker, &item.plan.name, &outcome);
                    if outcome.interrupted {
                        return;
                    }
                    let mut verdict = self.verdict.lock();
                    *verdict = Some(match *verdict {
                        Some(so_far) => so_far.and(outcome.verdict),
                        None => outcome.verdict,
                    });
                    let bad = matches!(outcome.verdict, Verdict::Fail | Verdict::Error);
                    if bad && drive.fail_fast {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
                Err(error) => {
                    self.stop.store(true, Ordering::Relaxed);
                    self.broken.lock().get_or_insert(error);
                }
            }
        }
    }
}

/// A bug of the lab is an error of this one plan; the others continue.
fn lab_panicked(
    lab: &RunContext<'_>,
    plan: PlanId,
    panic: &Box<dyn std::any::Any + Send>,
) -> Result<Outcome, JournalError> {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    let reason = format!("{PANICKED}: {text}");
    lab.journal.write(&Event::PlanEnded {
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
