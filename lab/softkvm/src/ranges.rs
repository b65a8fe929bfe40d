//! A set of guest-physical addresses, kept as ranges.

use std::collections::BTreeMap;

use tdxlab_protocol::addr::{Gpa, GpaRange};

/// Disjoint ranges that do not touch each other, by start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet(BTreeMap<Gpa, Gpa>);

impl RangeSet {
    /// Adds all of `range`.
    pub(crate) fn insert(&mut self, range: GpaRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start(), range.end());
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            start = start.min(from);
            end = end.max(to);
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    /// Takes all of `range` out.
    pub(crate) fn remove(&mut self, range: GpaRange) {
        if range.is_empty() {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..range.end()).next_back() {
            if to <= range.start() {
                break;
            }
            self.0.remove(&from);
            if to > range.end() {
                self.0.insert(range.end(), to);
            }
            if from < range.start() {
                self.0.insert(from, range.start());
            }
        }
    }

    /// Whether `gpa` is in the set.
    pub(crate) fn contains(&self, gpa: Gpa) -> bool {
        self.0
            .range(..=gpa)
            .next_back()
            .is_some_and(|(_, &end)| gpa < end)
    }

    /// Whether all of `range` is in the set.
    pub(crate) fn covers(&self, range: GpaRange) -> bool {
        range.is_empty()
            || self
                .0
                .range(..=range.start())
                .next_back()
                .is_some_and(|(_, &end)| range.end() <= end)
    }

    /// Whether any of `range` is in the set.
    pub(crate) fn overlaps(&self, range: GpaRange) -> bool {
        self.0
            .range(..range.end())
            .next_back()
            .is_some_and(|(_, &end)| range.start() < end && !range.is_empty())
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = GpaRange> + '_ {
        self.0
            .iter()
            .filter_map(|(&start, &end)| GpaRange::new(start, end))
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
