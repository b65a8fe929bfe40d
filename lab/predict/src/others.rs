//! What others do to the VM: devices that hold pages, memory slots that go, and a VMM that does not
//! serve every conversion. docs/semantics.md, section 10.

use tdxlab_plan::addr::{GpaRange, Side};
use tdxlab_plan::{Branch, Gone, GuestOp, HostOp, Kind, Op, SlotChange, VmmAnswer};

use super::pages::{REGION, pages_of, regions_touching};
use super::runs::Pages;
use super::state::{Others, Region, SharedPage, State};
use super::tally::Tally;
use super::unjudgeable::Unjudgeable;

/// Bad address.
const EFAULT: i32 = 14;
/// Invalid argument.
const EINVAL: i32 = 22;
/// R10 of a MapGPA that must be made again.
const MAP_GPA_RETRY: u64 = 1;
/// R10 of a MapGPA with a wrong operand, or one that the VMM refuses.
const MAP_GPA_INVALID: u64 = 1 << 63;

/// Where a MapGPA stops, and with which status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// First page of the chunk that is not converted.
    pub(super) at: u64,
    /// R10.
    pub(super) status: u64,
}

impl State {
    /// A device takes references to pages. User space can map shared pages only where both sides are
    /// the same pages of the guest_memfd; elsewhere it holds memory that is no part of it.
    pub(super) fn pin(&mut self, tally: &mut Tally, range: GpaRange) -> Result<(), Unjudgeable> {
        let pages = pages_of(range);
        self.must_be_certain(&pages)?;
        if self.others.count(pages.clone(), |page| page.held) > 0 {
            return Err(Unjudgeable {
                why: format!("some of {range} is pinned already"),
                advice: "pin each page once".to_owned(),
            });
        }
        if self.others.count(pages.clone(), |page| page.no_slot) > 0 {
            return Err(no_slot(range));
        }
        if self.design.in_place() {
            if !self.shared.all(pages.clone(), |page| page.attribute) {
                tally.errnos.push(EFAULT);
                return Ok(());
            }
            self.populate(&pages);
        }
        self.others
            .update(pages, |page| Others { held: true, ..page });
        tally.errnos.push(0);
        Ok(())
    }

    /// The device drops its references.
    pub(super) fn unpin(&mut self, tally: &mut Tally, range: GpaRange) -> Result<(), Unjudgeable> {
        let pages = pages_of(range);
        if !self.others.all(pages.clone(), |page| page.held) {
            return Err(Unjudgeable {
                why: format!("not all of {range} is pinned"),
                advice: "unpin what was pinned before".to_owned(),
            });
        }
        self.others.update(pages, |page| Others {
            held: false,
            ..page
        });
        tally.errnos.push(0);
        Ok(())
    }

    /// A memory slot goes, or comes back. All its leaves are zapped whole, none is split
    /// (`kvm_mmu_zap_memslot_leafs()`); the guest_memfd and the attributes know nothing of slots, and
    /// what forbids huge pages is kept with the slot (`lpage_info`). A slot over a guest_memfd can only
    /// be deleted: to add one that is there is EINVAL (`kvm_set_memory_region()`).
    pub(super) fn change_slot(
        &mut self,
        tally: &mut Tally,
        range: GpaRange,
        change: SlotChange,
    ) -> Result<(), Unjudgeable> {
        let pages = pages_of(range);
        let is_gone = self.others.at(pages.start).0.no_slot;
        if is_gone != (change == SlotChange::Add) {
            tally.errnos.push(EINVAL);
            return Ok(());
        }
        if change == SlotChange::Delete {
            self.must_be_certain(&pages)?;
            self.unmap_private(tally, pages.clone());
            tally.pages_4k -= self.shared.count(pages.clone(), |page| page.mapped) as i64;
            self.shared.update(pages.clone(), |page| SharedPage {
                mapped: false,
                ..page
            });
            self.regions
                .update(regions_touching(&pages), |region| Region {
                    inhibit: false,
                    ..region
                });
        }
        self.others.update(pages, |page| Others {
            no_slot: change == SlotChange::Delete,
            ..page
        });
        tally.errnos.push(0);
        Ok(())
    }

    /// What the VMM answers from now on. One that delays serves in the end, so nothing that the lab
    /// looks at afterwards can differ.
    pub(super) fn answer(&mut self, tally: &mut Tally, range: GpaRange, answer: VmmAnswer) {
        self.others.update(pages_of(range), |page| Others {
            refused: answer == VmmAnswer::Refuse,
            ..page
        });
        tally.errnos.push(0);
    }

    /// The VMM asks for dirty logging, or for its end. KVM refuses the flag beside a guest_memfd, and
    /// any other change of such a slot (`check_memory_region_flags()`, `kvm_set_memory_region()`):
    /// no page table is touched.
    pub(super) fn log_dirty_pages(&self, tally: &mut Tally) {
        tally.errnos.push(EINVAL);
    }

    /// Where a MapGPA of `pages` stops: at the first chunk with a page that no slot serves, that the
    /// VMM refuses, or that is held while it should become private. `None` where it goes through. A
    /// chunk that stops is left as it was, as a whole.
    pub(super) fn stop(&self, pages: &Pages, to: Side) -> Option<Stop> {
        let end = self.memory.end().gfn();
        let past = (pages.end > end).then_some((end, MAP_GPA_INVALID));
        let held_matters = to == Side::Private && self.design.in_place();
        let first = |status, stops: &dyn Fn(Others) -> bool| {
            let mut stretches = self.others.stretches(pages.clone());
            stretches
                .find(|(_, page)| stops(*page))
                .map(|(stretch, _)| (stretch.start, status))
        };
        let refused = first(MAP_GPA_INVALID, &|page| page.no_slot || page.refused);
        let held = first(MAP_GPA_RETRY, &|page| held_matters && page.held);
        [past, refused, held]
            .into_iter()
            .flatten()
            .map(|(page, status)| Stop {
                at: page - (page - pages.start) % REGION,
                status,
            })
            // Of two in the same chunk, the VMM is asked before the guest_memfd is.
            .min_by_key(|stop| (stop.at, stop.status == MAP_GPA_RETRY))
    }

    /// Refuses an operation that depends on what others did: an access where no slot is, a
    /// conversion that a plain access would cause and that fails, a hole beside pages that are held.
    pub(super) fn stays_clear(&self, op: &Op) -> Result<(), Unjudgeable> {
        let Some(range) = op.range() else {
            return Ok(());
        };
        let pages = pages_of(range);
        let in_the_way = |wanted: fn(Others) -> bool| {
            self.others
                .stretches(pages.clone())
                .any(|(_, page)| wanted(page))
        };
        match op.kind() {
            Kind::Guest(_, GuestOp::Convert { to, .. }) => {
                let held = to == Side::Private && in_the_way(|page| page.held);
                if held {
                    self.must_be_certain(&pages)?;
                }
                Ok(())
            }
            Kind::Guest(_, part) => {
                let reads_what_is_there = matches!(
                    part,
                    GuestOp::Verify {
                        gone: Gone::Skip,
                        side: Side::Private,
                        ..
                    }
                );
                if reads_what_is_there {
                    return Ok(());
                }
                if in_the_way(|page| page.no_slot) {
                    return Err(no_slot(range));
                }
                let side = op.accesses().unwrap_or(Side::Private);
                let converts = |stretch: Pages| match side {
                    Side::Private => self.shared.count(stretch, |page| page.attribute) > 0,
                    Side::Shared => !self.shared.all(stretch, |page| page.attribute),
                };
                let fails = self
                    .others
                    .stretches(pages.clone())
                    .filter(|(_, page)| page.refused || page.held)
                    .any(|(stretch, _)| converts(stretch) || self.must_be_certain(&pages).is_err());
                if fails {
                    return Err(Unjudgeable {
                        why: format!("an access in {range} would convert what cannot be converted"),
                        advice: "convert with `convert`, which says how it ends; an access that \
                                 converts ends the VM there"
                            .to_owned(),
                    });
                }
                Ok(())
            }
            Kind::Host(HostOp::Prefault(_)) if in_the_way(|page| page.no_slot) => {
                Err(no_slot(range))
            }
            Kind::Host(HostOp::Punch(_)) => {
                let regions = regions_touching(&pages);
                let around = regions.start * REGION..regions.end * REGION;
                if self.others.count(around, |page| page.held) > 0 {
                    return Err(Unjudgeable {
                        why: format!("a device holds pages in or beside {range}"),
                        advice: "unpin them before the hole is punched".to_owned(),
                    });
                }
                Ok(())
            }
            Kind::Host(_) | Kind::Vm(_) => Ok(()),
        }
    }

    /// Refuses a race over what others do: only a slot may go or come while the guest works
    /// elsewhere, in 2M regions of which the slot has no part.
    pub(super) fn may_race(&self, branches: &[Branch]) -> Result<(), Unjudgeable> {
        for (who, branch) in branches.iter().enumerate() {
            for op in &branch.0 {
                let pages = pages_of(op.range().unwrap_or_default());
                let alone = match op.kind() {
                    Kind::Host(HostOp::Slot(..)) => {
                        let mine = regions_touching(&pages);
                        branches
                            .iter()
                            .enumerate()
                            .filter(|(other, _)| *other != who)
                            .flat_map(|(_, branch)| &branch.0)
                            .map(|op| regions_touching(&pages_of(op.range().unwrap_or_default())))
                            .all(|other| other.end <= mine.start || mine.end <= other.start)
                    }
                    Kind::Host(HostOp::SetAttributes(..)) => false,
                    Kind::Host(part) => !part.is_for_software(),
                    Kind::Guest(_, GuestOp::Convert { .. }) => {
                        self.others.all(pages, |page| page == Others::default())
                    }
                    Kind::Guest(..) | Kind::Vm(_) => true,
                };
                if !alone {
                    return Err(Unjudgeable {
                        why: "what others do to memory races with the guest's use of it".to_owned(),
                        advice: "put `pin`, `unpin`, `conversions`, `attributes` and conversions that fail in \
                                 steps of their own, and race `slot` with what lies in other 2M \
                                 regions"
                            .to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn must_be_certain(&self, pages: &Pages) -> Result<(), Unjudgeable> {
        if self.uncertain_regions(pages).is_empty() {
            return Ok(());
        }
        Err(Unjudgeable {
            why: "what is shared and mapped there depends on how a race went".to_owned(),
            advice: "stay clear of memory that was raced over".to_owned(),
        })
    }
}

pub(super) fn no_slot(range: GpaRange) -> Unjudgeable {
    Unjudgeable {
        why: format!("no memory slot serves all of {range}: an access ends the VM"),
        advice: "add the slot again before the guest uses its memory".to_owned(),
    }
}
