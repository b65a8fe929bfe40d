//! Repeats a failed plan, to measure how reliably it fails.

use tdxlab_journal::folder::RunFolder;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::verdict::Verdict;

use super::context::{KeepEvidence, NoProgress, RunContext, TestCase};
use super::hooks::NoHooks;

/// Runs a plan `times` more times, each in a temporary journal and folder, and records how often it
/// failed. Stops early on an interrupt. A rerun that came to no verdict on the host says nothing about
/// how reliably the plan fails, so only those that passed or failed are counted.
pub(super) fn confirm(
    lab: &RunContext<'_>,
    worker: usize,
    id: PlanId,
    item: &TestCase,
    times: u32,
) -> Result<(), JournalError> {
    let mut judged = 0;
    let mut failed = 0;
    for _ in 0..times {
        if lab.interrupt.is_raised() {
            break;
        }
        match once(lab, worker, id, item) {
            Some(Verdict::Pass) => judged += 1,
            Some(Verdict::Fail) => {
                judged += 1;
                failed += 1;
            }
            Some(Verdict::Skip | Verdict::Error) => {}
            None => break,
        }
    }
    lab.journal.write(&Event::Confirmed {
        plan: id,
        times: judged,
        failed,
    })
}

/// `None` if its folder cannot be created.
fn once(lab: &RunContext<'_>, worker: usize, id: PlanId, item: &TestCase) -> Option<Verdict> {
    let place = tempfile::tempdir().ok()?;
    let folder = RunFolder::create(place.path()).ok()?;
    let journal = folder.journal().ok()?;
    let again = RunContext {
        journal: &journal,
        folder: &folder,
        allowed_log: lab.allowed_log.clone(),
        keep: KeepEvidence::Nothing,
        watcher: &NoProgress,
        hooks: &NoHooks,
        ..*lab
    };
    Some(again.execute(worker, id, item, true).ok()?.verdict)
}
