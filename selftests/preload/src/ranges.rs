//! A set of addresses, kept as ranges.

use std::collections::BTreeMap;

/// Half-open ranges that neither touch nor overlap, by start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) const fn new() -> Ranges {
        Ranges(BTreeMap::new())
    }

    /// Adds `start..end`.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        // What touches the new range becomes part of it.
        while let Some((&before, &until)) = self.0.range(..=end).next_back() {
            if until < start {
                break;
            }
            start = start.min(before);
            end = end.max(until);
            self.0.remove(&before);
        }
        self.0.insert(start, end);
    }

    /// Takes `start..end` away.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        while let Some((&before, &until)) = self.0.range(..end).next_back() {
            if until <= start {
                break;
            }
            self.0.remove(&before);
            if until > end {
                self.0.insert(end, until);
            }
            if before < start {
                self.0.insert(before, start);
                break;
            }
        }
    }

    /// Whether `address` is in the set.
    pub(crate) fn contains(&self, address: u64) -> bool {
        self.0
            .range(..=address)
            .next_back()
            .is_some_and(|(_, &until)| address < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sequence of a few inserts and removes agrees with a bit per address.
    #[test]
    fn agrees_with_a_bit_per_address() {
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let (mut ranges, mut bits) = (Ranges::new(), [false; 24]);
            for _ in 0..12 {
                let (a, b) = (next(24), next(25));
                let (start, end) = (a.min(b), a.max(b));
                let add = next(2) == 0;
                bits[start as usize..end as usize].fill(add);
                if add {
                    ranges.insert(start, end);
                } else {
                    ranges.remove(start, end);
                }
                for (address, &bit) in bits.iter().enumerate() {
                    assert_eq!(ranges.contains(address as u64), bit);
                }
            }
            // No two ranges touch.
            let all: Vec<_> = ranges.0.iter().collect();
            assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
