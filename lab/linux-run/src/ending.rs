//! The end of a plan: what the guest's kernel said last, and what its QEMU left.

use tdxlab_journal::verdict::Judgement;
use tdxlab_journal::{Ending, Reading, Taken};

use crate::court::Court;
use crate::laws;

/// VMs that are left of a QEMU, and complaints of the host's kernel about its teardown.
pub(crate) type Left = (Reading<u64>, Reading<Vec<String>>);

/// Judges an end. `court` has heard what the guest's kernel said; `left` is `None` where there is no KVM, or
/// the step that ended the guest was judged by it. `None` where no witness of the end has spoken.
pub(crate) fn judge(mut court: Court, left: Option<Left>) -> Option<(Ending, Judgement)> {
    let mut ending = Ending {
        kernel_log: Reading::missing("it was not looked at: no KVM, or a step was judged by it"),
        taken: Vec::new(),
    };
    if let Some((left, complaints)) = left {
        laws::judge_end(&mut court, &left, &complaints);
        ending.kernel_log = complaints;
        ending.taken.push(Taken::by_guest(laws::VMS, left));
    }
    (!court.is_silent()).then(|| (ending, court.finish().0))
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::verdict::{Verdict, Witness};

    use super::*;

    /// Of a guest whose kernel and whose host's kernel say these, and which leaves so many VMs.
    fn ends(guest: &[&str], host: &[&str], left: u64) -> Judgement {
        let said = |lines: &[&str]| Reading::Read(lines.iter().map(|&line| line.into()).collect());
        let mut court = Court::default();
        court.log(Witness::GuestLog, &said(guest));
        let (ending, judgement) = judge(court, Some((Reading::Read(left), said(host)))).unwrap();
        assert_eq!(ending.taken[0].after, Reading::Read(left));
        judgement
    }

    #[test]
    fn what_is_said_and_left_at_the_end_of_a_plan_fails_it() {
        assert_eq!(ends(&[], &[], 0).verdict, Verdict::Pass);
        for (judgement, witness) in [
            (ends(&["WARN: x"], &[], 0), Witness::GuestLog),
            (ends(&[], &["KVM_BUG: x"], 0), Witness::KernelLog),
            (ends(&[], &[], 1), Witness::Remains),
        ] {
            assert_eq!(judgement.verdict, Verdict::Fail);
            assert_eq!(judgement.findings[0].witness, witness);
        }
    }

    #[test]
    fn an_end_that_nobody_saw_is_not_judged() {
        assert!(judge(Court::default(), None).is_none());
        let unreadable = (Reading::missing("no debugfs"), Reading::missing("no log"));
        assert!(judge(Court::default(), Some(unreadable)).is_none());
    }
}
