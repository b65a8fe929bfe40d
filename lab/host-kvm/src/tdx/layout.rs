//! Maps GPAs of QEMU's q35 machine to offsets in the guest_memfd of its main memory.
//!
//! Source: `pc_q35_init()` in hw/i386/pc_q35.c. One guest_memfd backs all of `-m`; with memory
//! above 4 GiB, what does not fit below continues there:
//!
//! ```text
//! GPA     0 .......... low      4 GiB .......... 4 GiB + rest
//! offset  0 .......... low        low .......... low + rest
//! ```

use tdxlab_protocol::addr::{Gpa, GpaRange};

/// Memory size from which q35 keeps only 2 GiB below 4 GiB.
const MUCH: u64 = 0xb000_0000;
/// Memory below 4 GiB then.
const LOW_OF_MUCH: u64 = 0x8000_0000;
const FOUR_GIB: u64 = 4 << 30;

/// Main memory of a q35 machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamLayout {
    bytes: u64,
    low: u64,
}

/// A piece of a range that is contiguous in the guest_memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl RamLayout {
    /// The layout of `-m bytes`.
    pub const fn new(bytes: u64) -> RamLayout {
        let low = if bytes >= MUCH { LOW_OF_MUCH } else { bytes };
        RamLayout { bytes, low }
    }

    /// The smallest machine with all of `memory` as RAM; `None` if there is none, for a range in
    /// the hole below 4 GiB, or past the address space.
    pub fn for_memory(memory: GpaRange) -> Option<RamLayout> {
        let end = memory.end().as_u64();
        let bytes = if end <= LOW_OF_MUCH {
            end
        } else {
            LOW_OF_MUCH
                .checked_add(end.checked_sub(FOUR_GIB)?)?
                .max(MUCH)
        };
        let layout = RamLayout::new(bytes.next_multiple_of(1 << 20));
        layout.holds(memory).then_some(layout)
    }

    /// Bytes of memory, which is also the size of the guest_memfd.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// The offset of an address; `None` outside of RAM.
    pub fn offset(self, gpa: Gpa) -> Option<u64> {
        let gpa = gpa.as_u64();
        if gpa < self.low {
            return Some(gpa);
        }
        let above = gpa.checked_sub(FOUR_GIB)?;
        (above < self.bytes - self.low).then_some(self.low + above)
    }

    /// The address of an offset; `None` past the end.
    pub fn gpa(self, offset: u64) -> Option<Gpa> {
        let above = || FOUR_GIB + (offset - self.low);
        let gpa = if offset < self.low { offset } else { above() };
        (offset < self.bytes).then_some(Gpa::new(gpa))
    }

    /// Whether all of `range` is RAM.
    pub fn holds(self, range: GpaRange) -> bool {
        let pieces = self.pieces(range);
        pieces.iter().map(|piece| piece.bytes).sum::<u64>() == range.bytes()
    }

    /// The parts of `range` that are RAM, in address order.
    pub fn pieces(self, range: GpaRange) -> Vec<Piece> {
        let (start, end) = (range.start().as_u64(), range.end().as_u64());
        let part = |from: u64, to: u64, offset: u64| {
            let (start, end) = (start.max(from), end.min(to));
            (start < end).then(|| Piece {
                offset: offset + (start - from),
                bytes: end - start,
            })
        };
        let above = FOUR_GIB.saturating_add(self.bytes - self.low);
        [part(0, self.low, 0), part(FOUR_GIB, above, self.low)]
            .into_iter()
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[rstest]
    #[case::small(GIB, 0, Some(0))]
    #[case::small_last(GIB, GIB - 1, Some(GIB - 1))]
    #[case::small_past_the_end(GIB, GIB, None)]
    #[case::just_below_the_switch(MUCH - 0x10_0000, MUCH - 0x10_0001, Some(MUCH - 0x10_0001))]
    #[case::three_gib_low(3 * GIB, 2 * GIB - 1, Some(2 * GIB - 1))]
    #[case::three_gib_hole(3 * GIB, 2 * GIB, None)]
    #[case::three_gib_above(3 * GIB, 4 * GIB, Some(2 * GIB))]
    #[case::three_gib_last(3 * GIB, 5 * GIB - 1, Some(3 * GIB - 1))]
    #[case::three_gib_past_the_end(3 * GIB, 5 * GIB, None)]
    #[case::one_tib(1024 * GIB, 1000 * GIB, Some(998 * GIB))]
    #[case::one_tib_past_the_end(1024 * GIB, 1026 * GIB, None)]
    fn offsets(#[case] bytes: u64, #[case] gpa: u64, #[case] offset: Option<u64>) {
        assert_eq!(RamLayout::new(bytes).offset(Gpa::new(gpa)), offset);
    }

    #[test]
    fn a_range_across_the_hole_has_two_pieces() {
        let layout = RamLayout::new(3 * GIB);
        let pieces = layout.pieces(range(2 * GIB - 4096, 4 * GIB + 8192));
        assert_eq!(
            pieces,
            [
                Piece {
                    offset: 2 * GIB - 4096,
                    bytes: 4096
                },
                Piece {
                    offset: 2 * GIB,
                    bytes: 8192
                }
            ]
        );
        assert!(!layout.holds(range(2 * GIB - 4096, 4 * GIB)));
        assert!(layout.pieces(range(2 * GIB, 4 * GIB)).is_empty());
    }

    #[rstest]
    #[case::low(GIB, GIB + (64 << 20), GIB + (64 << 20))]
    #[case::high(4 * GIB, 6 * GIB, 4 * GIB)]
    #[case::barely_high(4 * GIB, 4 * GIB + (256 << 20), MUCH)]
    #[case::huge(4 * GIB, 4 * GIB + (16 << 40), (16 << 40) + 2 * GIB)]
    fn the_smallest_machine(#[case] start: u64, #[case] end: u64, #[case] bytes: u64) {
        let layout = RamLayout::for_memory(range(start, end)).unwrap();
        assert_eq!(layout.bytes(), bytes);
        assert!(layout.holds(range(start, end)));
    }

    #[test]
    fn memory_in_the_hole_has_no_machine() {
        assert_eq!(RamLayout::for_memory(range(GIB, 3 * GIB)), None);
        assert_eq!(RamLayout::for_memory(range(3 * GIB, 5 * GIB)), None);
        assert_eq!(RamLayout::for_memory(range(0, u64::MAX)), None);
    }
}
