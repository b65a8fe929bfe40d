//! A set of guest-physical addresses, kept as ranges.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange};

/// Disjoint ranges that do not touch each other, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(rangemap::RangeSet<Gpa>);

fn bounds(range: GpaRange) -> Range<Gpa> {
    range.start()..range.end()
}

fn whole(part: Range<Gpa>) -> Option<GpaRange> {
    GpaRange::new(part.start, part.end)
}

impl RangeSet {
    /// Adds all of `range`.
    pub fn insert(&mut self, range: GpaRange) {
        if !range.is_empty() {
            self.0.insert(bounds(range));
        }
    }

    /// Takes all of `range` out.
    pub fn remove(&mut self, range: GpaRange) {
        if !range.is_empty() {
            self.0.remove(bounds(range));
        }
    }

    /// Whether all of `range` is in the set.
    pub fn covers(&self, range: GpaRange) -> bool {
        range.is_empty() || self.0.gaps(&bounds(range)).next().is_none()
    }

    /// Its ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = GpaRange> {
        self.0.iter().cloned().filter_map(whole)
    }

    /// What is in this set and not in `other`, in order.
    pub fn without(&self, other: &RangeSet) -> Vec<GpaRange> {
        let parts = self.0.iter().flat_map(|range| other.0.gaps(range));
        parts.filter_map(whole).collect()
    }
}

impl Extend<GpaRange> for RangeSet {
    fn extend<T: IntoIterator<Item = GpaRange>>(&mut self, ranges: T) {
        ranges.into_iter().for_each(|range| self.insert(range));
    }
}

impl FromIterator<GpaRange> for RangeSet {
    fn from_iter<T: IntoIterator<Item = GpaRange>>(ranges: T) -> RangeSet {
        let mut set = RangeSet::default();
        set.extend(ranges);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[test]
    fn empty_ranges_change_nothing() {
        let mut set = RangeSet::from_iter([range(0, 8), range(8, 8), range(8, 16)]);
        assert!(set.iter().eq([range(0, 16)]));
        set.remove(range(4, 4));
        assert!(set.covers(range(0, 16)) && set.covers(range(99, 99)));
        assert!(!set.covers(range(15, 17)));
    }

    #[test]
    fn what_another_set_lacks_is_found_in_pieces() {
        let set = RangeSet::from_iter([range(0, 8), range(16, 24)]);
        let other = RangeSet::from_iter([range(2, 4), range(6, 20)]);
        let pieces = [range(0, 2), range(4, 6), range(20, 24)];
        assert_eq!(set.without(&other), pieces);
        assert_eq!(other.without(&set), [range(8, 16)]);
    }
}
