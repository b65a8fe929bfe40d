//! Run-length coded sequences over addresses, walked side by side.
//!
//! The work grows with the number of stretches, never with the number of pages in them.

use tdxlab_protocol::addr::{Gpa, GpaRange};

/// `count` positions from `start` up, `step` bytes apart, all with the same `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch<T> {
    pub(super) start: Gpa,
    pub(super) step: u64,
    pub(super) count: u64,
    pub(super) value: T,
}

impl<T> Stretch<T> {
    /// What it covers; cut at the end of the address space.
    pub(super) fn range(&self) -> GpaRange {
        let bytes = self.step.saturating_mul(self.count);
        let bytes = bytes.min(u64::MAX - self.start.as_u64());
        GpaRange::with_len(self.start, bytes).unwrap_or_default()
    }
}

/// What the two sequences have at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting<A, B> {
    /// Both have the same positions.
    Both(Stretch<(A, B)>),
    /// They part: another address or another step. Nothing after it can be compared.
    Parted(Stretch<A>, Stretch<B>),
    /// Only the first goes on.
    First(Stretch<A>),
    /// Only the second goes on.
    Second(Stretch<B>),
}

/// Both sequences side by side, in order.
pub(super) fn walk<'a, A: Copy, B: Copy>(
    first: &'a [Stretch<A>],
    second: &'a [Stretch<B>],
) -> impl Iterator<Item = Meeting<A, B>> + 'a {
    let (mut first, mut second) = (Cursor::new(first), Cursor::new(second));
    let mut parted = false;
    std::iter::from_fn(move || {
        if parted {
            return None;
        }
        match (first.current(), second.current()) {
            (Some(a), Some(b)) if (a.start, a.step) != (b.start, b.step) => {
                parted = true;
                Some(Meeting::Parted(a, b))
            }
            (Some(a), Some(b)) => {
                let count = a.count.min(b.count);
                first.advance(count);
                second.advance(count);
                Some(Meeting::Both(Stretch {
                    start: a.start,
                    step: a.step,
                    count,
                    value: (a.value, b.value),
                }))
            }
            (Some(a), None) => {
                first.advance(a.count);
                Some(Meeting::First(a))
            }
            (None, Some(b)) => {
                second.advance(b.count);
                Some(Meeting::Second(b))
            }
            (None, None) => None,
        }
    })
}

/// A position in a sequence.
struct Cursor<'a, T> {
    rest: &'a [Stretch<T>],
    used: u64,
}

impl<'a, T: Copy> Cursor<'a, T> {
    fn new(stretches: &'a [Stretch<T>]) -> Cursor<'a, T> {
        let mut cursor = Cursor {
            rest: stretches,
            used: 0,
        };
        cursor.advance(0);
        cursor
    }

    /// What is left of the current stretch; `None` at the end, and past the address space.
    fn current(&self) -> Option<Stretch<T>> {
        let stretch = self.rest.first()?;
        let start = stretch
            .start
            .checked_add(self.used.checked_mul(stretch.step)?)?;
        Some(Stretch {
            start,
            count: stretch.count - self.used,
            ..*stretch
        })
    }

    fn advance(&mut self, count: u64) {
        self.used = self.used.saturating_add(count);
        while let Some(stretch) = self.rest.first()
            && self.used >= stretch.count
        {
            self.used -= stretch.count;
            self.rest = &self.rest[1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(start: u64, count: u64, value: char) -> Stretch<char> {
        Stretch {
            start: Gpa::new(start),
            step: 0x1000,
            count,
            value,
        }
    }

    #[test]
    fn sequences_cut_at_different_places_meet_piece_by_piece() {
        let first = [stretch(0, 3, 'a'), stretch(0x3000, 1, 'b')];
        let second = [stretch(0, 1, 'x'), stretch(0x1000, 3, 'y')];
        let met: Vec<_> = walk(&first, &second)
            .map(|meeting| match meeting {
                Meeting::Both(both) => (both.start.as_u64(), both.count, both.value),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            met,
            [
                (0, 1, ('a', 'x')),
                (0x1000, 2, ('a', 'y')),
                (0x3000, 1, ('b', 'y')),
            ]
        );
    }

    #[test]
    fn a_sequence_that_leaves_the_path_ends_the_walk() {
        let first = [stretch(0, 2, 'a'), stretch(0x2000, 9, 'b')];
        let second = [stretch(0, 2, 'x'), stretch(0x7000, 9, 'y')];
        let met: Vec<_> = walk(&first, &second).collect();
        assert_eq!(met.len(), 2);
        assert!(matches!(met[1], Meeting::Parted(_, _)));
    }

    #[test]
    fn what_only_one_of_them_has_is_said() {
        let long = [stretch(0, 2, 'a')];
        let met: Vec<_> = walk(&long, &[] as &[Stretch<char>]).collect();
        assert_eq!(met, [Meeting::First(long[0])]);
        let met: Vec<_> = walk(&[] as &[Stretch<char>], &long).collect();
        assert_eq!(met, [Meeting::Second(long[0])]);
    }

    #[test]
    fn empty_stretches_are_passed_over() {
        let first = [stretch(0, 0, 'n'), stretch(0, 1, 'a')];
        let second = [stretch(0, 1, 'x')];
        assert_eq!(walk(&first, &second).count(), 1);
    }
}
