//! Memory slots: which page of the guest_memfd backs which gfn.

use tdxlab_plan::Slot;
use tdxlab_plan::addr::PageLevel;

use super::pages::{REGION, gfns_of};
use super::runs::Pages;

/// The slots of a guest, in gfn order.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    slots: Vec<SlotPages>,
}

#[derive(Clone, Debug)]
struct SlotPages {
    gfns: Pages,
    /// Page of the file behind the first gfn.
    file: u64,
}

impl Slots {
    pub(super) fn new(slots: &[Slot]) -> Slots {
        let slots = slots.iter().map(|slot| SlotPages {
            gfns: slot.range.start().gfn()..slot.range.end().gfn(),
            file: slot.gmem_offset / PageLevel::Size4K.bytes(),
        });
        Slots {
            slots: slots.collect(),
        }
    }

    /// Pages of the guest_memfd: it ends with the last page of the slot that reaches furthest.
    pub(super) fn file_pages(&self) -> u64 {
        let ends = self
            .slots
            .iter()
            .map(|slot| slot.file + slot.gfns.end - slot.gfns.start);
        ends.max().unwrap_or(0)
    }

    /// Pages of the file in no slot, in order. Their population is never checked.
    pub(super) fn unseen(&self) -> Vec<Pages> {
        let mut seen: Vec<Pages> = self
            .slots
            .iter()
            .map(|slot| slot.file..slot.file + slot.gfns.end - slot.gfns.start)
            .collect();
        seen.sort_by_key(|pages| pages.start);
        let mut at = 0;
        let mut unseen = Vec::new();
        for pages in seen {
            if at < pages.start {
                unseen.push(at..pages.start);
            }
            at = pages.end;
        }
        unseen
    }

    /// Whether one slot holds the whole region and puts it on a 2M boundary of the file, so that a
    /// 2M leaf can map it (`lpage_info`): the file page of its start, and for how many regions from
    /// here on that stays so.
    pub(super) fn congruent(&self, region: u64) -> Option<(u64, u64)> {
        let wanted = gfns_of(region);
        let slot = self.slot_of(wanted.start)?;
        let file = slot.file + wanted.start - slot.gfns.start;
        let whole = wanted.end <= slot.gfns.end && file.is_multiple_of(REGION);
        whole.then(|| (file, (slot.gfns.end - wanted.start) / REGION))
    }

    /// Whether every slot maps gfns and file pages that are congruent modulo 2M.
    pub(super) fn all_congruent(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| slot.file % REGION == slot.gfns.start % REGION)
    }

    /// The parts of `gfns` that lie in a slot, each with the file pages behind it.
    pub(super) fn pieces(&self, gfns: &Pages) -> Vec<(Pages, Pages)> {
        let first = self
            .slots
            .partition_point(|slot| slot.gfns.end <= gfns.start);
        self.slots[first..]
            .iter()
            .take_while(|slot| slot.gfns.start < gfns.end)
            .map(|slot| {
                let part = gfns.start.max(slot.gfns.start)..gfns.end.min(slot.gfns.end);
                let file = slot.file + part.start - slot.gfns.start;
                let length = part.end - part.start;
                (part, file..file + length)
            })
            .collect()
    }

    fn slot_of(&self, gfn: u64) -> Option<&SlotPages> {
        let index = self.slots.partition_point(|slot| slot.gfns.end <= gfn);
        self.slots.get(index).filter(|slot| slot.gfns.start <= gfn)
    }
}
