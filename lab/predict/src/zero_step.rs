//! The TDX module's filter against zero-stepping, as far as it shows: docs/semantics.md, section 11.
//!
//! Only a `touch` with `same_rip` gets anywhere with it: every other operation takes another
//! instruction for each access, so that its first fault ends the count and forgets what was noted.
//! What is noted is known from above: the module may have less.

use tdxlab_plan::addr::{GpaRange, Side};
use tdxlab_plan::{Branch, Op, SlotChange, TdxModule, VcpuId};

use super::access::Access;
use super::hole::pages_around;
use super::pages::{count, gfns_of_all, overlap, range_of, regions_touching};
use super::runs::Pages;
use super::state::State;
use super::tally::Tally;
use super::unjudgeable::Unjudgeable;

/// Faults at one instruction that are counted and not noted (STEPPING_EPF_THRESHOLD).
const COUNTED: u64 = 6;

/// What the module may know of a vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Stepping {
    /// Most faults at one instruction.
    faults: u64,
    /// Where the addresses of those beyond [`COUNTED`] lie.
    noted: Vec<Pages>,
}

/// Accesses that fault, or may.
#[derive(Clone, Debug)]
pub(super) struct Faulted {
    /// Pages that they map.
    pub(super) pages: Pages,
    /// How many of them each maps.
    pub(super) each: u64,
}

impl State {
    /// Private accesses over a range, all by one instruction.
    ///
    /// From the seventh fault on the module notes where it was. It lets a vCPU in again only once no
    /// noted address would fault (`td_entry_stepping_filter()`): KVM has mapped the page by then, but
    /// to 1.5.01 a page that is pending would fault, too.
    pub(super) fn access_by_one_instruction(
        &mut self,
        tally: &mut Tally,
        range: GpaRange,
        access: Access,
        vcpu: VcpuId,
    ) -> Result<(), Unjudgeable> {
        let before = self.clone();
        tally.faulted = Some(Vec::new());
        self.access(tally, range, access);
        let faulted = tally.faulted.take().unwrap_or_default();
        let stepping = self.stepping.entry(vcpu).or_default();
        for Faulted { pages, each } in faulted {
            let only_counted = COUNTED.saturating_sub(stepping.faults);
            let number = count(&pages).unsigned_abs().div_ceil(each);
            stepping.faults += number;
            if number > only_counted {
                let first = pages.start + only_counted * each;
                stepping.noted.push(first..pages.end);
            }
        }
        let admits_pending = self.module >= Some(TdxModule::V1_5_25);
        if stepping.noted.is_empty() || admits_pending {
            return Ok(());
        }
        *self = before;
        Err(Unjudgeable {
            why: match self.module {
                Some(module) => format!(
                    "from the seventh access on that faults in {range}, TDX module {module} keeps \
                     vCPU {} out for as long as the page is pending",
                    vcpu.0
                ),
                None => format!(
                    "whether vCPU {} gets on after the seventh access that faults in {range} depends \
                     on the TDX module, and which it is nobody says",
                    vcpu.0
                ),
            },
            advice:
                "leave `same_rip` out, or say with `needs: { module: 1.5.25 }` which module it \
                     takes; 1.5.01 is not one"
                    .to_owned(),
        })
    }

    /// The vCPU has faulted elsewhere: the module starts anew.
    pub(super) fn steps_on(&mut self, vcpu: VcpuId) {
        self.stepping.remove(&vcpu);
    }

    /// Refuses to take away what the module may have noted: the next entry of the vCPU, which may be
    /// now or much later, is a fault there, and maps it again. What RELEASE leaves pending is let in by
    /// the modules that get this far.
    pub(super) fn leaves_noted(&self, op: &Op) -> Result<(), Unjudgeable> {
        match *op {
            Op::Punch { range }
            | Op::Convert {
                range,
                to: Side::Shared,
                ..
            }
            | Op::SetAttributes {
                range,
                to: Side::Shared,
            }
            | Op::Slot {
                range,
                change: SlotChange::Delete,
            }
            | Op::Touch {
                range,
                side: Side::Shared,
                ..
            }
            | Op::Fill {
                range,
                side: Side::Shared,
                ..
            } => self.is_not_noted(&pages_around(range)),
            _ => Ok(()),
        }
    }

    /// Refuses races over what may be noted, and races of accesses by one instruction: a page that
    /// goes, or whose leaf splits, while its vCPU is about to enter may or may not be an exit.
    pub(super) fn counts_alone(
        &self,
        branches: &[Branch],
        meeting: &[u64],
    ) -> Result<(), Unjudgeable> {
        for op in branches.iter().flat_map(|branch| &branch.0) {
            let regions = regions_touching(&pages_around(op.range().unwrap_or_default()));
            self.is_not_noted(&gfns_of_all(&regions))?;
            if matches!(op, Op::Touch { same_rip: true, .. })
                && meeting.iter().any(|region| regions.contains(region))
            {
                return Err(Unjudgeable {
                    why: "accesses by one instruction race with others in their 2M regions: how many \
                          fault, and where the vCPU waits, depends on the order"
                        .to_owned(),
                    advice: "leave `same_rip` out, or let the branches work apart".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn is_not_noted(&self, pages: &Pages) -> Result<(), Unjudgeable> {
        let found = self.stepping.iter().find_map(|(vcpu, stepping)| {
            let noted = stepping.noted.iter().find(|noted| overlap(noted, pages))?;
            Some((vcpu.0, range_of(noted)))
        });
        let Some((vcpu, noted)) = found else {
            return Ok(());
        };
        Err(Unjudgeable {
            why: format!(
                "the TDX module has noted addresses in {noted} for its zero-step filter: what goes \
                 there is mapped again when vCPU {vcpu} enters next"
            ),
            advice: format!(
                "let an access of vCPU {vcpu} without `same_rip` fault before, which ends the count"
            ),
        })
    }
}
