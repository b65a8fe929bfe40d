//! Compares run-length coded sequences over addresses.
//!
//! The work grows with the number of segments, not with the number of pages in them.

use tdxlab_protocol::addr::{Gpa, GpaRange};

/// `count` positions from `start` up, `step` bytes apart, all with the same `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<T> {
    pub(super) start: Gpa,
    pub(super) step: u64,
    pub(super) count: u64,
    pub(super) value: T,
}

impl<T> Segment<T> {
    /// The range it covers; cut at the end of the address space.
    pub(super) fn range(&self) -> GpaRange {
        let bytes = self.step.saturating_mul(self.count);
        let bytes = bytes.min(u64::MAX - self.start.as_u64());
        GpaRange::with_len(self.start, bytes).unwrap_or_default()
    }
}

/// One aligned part of two sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aligned<A, B> {
    /// Both have the same positions.
    Both(Segment<(A, B)>),
    /// They differ in address or step. The rest cannot be compared.
    Parted(Segment<A>, Segment<B>),
    /// Only in the first.
    First(Segment<A>),
    /// Only in the second.
    Second(Segment<B>),
}

/// Both sequences side by side, in order.
pub(super) fn zip_segments<'a, A: Copy, B: Copy>(
    first: &'a [Segment<A>],
    second: &'a [Segment<B>],
) -> impl Iterator<Item = Aligned<A, B>> + 'a {
    let (mut first, mut second) = (Cursor::new(first), Cursor::new(second));
    let mut parted = false;
    std::iter::from_fn(move || {
        if parted {
            return None;
        }
        match (first.current(), second.current()) {
            (Some(a), Some(b)) if (a.start, a.step) != (b.start, b.step) => {
                parted = true;
                Some(Aligned::Parted(a, b))
            }
            (Some(a), Some(b)) => {
                let count = a.count.min(b.count);
                first.advance(count);
                second.advance(count);
                Some(Aligned::Both(Segment {
                    start: a.start,
                    step: a.step,
                    count,
                    value: (a.value, b.value),
                }))
            }
            (Some(a), None) => {
                first.advance(a.count);
                Some(Aligned::First(a))
            }
            (None, Some(b)) => {
                second.advance(b.count);
                Some(Aligned::Second(b))
            }
            (None, None) => None,
        }
    })
}

/// A position in a sequence.
struct Cursor<'a, T> {
    rest: &'a [Segment<T>],
    used: u64,
}

impl<'a, T: Copy> Cursor<'a, T> {
    fn new(segments: &'a [Segment<T>]) -> Cursor<'a, T> {
        let mut cursor = Cursor {
            rest: segments,
            used: 0,
        };
        cursor.advance(0);
        cursor
    }

    /// Rest of the current segment; `None` at the end, and past the address space.
    fn current(&self) -> Option<Segment<T>> {
        let segment = self.rest.first()?;
        let start = segment
            .start
            .checked_add(self.used.checked_mul(segment.step)?)?;
        Some(Segment {
            start,
            count: segment.count - self.used,
            ..*segment
        })
    }

    fn advance(&mut self, count: u64) {
        self.used = self.used.saturating_add(count);
        while let Some(segment) = self.rest.first()
            && self.used >= segment.count
        {
            self.used -= segment.count;
            self.rest = &self.rest[1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start: u64, count: u64, value: char) -> Segment<char> {
        Segment {
            start: Gpa::new(start),
            step: 0x1000,
            count,
            value,
        }
    }

    #[test]
    fn sequences_cut_at_different_places_meet_piece_by_piece() {
        let first = [segment(0, 3, 'a'), segment(0x3000, 1, 'b')];
        let second = [segment(0, 1, 'x'), segment(0x1000, 3, 'y')];
        let met: Vec<_> = zip_segments(&first, &second)
            .map(|meeting| match meeting {
                Aligned::Both(both) => (both.start.as_u64(), both.count, both.value),
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
        let first = [segment(0, 2, 'a'), segment(0x2000, 9, 'b')];
        let second = [segment(0, 2, 'x'), segment(0x7000, 9, 'y')];
        let met: Vec<_> = zip_segments(&first, &second).collect();
        assert_eq!(met.len(), 2);
        assert!(matches!(met[1], Aligned::Parted(_, _)));
    }

    #[test]
    fn what_only_one_of_them_has_is_said() {
        let long = [segment(0, 2, 'a')];
        let met: Vec<_> = zip_segments(&long, &[] as &[Segment<char>]).collect();
        assert_eq!(met, [Aligned::First(long[0])]);
        let met: Vec<_> = zip_segments(&[] as &[Segment<char>], &long).collect();
        assert_eq!(met, [Aligned::Second(long[0])]);
    }

    #[test]
    fn empty_stretches_are_passed_over() {
        let first = [segment(0, 0, 'n'), segment(0, 1, 'a')];
        let second = [segment(0, 1, 'x')];
        assert_eq!(zip_segments(&first, &second).count(), 1);
    }
}
