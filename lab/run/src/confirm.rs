//! Repeats a failed plan, to measure how reliably it fails.

use tdxlab_journal::folder::RunFolder;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::verdict::Verdict;

use super::context::{KeepEvidence, NoProgress, RunContext, TestCase};
use super::hooks::NoHooks;

/// Runs a plan `times` more times, each in a temporary journal and folder, and records how often it
/// failed. Stops early on an interrupt.
pub(super) fn confirm(
    lab: &RunContext<'_>,
    worker: usize,
    id: PlanId,
    item: &TestCase,
    times: u32,
) -> Result<(), JournalError> {
    let mut again = 0;
    let mut failed = 0;
    while again < times && !lab.interrupt.is_raised() {
        let Some(verdict) = once(lab, worker, id, item) else {
            break;
        };
        again += 1;
        failed += u32::from(verdict == Verdict::Fail);
    }
    lab.journal.write(&Event::Confirmed {
        plan: id,
        times: again,
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
