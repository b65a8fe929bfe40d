//! Memory that Linux has and has not accepted yet: by how much it falls between two looks, and whether any
//! is left.

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_kernel::software_module::Calls;
use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::linux::LinuxOp;

use crate::court::Court;
use crate::host::Sample;
use crate::leaves::Work;
use crate::observe::GuestAccount;

/// What guest and module said at the last look, if nothing since can have been accepted but what Linux
/// had not accepted yet.
#[derive(Debug, Default)]
pub(crate) struct Unaccepted(Option<(u64, Calls)>);

impl Unaccepted {
    /// A step is about to be done. Pages that come back from the host are accepted, too.
    pub(crate) fn step(&mut self, op: &LinuxOp) {
        if matches!(
            op,
            LinuxOp::Boot | LinuxOp::Kexec | LinuxOp::Convert { .. } | LinuxOp::Free { .. }
        ) {
            self.0 = None;
        }
    }

    /// Judges a look, and keeps it. What was judged, in words.
    pub(crate) fn look(
        &mut self,
        court: &mut Court,
        op: &LinuxOp,
        guest: &GuestAccount,
        after: Option<&Sample>,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let unaccepted = guest.memory.unaccepted();
        if *op == LinuxOp::AllAccepted {
            lines.push("exactly: Unaccepted 0".to_owned());
            match unaccepted {
                Some(bytes) => court.equal(Witness::Agent, "KiB Unaccepted", 0, bytes >> 10),
                None => court.find(Finding::impossible(
                    Witness::Agent,
                    "Unaccepted in /proc/meminfo",
                    "none (CONFIG_UNACCEPTED_MEMORY)",
                )),
            }
        }
        let calls = after.and_then(|after| after.calls.value());
        let now = unaccepted.zip(calls.copied());
        if let (Some((before, then)), Some((left, calls))) = (self.0, now)
            && let Some(work) = Work::between(&then, &calls).filter(|work| work.removed == 0)
        {
            lines.push(
                "exactly: Unaccepted falls by what was accepted since the last look".to_owned(),
            );
            falls(court, before, left, &work);
        }
        self.0 = now;
        lines
    }
}

/// Without a page that was taken, ACCEPT is of memory that was not accepted yet.
fn falls(court: &mut Court, before: u64, left: u64, work: &Work) {
    let accepted =
        work.accepted_2m * PageLevel::Size2M.bytes() + work.accepted_4k * PageLevel::Size4K.bytes();
    let kib = |bytes: u64| bytes >> 10;
    court.hear(Witness::Module);
    if before.checked_sub(accepted) != Some(left) {
        let fallen = i128::from(before) - i128::from(left);
        court.find(Finding::wrong(
            Witness::Module,
            format!(
                "Unaccepted to fall by {} KiB, which were accepted",
                kib(accepted)
            ),
            format!(
                "by {} KiB, from {} to {} KiB",
                fallen >> 10,
                kib(before),
                kib(left)
            ),
        ));
    }
    court.show(format!(
        "{} KiB accepted since the last look: {} ACCEPTs of 2M, {} of 4K",
        kib(accepted),
        work.accepted_2m,
        work.accepted_4k
    ));
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::verdict::Verdict;

    use super::*;

    #[rstest::rstest]
    #[case::exact(404 << 20, 2 << 20, Verdict::Pass)]
    #[case::one_page_more(404 << 20, (2 << 20) - 4096, Verdict::Fail)]
    #[case::not_at_all(404 << 20, 404 << 20, Verdict::Fail)]
    #[case::more_than_there_was(1 << 20, 0, Verdict::Fail)]
    fn unaccepted_falls_by_the_accepts(
        #[case] before: u64,
        #[case] left: u64,
        #[case] verdict: Verdict,
    ) {
        let work = Work {
            accepted_2m: 200,
            accepted_4k: 512,
            ..Work::default()
        };
        let mut court = Court::default();
        falls(&mut court, before, left, &work);
        assert_eq!(court.finish().0.verdict, verdict);
    }
}
