//! A set of guest-physical addresses, kept as ranges.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange};

/// Disjoint ranges that do not touch each other, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet(rangemap::RangeSet<Gpa>);

fn bounds(range: GpaRange) -> Range<Gpa> {
    range.start()..range.end()
}

impl RangeSet {
    /// Adds all of `range`.
    pub(crate) fn insert(&mut self, range: GpaRange) {
        if !range.is_empty() {
            self.0.insert(bounds(range));
        }
    }

    /// Takes all of `range` out.
    pub(crate) fn remove(&mut self, range: GpaRange) {
        if !range.is_empty() {
            self.0.remove(bounds(range));
        }
    }

    /// Whether `gpa` is in the set.
    pub(crate) fn contains(&self, gpa: Gpa) -> bool {
        self.0.contains(&gpa)
    }

    /// Whether all of `range` is in the set.
    pub(crate) fn covers(&self, range: GpaRange) -> bool {
        let around = self.0.get(&range.start());
        range.is_empty() || around.is_some_and(|around| range.end() <= around.end)
    }

    /// Whether any of `range` is in the set.
    pub(crate) fn overlaps(&self, range: GpaRange) -> bool {
        !range.is_empty() && self.0.overlaps(&bounds(range))
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = GpaRange> + '_ {
        self.0
            .iter()
            .filter_map(|range| GpaRange::new(range.start, range.end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    proptest! {
        #[test]
        fn behaves_like_a_bitmap(steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 1..40)) {
            let mut set = RangeSet::default();
            let mut bits = [false; 64];
            for (insert, start, len) in steps {
                let range = range(start, start + len);
                if insert { set.insert(range) } else { set.remove(range) }
                for at in start..start + len {
                    bits[at as usize] = insert;
                }
                for at in 0..64u64 {
                    prop_assert_eq!(set.contains(Gpa::new(at)), bits[at as usize]);
                }
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].start()));
                for from in 0..20u64 {
                    for to in from..24 {
                        let probe = self::range(from, to);
                        let here = &bits[from as usize..to as usize];
                        prop_assert_eq!(set.covers(probe), here.iter().all(|&bit| bit));
                        prop_assert_eq!(set.overlaps(probe), here.iter().any(|&bit| bit));
                    }
                }
            }
        }
    }
}
