//! A map from page numbers to values, kept as sorted runs of equal values.
//!
//! All state of the predictor is kept in these. The cost of a step grows with the runs it touches,
//! not with the pages in them: 8 TiB of accepted leaves are one run.

use std::ops::Range;

/// Numbers of 4K pages, in guest-physical space or in the guest_memfd. Half open.
pub(super) type Pages = Range<u64>;

/// `count` pages of one value from `start` up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run<V> {
    start: u64,
    end: u64,
    value: V,
}

/// The map. Pages without a run hold `V::default()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs<V> {
    /// Sorted, disjoint, none empty, none of the default value, neighbours that touch differ.
    runs: Vec<Run<V>>,
}

impl<V: Copy + Eq + Default> Runs<V> {
    /// The value of a page, and the first page from which on it may be another.
    pub(super) fn at(&self, page: u64) -> (V, u64) {
        let index = self.first_ending_after(page);
        match self.runs.get(index) {
            Some(run) if run.start <= page => (run.value, run.end),
            Some(run) => (V::default(), run.start),
            None => (V::default(), u64::MAX),
        }
    }

    /// The stretches of equal value that make up `pages`, gaps included, in order.
    pub(super) fn stretches(&self, pages: Pages) -> impl Iterator<Item = (Pages, V)> + '_ {
        let mut index = self.first_ending_after(pages.start);
        let mut cursor = pages.start;
        std::iter::from_fn(move || {
            if cursor >= pages.end {
                return None;
            }
            let (value, end) = match self.runs.get(index) {
                Some(run) if run.start <= cursor => {
                    index += 1;
                    (run.value, run.end)
                }
                Some(run) => (V::default(), run.start),
                None => (V::default(), u64::MAX),
            };
            let stretch = cursor..end.min(pages.end);
            cursor = stretch.end;
            Some((stretch, value))
        })
    }

    /// The stretches of `pages` with a value that `wanted` picks.
    pub(super) fn those(&self, pages: Pages, mut wanted: impl FnMut(V) -> bool) -> Vec<Pages> {
        self.stretches(pages)
            .filter(|(_, value)| wanted(*value))
            .map(|(stretch, _)| stretch)
            .collect()
    }

    /// How many of `pages` hold a value that `wanted` picks.
    pub(super) fn count(&self, pages: Pages, mut wanted: impl FnMut(V) -> bool) -> u64 {
        self.stretches(pages)
            .filter(|(_, value)| wanted(*value))
            .map(|(stretch, _)| stretch.end - stretch.start)
            .sum()
    }

    /// Whether every one of `pages` holds a value that `wanted` picks.
    pub(super) fn all(&self, pages: Pages, mut wanted: impl FnMut(V) -> bool) -> bool {
        self.stretches(pages).all(|(_, value)| wanted(value))
    }

    /// Gives all of `pages` the same value.
    pub(super) fn set(&mut self, pages: Pages, value: V) {
        if pages.is_empty() {
            return;
        }
        let mut from = self.first_ending_after(pages.start);
        let mut to = from + self.runs[from..].partition_point(|run| run.start < pages.end);
        let mut new = Run {
            start: pages.start,
            end: pages.end,
            value,
        };
        let mut before = None;
        let mut after = None;
        if from < to {
            let first = self.runs[from];
            if first.start < pages.start {
                before = Some(Run {
                    end: pages.start,
                    ..first
                });
            }
            let last = self.runs[to - 1];
            if pages.end < last.end {
                after = Some(Run {
                    start: pages.end,
                    ..last
                });
            }
        }
        // Adjacent runs of equal value are merged.
        if before.is_none() && from > 0 && self.runs[from - 1].end == pages.start {
            from -= 1;
            before = Some(self.runs[from]);
        }
        if after.is_none() && to < self.runs.len() && self.runs[to].start == pages.end {
            after = Some(self.runs[to]);
            to += 1;
        }
        if let Some(run) = before
            && run.value == value
        {
            new.start = run.start;
            before = None;
        }
        if let Some(run) = after
            && run.value == value
        {
            new.end = run.end;
            after = None;
        }
        let new = (value != V::default()).then_some(new);
        self.runs
            .splice(from..to, before.into_iter().chain(new).chain(after));
    }

    /// Gives each of `pages` a value made from its old one.
    pub(super) fn update(&mut self, pages: Pages, mut change: impl FnMut(V) -> V) {
        let changes: Vec<_> = self
            .stretches(pages)
            .filter_map(|(stretch, old)| {
                let new = change(old);
                (new != old).then_some((stretch, new))
            })
            .collect();
        for (stretch, value) in changes {
            self.set(stretch, value);
        }
    }

    fn first_ending_after(&self, page: u64) -> usize {
        self.runs.partition_point(|run| run.end <= page)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACE: u64 = 64;

    fn naive(runs: &Runs<u8>) -> Vec<u8> {
        (0..SPACE).map(|page| runs.at(page).0).collect()
    }

    proptest! {
        #[test]
        fn runs_behave_like_an_array(
            changes in prop::collection::vec((0..SPACE, 0..SPACE, 0..4_u8), 0..40)
        ) {
            let mut runs = Runs::default();
            let mut array = vec![0_u8; SPACE as usize];
            for (a, b, value) in changes {
                let pages = a.min(b)..a.max(b);
                runs.set(pages.clone(), value);
                array[pages.start as usize..pages.end as usize].fill(value);
                prop_assert_eq!(&naive(&runs), &array);
            }
            for pair in runs.runs.windows(2) {
                prop_assert!(pair[0].end < pair[1].start || pair[0].value != pair[1].value);
            }
            prop_assert!(runs.runs.iter().all(|run| run.value != 0 && run.start < run.end));
            let joined: Vec<u8> = runs
                .stretches(3..SPACE - 5)
                .flat_map(|(stretch, value)| stretch.map(move |_| value))
                .collect();
            prop_assert_eq!(&joined[..], &array[3..SPACE as usize - 5]);
        }
    }

    #[test]
    fn equal_neighbours_are_one_run() {
        let mut runs = Runs::default();
        runs.set(0..10, 1_u8);
        runs.set(10..20, 1);
        assert_eq!(runs.at(0), (1, 20));
        runs.update(5..15, |_| 2);
        runs.set(5..15, 1);
        assert_eq!(runs.at(0), (1, 20));
    }
}
