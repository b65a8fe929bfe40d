//! Regions of which only bounds are known after a race.
//!
//! Where branches of a parallel step meet in a 2M region, the unknown order decides what is mapped
//! there. Such a region is uncertain for the rest of the TD's life. What still holds: a region
//! holds at most 512 4K leaves or one 2M leaf, its leaf splits at most once in a step (a table
//! never becomes a leaf again), a hole or a conversion over all of it leaves nothing private
//! mapped, and the guest_memfd holds all of it once every page of it was read. Pages that nobody
//! takes away, shares or writes stay accepted with what they hold, whatever the order: they are
//! *steady*, and are mapped by the leaf or by as many 4K leaves.

use std::collections::BTreeMap;

use tdxlab_plan::{Design, Interval};

use super::pages::REGION;

/// Bounds on what one uncertain region contributes to the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) pages_4k: Interval,
    pub(super) pages_2m: Interval,
    pub(super) populated: Interval,
}

/// The uncertain regions, by region number.
#[derive(Clone, Debug, Default)]
pub(super) struct UncertainRegions {
    regions: BTreeMap<u64, Uncertain>,
    /// Folios reach from uncertain regions into others: the number of populated pages is unknown.
    folios_lost: bool,
}

#[derive(Clone, Copy, Debug)]
struct Uncertain {
    now: Bounds,
    /// Bounds when the step began, where the step has changed them.
    before: Option<Bounds>,
    /// It had a table when it became uncertain: it cannot split.
    table: bool,
    /// The step may have split its leaf.
    may_split: bool,
}

/// Contribution of uncertain regions to the change of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UncertainDelta {
    pub(super) pages_4k: Interval,
    pub(super) pages_2m: Interval,
    pub(super) splits: Interval,
}

impl UncertainRegions {
    /// Marks a region as uncertain whose contribution has been exact so far.
    pub(super) fn mark(&mut self, region: u64, exact: Bounds, table: bool) {
        self.regions.entry(region).or_insert(Uncertain {
            now: exact,
            before: Some(exact),
            table,
            may_split: false,
        });
    }

    /// The region was changed: any legal mapping is possible now in which so many pages are steady.
    pub(super) fn widen(&mut self, region: u64, design: &Design, steady: u64) {
        let Some(region) = self.regions.get_mut(&region) else {
            return;
        };
        region.before.get_or_insert(region.now);
        let leaf = design.huge() && !region.table;
        region.may_split |= leaf;
        region.now = Bounds {
            pages_4k: from(if leaf { 0 } else { steady }, REGION),
            pages_2m: up_to(u64::from(leaf)),
            populated: from(steady, REGION),
        };
    }

    /// The region has no private mapping any more; the caller knows the rest.
    pub(super) fn clear(&mut self, region: u64, shared: bool, populated: bool) {
        let Some(region) = self.regions.get_mut(&region) else {
            return;
        };
        region.before.get_or_insert(region.now);
        region.now = Bounds {
            pages_4k: if shared {
                up_to(REGION)
            } else {
                Interval::default()
            },
            pages_2m: Interval::default(),
            populated: if populated {
                region.now.populated
            } else {
                Interval::default()
            },
        };
    }

    /// The guest has read every page of the region, outside of a race: readable pages are mapped,
    /// and mapped pages are populated.
    pub(super) fn fill(&mut self, region: u64) {
        if let Some(region) = self.regions.get_mut(&region) {
            region.now.populated = Interval::exactly(REGION as i64);
        }
    }

    /// Closes a step: the sum of changes since the previous call.
    pub(super) fn close(&mut self) -> UncertainDelta {
        let mut delta = UncertainDelta::default();
        for region in self.regions.values_mut() {
            if let Some(before) = region.before.take() {
                delta.pages_4k = delta.pages_4k + change(before.pages_4k, region.now.pages_4k);
                delta.pages_2m = delta.pages_2m + change(before.pages_2m, region.now.pages_2m);
            }
            if std::mem::take(&mut region.may_split) {
                delta.splits = delta.splits + up_to(1);
            }
        }
        delta
    }

    /// A race went over regions that share folios with their neighbours.
    pub(super) fn lose_folios(&mut self) {
        self.folios_lost = true;
    }

    /// Bounds on the populated pages, given those outside of uncertain regions and those of all test memory.
    pub(super) fn populated(&self, outside: u64, most: u64) -> Interval {
        if self.folios_lost {
            return up_to(most);
        }
        self.regions
            .values()
            .fold(Interval::exactly(outside as i64), |sum, region| {
                sum + region.now.populated
            })
    }
}

fn up_to(value: u64) -> Interval {
    from(0, value)
}

fn from(min: u64, max: u64) -> Interval {
    Interval {
        min: min as i64,
        max: max as i64,
    }
}

/// The change from somewhere in `before` to somewhere in `after`.
fn change(before: Interval, after: Interval) -> Interval {
    Interval {
        min: after.min - before.max,
        max: after.max - before.min,
    }
}
