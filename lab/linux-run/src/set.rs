//! Runs many plans.

use parking_lot::Mutex;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::verdict::Verdict;
use tdxlab_run::{in_parallel, or_panicked};

use crate::runner::{LinuxCase, LinuxRunner};

impl LinuxRunner<'_> {
    /// Runs the plans, so many at a time, and writes down the end of the run.
    ///
    /// # Errors
    ///
    /// The journal cannot be written.
    pub fn run_all(&self, jobs: usize, cases: &[(PlanId, LinuxCase)]) -> Result<(), JournalError> {
        let verdict = Mutex::new(Verdict::Skip);
        in_parallel(jobs, cases, |worker, (id, case)| {
            if self.interrupt.is_raised() {
                return Ok(false);
            }
            let outcome = or_panicked(self.journal, *id, || self.execute(worker, *id, case))?;
            self.watcher.plan_ended(worker, &case.plan.name, &outcome);
            let mut verdict = verdict.lock();
            *verdict = verdict.and(outcome.verdict);
            Ok(true)
        })?;
        self.journal.write(&Event::RunEnded {
            verdict: verdict.into_inner(),
            interrupted: self.interrupt.is_raised(),
            stopped: false,
            facts: Vec::new(),
        })
    }
}
