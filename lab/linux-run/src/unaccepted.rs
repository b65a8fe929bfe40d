//! Memory that Linux has and has not accepted yet: by how much it falls between two looks, and whether any
//! is left.
//!
//! Linux accepts 4M at a time, and the 2M after them, since it may read beyond the end of a word there.
//! These it counts as Unaccepted until their own 4M are accepted. In the S-EPT they are 4M of which only the
//! first half is mapped. Sources: `accept_memory()` in drivers/firmware/efi/unaccepted_memory.c,
//! `__accept_page()` in mm/page_alloc.c.

use std::collections::BTreeSet;

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_kernel::software_module::{Calls, Sept};
use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::linux::LinuxOp;

use crate::court::Court;
use crate::host::Sample;
use crate::leaves::{Work, blocks_of};
use crate::observe::GuestAccount;

/// What guest and module said at the last look, if nothing since can have been accepted but what Linux
/// had not accepted yet.
#[derive(Debug, Default)]
pub(crate) struct Unaccepted(Option<Look>);

/// What was seen at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// Bytes that Linux has not accepted.
    unaccepted: u64,
    /// What the module has done.
    calls: Calls,
    /// 4M of which only the first half is mapped.
    halves: u64,
}

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
        let now = after.and_then(|after| {
            Some(Look {
                unaccepted: unaccepted?,
                calls: *after.calls.value()?,
                halves: halves(after.sept.value()?),
            })
        });
        if let (Some(before), Some(now)) = (self.0, now)
            && let Some(work) = Work::between(&before.calls, &now.calls)
            && work.removed == 0
        {
            lines.push(
                "exactly: Unaccepted falls by what was accepted since the last look".to_owned(),
            );
            falls(court, before, now, &work);
        }
        self.0 = now;
        lines
    }
}

/// 4M of which only the first half is mapped, in whatever size.
fn halves(sept: &Sept) -> u64 {
    let leaves = sept.leaves().iter();
    let blocks = leaves.flat_map(|leaves| blocks_of(leaves.range));
    let mapped: BTreeSet<u64> = blocks.map(|block| block.as_u64() >> 21).collect();
    let half = |block: &&u64| block.is_multiple_of(2) && !mapped.contains(&(*block + 1));
    mapped.iter().filter(half).count() as u64
}

/// Without a page that was taken, ACCEPT is of memory that was not accepted yet.
fn falls(court: &mut Court, before: Look, now: Look, work: &Work) {
    let large = PageLevel::Size2M.bytes();
    let accepted = work.accepted_2m * large + work.accepted_4k * PageLevel::Size4K.bytes();
    // Halves that were accepted earlier are counted now, those of now later.
    let counted = i128::from(accepted)
        + (i128::from(before.halves) - i128::from(now.halves)) * i128::from(large);
    let fallen = i128::from(before.unaccepted) - i128::from(now.unaccepted);
    court.hear(Witness::Module);
    if fallen != counted {
        court.find(Finding::wrong(
            Witness::Module,
            format!(
                "Unaccepted to fall by {} KiB, which were accepted",
                counted >> 10
            ),
            format!(
                "by {} KiB, from {} to {} KiB",
                fallen >> 10,
                before.unaccepted >> 10,
                now.unaccepted >> 10
            ),
        ));
    }
    court.show(format!(
        "{} KiB accepted since the last look: {} ACCEPTs of 2M, {} of 4K; Unaccepted {} KiB less",
        accepted >> 10,
        work.accepted_2m,
        work.accepted_4k,
        fallen >> 10
    ));
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::verdict::Verdict;

    use super::*;

    fn at(unaccepted: u64, halves: u64) -> Look {
        Look {
            unaccepted,
            calls: Calls::default(),
            halves,
        }
    }

    /// 200 ACCEPTs of 2M and 512 of 4K are 402 MiB.
    #[rstest::rstest]
    #[case::exact(at(404 << 20, 1), at(2 << 20, 1), Verdict::Pass)]
    #[case::one_page_more(at(404 << 20, 1), at((2 << 20) - 4096, 1), Verdict::Fail)]
    #[case::not_at_all(at(404 << 20, 1), at(404 << 20, 1), Verdict::Fail)]
    #[case::more_than_there_was(at(1 << 20, 1), at(0, 1), Verdict::Fail)]
    #[case::a_half_was_accepted_before(at(404 << 20, 1), at(0, 0), Verdict::Pass)]
    #[case::and_another_is_now(at(404 << 20, 0), at(4 << 20, 1), Verdict::Pass)]
    #[case::a_half_that_is_none(at(404 << 20, 0), at(2 << 20, 1), Verdict::Fail)]
    fn unaccepted_falls_by_the_accepts(
        #[case] before: Look,
        #[case] now: Look,
        #[case] verdict: Verdict,
    ) {
        let work = Work {
            accepted_2m: 200,
            accepted_4k: 512,
            ..Work::default()
        };
        let mut court = Court::default();
        falls(&mut court, before, now, &work);
        assert_eq!(court.finish().0.verdict, verdict);
    }

    #[test]
    fn halves_are_found_in_leaves_and_tables() {
        let sept = "0x0..0xa0000 4K mapped 160\n0x400000..0x800000 2M mapped 2\n\
                    0x800000..0xa00000 4K mapped 512\n0xe00000..0x1000000 2M mapped 1\n";
        assert_eq!(halves(&Sept::parse(sept).unwrap()), 2);
    }
}
