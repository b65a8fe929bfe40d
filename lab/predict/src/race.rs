//! Parallel steps: what must hold whatever the order.
//!
//! A 2M region that only one branch touches is exact, since no operation reaches beyond the regions
//! it touches. A region where branches meet is exact afterwards where the order does not show in what
//! is left, see [`super::footprint`]; of any other only bounds are known, see [`super::uncertain`], and
//! the pages that no branch takes away, shares or writes.

use std::collections::BTreeMap;

use tdxlab_plan::addr::Side;
use tdxlab_plan::{Branch, Generation, Interval, Op};

use super::hole::pages_around;
use super::pages::{REGION, gfns_of, gfns_of_all, overlap, pages_of, regions_touching};
use super::runs::Pages;
use super::state::{Region, Sept, SharedPage, State};
use super::tally::Tally;
use super::uncertain::Bounds;
use crate::unjudgeable::Unjudgeable;

/// Most regions that may be uncertain; a race over more is refused.
const MOST_FOG: u64 = 1 << 16;

impl State {
    /// All branches of a parallel step.
    pub(super) fn race(
        &mut self,
        tally: &mut Tally,
        branches: &[Branch],
    ) -> Result<(), Unjudgeable> {
        self.may_race(branches)?;
        let meeting = self.meeting_regions(branches)?;
        self.counts_alone(branches, &meeting)?;
        let before = self.clone();
        let raced = self.race_over(tally, meeting, branches);
        raced.inspect_err(|_| *self = before)
    }

    /// Predicts branches of a step that meet in these regions. After an error the state is
    /// unreliable.
    fn race_over(
        &mut self,
        tally: &mut Tally,
        meeting: Vec<u64>,
        branches: &[Branch],
    ) -> Result<(), Unjudgeable> {
        let open = self.open_regions(branches, &meeting);
        let ops = || branches.iter().flat_map(|branch| &branch.0);
        let harmed: Vec<Pages> = ops().filter_map(harmed_by).collect();
        for region in &open {
            self.cover(*region);
            self.unsettle_within(*region, &harmed);
        }
        for op in ops() {
            self.operate(tally, op)?;
        }
        if !meeting.is_empty() {
            // How often vCPUs exit, and what they are told, depends on the order all the same.
            tally.becomes_uncertain();
        }
        if !open.is_empty() && !self.slots.all_congruent() {
            self.uncertain.lose_folios();
        }
        // A result that one branch made certain may be undone by another.
        for region in open {
            self.widen(region);
        }
        if tally.died {
            return Err(Unjudgeable {
                why: "one branch kills the TD while others run".to_owned(),
                advice: "let the access that kills the TD stand in a step of its own".to_owned(),
            });
        }
        tally.entries_at_most = None;
        tally.reads.clear();
        Ok(())
    }

    /// The regions touched by more than one branch.
    fn meeting_regions(&self, branches: &[Branch]) -> Result<Vec<u64>, Unjudgeable> {
        let mut stretches: Vec<(Pages, usize)> = Vec::new();
        for (who, branch) in branches.iter().enumerate() {
            for op in &branch.0 {
                stretches.push((
                    regions_touching(&pages_of(op.range().unwrap_or_default())),
                    who,
                ));
            }
        }
        // Regions that share a folio are neighbours.
        let spill = u64::from(!self.slots.all_congruent());
        let inside = regions_touching(&pages_of(self.memory));
        let mut meeting = BTreeMap::new();
        for (index, (a, who)) in stretches.iter().enumerate() {
            for (b, other) in &stretches[index + 1..] {
                if who == other {
                    continue;
                }
                let start = a.start.max(b.start).saturating_sub(spill).max(inside.start);
                let end = (a.end.min(b.end) + spill).min(inside.end);
                if end.saturating_sub(start) > MOST_FOG {
                    return Err(too_much());
                }
                meeting.extend((start..end).map(|region| (region, ())));
                // Far apart in the guest, and yet in one folio: slots may lie in the file in any
                // order.
                if spill > 0 && self.share_a_folio(a, b) {
                    for touched in [a, b] {
                        if touched.end - touched.start > MOST_FOG {
                            return Err(too_much());
                        }
                        meeting.extend(touched.clone().map(|region| (region, ())));
                    }
                }
            }
        }
        Ok(meeting.into_keys().collect())
    }

    /// Whether pages of two stretches of regions can lie in one folio of the guest_memfd.
    fn share_a_folio(&self, one: &Pages, other: &Pages) -> bool {
        let folios = |regions: &Pages| -> Vec<Pages> {
            let pieces = self.slots.pieces(&gfns_of_all(regions)).into_iter();
            pieces.map(|(_, file)| regions_touching(&file)).collect()
        };
        let others = folios(other);
        let meets = |mine: &Pages| others.iter().any(|theirs| overlap(mine, theirs));
        folios(one).iter().any(meets)
    }

    /// From now on only bounds are known of the region, and its steady pages: all that were accepted.
    fn cover(&mut self, region: u64) {
        let (facts, _) = self.regions.at(region);
        if facts.uncertain {
            return;
        }
        let gfns = gfns_of(region);
        let pages = self
            .sept
            .count(gfns.clone(), |sept| matches!(sept, Sept::Page(_)))
            + self.shared.count(gfns.clone(), |page| page.mapped);
        let leaf = matches!(self.sept.at(gfns.start).0, Sept::Leaf(_));
        let mut populated = 0;
        for (_, file) in self.slots.pieces(&gfns) {
            populated += self.folios.held(file.clone());
            self.folios.free(file);
        }
        let exact = Bounds {
            pages_4k: Interval::exactly(pages as i64),
            pages_2m: Interval::exactly(i64::from(leaf)),
            populated: Interval::exactly(populated as i64),
        };
        self.uncertain.mark(region, exact, facts.table);
        let accepted = self.sept.those(gfns.clone(), Sept::is_accepted);
        self.sept.set(gfns.clone(), Sept::Absent);
        self.shared.set(gfns, SharedPage::default());
        for stretch in accepted {
            self.steady.set(stretch, true);
        }
        self.regions.set(
            region..region + 1,
            Region {
                uncertain: true,
                ..facts
            },
        );
    }

    /// Whether these pages are still accepted, and what they hold, is not known from now on.
    pub(super) fn unsettle(&mut self, pages: Pages) {
        self.steady.set(pages.clone(), false);
        self.filled.set(pages, None);
    }

    fn unsettle_within(&mut self, region: u64, harmed: &[Pages]) {
        let own = gfns_of(region);
        for pages in harmed.iter().filter(|pages| overlap(pages, &own)) {
            self.unsettle(pages.start.max(own.start)..pages.end.min(own.end));
        }
    }

    /// The guest writes pages of an uncertain region: those that are steady hold that now.
    pub(super) fn fill_steady(&mut self, pages: Pages, generation: Generation) {
        for stretch in self.steady.those(pages, |is_steady| is_steady) {
            self.filled.set(stretch, Some(generation));
        }
    }

    /// Any mapping of an uncertain region is possible now in which its steady pages are mapped.
    pub(super) fn widen(&mut self, region: u64) {
        let steady = self.steady.count(gfns_of(region), |is_steady| is_steady);
        self.uncertain.widen(region, &self.design, steady);
    }

    /// Whether anything happened in these pages depends on a race.
    pub(super) fn becomes_uncertain(&mut self, tally: &mut Tally, pages: Pages) {
        for region in regions_touching(&pages) {
            self.cover(region);
        }
        self.stir(tally, &pages);
    }

    /// The guest or the host did something in these pages, some of them uncertain.
    pub(super) fn stir(&mut self, tally: &mut Tally, pages: &Pages) {
        tally.becomes_uncertain();
        for region in regions_touching(pages) {
            if self.regions.at(region).0.uncertain {
                self.widen(region);
            }
        }
    }

    /// The guest has read all of these pages, some of them uncertain.
    pub(super) fn reach(&mut self, pages: &Pages) {
        for region in pages.start.div_ceil(REGION)..pages.end / REGION {
            self.uncertain.fill(region);
        }
    }

    /// Whether an access of the step may or may not kill the TD, depending on a race.
    pub(super) fn may_die(&self, op: &Op) -> bool {
        op.accesses() == Some(Side::Private)
            && self.sept_ve_disable
            && !self
                .uncertain_regions(&pages_of(op.range().unwrap_or_default()))
                .is_empty()
    }
}

/// The pages of which an operation of a race may take away, share or write some. All others stay accepted
/// with what they hold: no ACCEPT, no access and no mapping changes an accepted page.
fn harmed_by(op: &Op) -> Option<Pages> {
    let harmless = match op {
        Op::Touch { side, .. } => *side == Side::Private,
        Op::Accept { .. }
        | Op::Verify { .. }
        | Op::Probe { .. }
        | Op::Prefault { .. }
        | Op::Allocate { .. } => true,
        _ => false,
    };
    let pages = pages_around(op.range()?);
    (!harmless).then_some(pages)
}

fn too_much() -> Unjudgeable {
    Unjudgeable {
        why: "branches race over too much memory to judge what is left".to_owned(),
        advice: "let the branches meet in fewer 2M regions".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_plan::addr::{Gpa, GpaRange};
    use tdxlab_plan::{Action, Design, Guest, LOW_BASE, Size, Slot, VcpuId};

    use super::*;
    use crate::Predictor;

    /// Found by `tdxlab fuzz`: the slots are reversed in the file, so that distant guest pages
    /// share a folio, and the first access decides how much of it is populated.
    #[test]
    fn a_folio_behind_two_slots_makes_a_race_of_what_lies_apart() {
        let page = 1 << 12;
        let memory = GpaRange::with_len(LOW_BASE, 6156 << 10).unwrap();
        let at = |offset: u64, bytes: u64| {
            GpaRange::with_len(Gpa::new(LOW_BASE.as_u64() + offset), bytes).unwrap()
        };
        let guest = Guest {
            slots: vec![
                Slot {
                    range: at(0, 2 << 20),
                    gmem_offset: 4112 << 10,
                },
                Slot {
                    range: at(2 << 20, 4108 << 10),
                    gmem_offset: 0,
                },
            ],
            ..Guest::over(memory)
        };
        let accept = Op::Accept {
            range: at(6 << 20, page),
            size: Size::Size4K,
            vcpu: VcpuId(0),
        };
        let race = Action::Parallel(vec![
            Branch(vec![accept]),
            Branch(vec![Op::Punch { range: at(0, page) }]),
        ]);
        let mut predictor = Predictor::new(Design::named("headtail").unwrap(), &guest);
        let populated = predictor.step(&race).unwrap().populated;
        assert!(populated.min < populated.max, "{populated:?}");
    }
}
