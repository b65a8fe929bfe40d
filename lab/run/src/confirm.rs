//! Runs a plan that failed again, to see how reliably it fails.

use tdxlab_journal::folder::RunFolder;
use tdxlab_journal::journal::{Event, JournalError, PlanId};
use tdxlab_journal::verdict::Verdict;

use super::executor::{Item, Keep, Lab, Silence};
use super::guide::Unguided;

/// Runs a plan `times` times more, each in a journal and a folder that are thrown away, and writes
/// down how often it failed. Stops early where somebody wants the run to stop.
pub(super) fn confirm(
    lab: &Lab<'_>,
    worker: usize,
    id: PlanId,
    item: &Item,
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

/// `None` where there is no room to run it.
fn once(lab: &Lab<'_>, worker: usize, id: PlanId, item: &Item) -> Option<Verdict> {
    let place = tempfile::tempdir().ok()?;
    let folder = RunFolder::create(place.path()).ok()?;
    let journal = folder.journal().ok()?;
    let again = Lab {
        journal: &journal,
        folder: &folder,
        allowed_log: lab.allowed_log.clone(),
        keep: Keep::Nothing,
        watcher: &Silence,
        guide: &Unguided,
        ..*lab
    };
    Some(again.execute(worker, id, item).ok()?.verdict)
}
