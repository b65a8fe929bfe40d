//! The positive control: counters must be seen to move before they are used.
//!
//! A reserved 4K page is accepted, or touched in a plain VM. A counter that does not move has
//! missed a certain event, so it is ignored for the rest of the plan: a 0 of it would prove
//! nothing.

use tdxlab_journal::verdict::{Finding, FindingKind, Judgement, MissingWitness, Verdict, Witness};
use tdxlab_journal::{ExitCounters, Observed, PageCounters, Reading, Sample, SplitEvent};
use tdxlab_plan::names::Status;
use tdxlab_plan::{AccessKind, CONTROL_PAGE, Guest, OnVe, Op, Side, Size, VcpuId};
use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::{Access, Run};

use crate::counters::disagreement;
use crate::step::Judge;

/// The operation of the control.
pub fn operation(guest: &Guest) -> Op {
    let (range, vcpu) = (range(), VcpuId(0));
    match guest.backing {
        None => Op::Accept {
            range,
            size: Size::Size4K,
            vcpu,
        },
        Some(_) => Op::Touch {
            range,
            stride: PageLevel::Size4K,
            access: AccessKind::Write,
            side: Side::Private,
            on_ve: OnVe::Skip,
            same_rip: false,
            vcpu,
        },
    }
}

fn range() -> GpaRange {
    CONTROL_PAGE.page(PageLevel::Size4K)
}

/// Result of the control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The verdict.
    pub judgement: Judgement,
    /// Counters that did not count.
    pub distrusted: Vec<MissingWitness>,
}

/// Judges the control: an error if no counter moved, a failure if one moved by a wrong amount.
pub fn judge(judge: &Judge, observed: &Observed, before: &Sample, after: &Sample) -> Control {
    let mut control = Control {
        judgement: judge.quiet_time(after),
        distrusted: Vec::new(),
    };
    control.guest(observed);
    control.pages(Witness::Debugfs, &before.debugfs, &after.debugfs);
    control.pages(Witness::QueryStats, &before.query_stats, &after.query_stats);
    control.same_pages(after);
    control.exits(&before.exits, &after.exits);
    control.whole(&before.splits, &after.splits);
    control.judgement.verdict = control.verdict();
    control
}

impl Control {
    fn guest(&mut self, observed: &Observed) {
        if let Some(death) = &observed.death {
            self.find(Finding::wrong(
                Witness::Td,
                "the TD lives on",
                format!("it died: {}", death.text),
            ));
            return;
        }
        self.judgement.heard.push(Witness::Status);
        match observed.runs.as_slice() {
            [
                Run::Accept {
                    count: 1, status, ..
                },
            ] => {
                if *status != 0 {
                    self.find(Finding::wrong(
                        Witness::Status,
                        Status(0).to_string(),
                        Status(*status).to_string(),
                    ));
                }
            }
            [
                Run::Access {
                    count: 1,
                    outcome: Access::Done,
                    ..
                },
            ] => {}
            runs => self.find(Finding::impossible(
                Witness::Status,
                "the result of one ACCEPT or touch",
                format!("{runs:x?}"),
            )),
        }
    }

    fn pages(
        &mut self,
        witness: Witness,
        before: &Reading<PageCounters>,
        after: &Reading<PageCounters>,
    ) {
        let Some((before, after)) = self.both(witness, before, after) else {
            return;
        };
        let right = PageCounters {
            pages_4k: before.pages_4k.saturating_add(1),
            ..before
        };
        if after == before {
            self.distrust(
                witness,
                format!(
                    "pages_4k stayed at {} when one page was mapped",
                    before.pages_4k
                ),
            );
        } else {
            self.judgement.heard.push(witness);
            if after != right {
                self.find(Finding::wrong(
                    witness,
                    "pages_4k +1 and nothing else",
                    format!("{before:?}, then {after:?}"),
                ));
            }
        }
    }

    /// Two sources of the same counters that both count, but not from the same number, are not of
    /// the same VM.
    fn same_pages(&mut self, after: &Sample) {
        let heard = |witness| self.judgement.heard.contains(&witness);
        if heard(Witness::Debugfs)
            && heard(Witness::QueryStats)
            && let (Some(debugfs), Some(query_stats)) =
                (after.debugfs.value(), after.query_stats.value())
            && let Some(finding) = disagreement(debugfs, query_stats)
        {
            self.find(finding);
        }
    }

    fn exits(&mut self, before: &Reading<ExitCounters>, after: &Reading<ExitCounters>) {
        let Some((before, after)) = self.both(Witness::Exits, before, after) else {
            return;
        };
        if after == before {
            let reason = format!(
                "no exit was counted (still {}) for an ACCEPT",
                before.accept
            );
            self.distrust(Witness::Exits, reason);
        } else {
            self.judgement.heard.push(Witness::Exits);
            if (after.accept.checked_sub(before.accept), after.access) != (Some(1), before.access) {
                self.find(Finding::wrong(
                    Witness::Exits,
                    "one ACCEPT exit and no other",
                    format!("{before:?}, then {after:?}"),
                ));
            }
        }
    }

    /// Split events that are lost, or of which none could arrive, would be missed in every step.
    fn whole(&mut self, before: &Reading<Vec<SplitEvent>>, after: &Reading<Vec<SplitEvent>>) {
        if let (Reading::Incomplete { reason, .. }, _) | (_, Reading::Incomplete { reason, .. }) =
            (before, after)
        {
            let all = "all that there was";
            self.find(Finding::impossible(Witness::Splits, all, reason));
        }
    }

    fn both<T: Copy>(
        &mut self,
        witness: Witness,
        before: &Reading<T>,
        after: &Reading<T>,
    ) -> Option<(T, T)> {
        match (before, after) {
            (Reading::Read(before), Reading::Read(after)) => Some((*before, *after)),
            (Reading::Missing { reason } | Reading::Incomplete { reason, .. }, _)
            | (_, Reading::Missing { reason } | Reading::Incomplete { reason, .. }) => {
                self.judgement.missing.push(MissingWitness {
                    witness,
                    reason: reason.clone(),
                });
                None
            }
        }
    }

    fn distrust(&mut self, witness: Witness, what: String) {
        self.distrusted.push(MissingWitness {
            witness,
            reason: format!("positive control at {CONTROL_PAGE}: {what}, so it does not count"),
        });
    }

    fn find(&mut self, finding: Finding) {
        self.judgement.findings.push(finding.at(range()));
    }

    fn verdict(&self) -> Verdict {
        let kinds = || self.judgement.findings.iter().map(|finding| finding.kind);
        let counting = [Witness::Debugfs, Witness::QueryStats, Witness::Exits];
        if kinds().any(|kind| kind == FindingKind::Impossible) {
            Verdict::Error
        } else if kinds().next().is_some() {
            Verdict::Fail
        } else if counting.iter().any(|w| self.judgement.heard.contains(w)) {
            Verdict::Pass
        } else {
            Verdict::Error
        }
    }

    /// Why nothing can be judged, if no counter moved.
    pub fn reason(&self) -> Option<String> {
        if self.judgement.verdict != Verdict::Error {
            return None;
        }
        let why: Vec<String> = self
            .distrusted
            .iter()
            .chain(&self.judgement.missing)
            .map(|missing| format!("{}: {}", missing.witness, missing.reason))
            .collect();
        match self.judgement.findings.first() {
            Some(finding) => Some(finding.to_string()),
            None => Some(format!("no counter counts. {}", why.join("; "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pages_4k: u64, accept: u64) -> Sample {
        let pages = PageCounters {
            pages_4k,
            ..PageCounters::default()
        };
        Sample {
            debugfs: Reading::Read(pages),
            query_stats: Reading::Read(pages),
            splits: Reading::Read(Vec::new()),
            populated: Reading::Read(0),
            exits: Reading::Read(ExitCounters { accept, access: 0 }),
            kernel_log: Reading::Read(Vec::new()),
        }
    }

    fn accepted(status: u64) -> Observed {
        Observed {
            runs: vec![Run::Accept {
                start: CONTROL_PAGE,
                level: PageLevel::Size4K,
                count: 1,
                status,
            }],
            ..Observed::default()
        }
    }

    fn control(observed: &Observed, before: &Sample, after: &Sample) -> Control {
        judge(&Judge::default(), observed, before, after)
    }

    #[test]
    fn counters_that_count_are_believed() {
        let control = control(&accepted(0), &sample(5, 0), &sample(6, 1));
        assert_eq!(control.judgement.verdict, Verdict::Pass);
        assert_eq!(control.distrusted, []);
    }

    #[test]
    fn a_counter_that_does_not_move_is_missing_from_then_on() {
        let mut after = sample(6, 1);
        after.debugfs = sample(5, 0).debugfs;
        let control = control(&accepted(0), &sample(5, 0), &after);
        assert_eq!(control.judgement.verdict, Verdict::Pass);
        let later = sample(9, 9).without(&control.distrusted);
        let Reading::Missing { reason } = later.debugfs else {
            panic!("believed");
        };
        assert!(reason.contains("0x3fe00000"), "{reason}");
        assert!(later.query_stats.value().is_some());
    }

    #[test]
    fn where_nothing_moves_nothing_can_be_judged() {
        let control = control(&accepted(0), &sample(5, 0), &sample(5, 0));
        assert_eq!(control.judgement.verdict, Verdict::Error);
        let reason = control.reason().unwrap();
        assert!(reason.contains("pages_4k stayed at 5"), "{reason}");
    }

    #[test]
    fn sources_that_count_alike_from_different_numbers_disagree() {
        let mut before = sample(5, 0);
        let mut after = sample(6, 1);
        before.query_stats = sample(1005, 0).query_stats;
        after.query_stats = sample(1006, 1).query_stats;
        let control = control(&accepted(0), &before, &after);
        assert_eq!(control.judgement.verdict, Verdict::Fail);
        let finding = &control.judgement.findings[0];
        assert_eq!(finding.kind, FindingKind::Disagreement);
        assert!(finding.expected.contains("pages_4k 6"), "{finding}");
        assert!(finding.found.contains("pages_4k 1006"), "{finding}");
    }

    #[test]
    fn split_events_that_cannot_arrive_are_an_error_at_once() {
        let mut after = sample(6, 1);
        after.splits = Reading::incomplete("the event is not on");
        let control = control(&accepted(0), &sample(5, 0), &after);
        assert_eq!(control.judgement.verdict, Verdict::Error);
        let reason = control.reason().unwrap();
        assert!(reason.contains("the event is not on"), "{reason}");
    }

    #[test]
    fn a_counter_that_counts_double_fails() {
        let control = control(&accepted(0), &sample(5, 0), &sample(7, 1));
        assert_eq!(control.judgement.verdict, Verdict::Fail);
    }

    #[test]
    fn a_refused_accept_fails() {
        let control = control(&accepted(1 << 63), &sample(5, 0), &sample(6, 1));
        assert_eq!(control.judgement.verdict, Verdict::Fail);
    }
}
