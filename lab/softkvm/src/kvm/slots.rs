//! Memory slots: maps guest-physical addresses to a guest_memfd and an offset.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::policy::{BoundSlot, FileId};

use crate::api::MemSlot;

/// The slots of a VM, in address order.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// Those that serve memory now.
    live: Vec<BoundSlot>,
    /// Those that were deleted.
    deleted: Vec<BoundSlot>,
    /// As they were set up: which part of the file belongs to which addresses does not change.
    layout: Vec<BoundSlot>,
}

impl Slots {
    /// Slots over test memory and the one of the control page. The reason, where they make no
    /// sense.
    pub(crate) fn new(test: &[MemSlot], control: Gpa) -> Result<Slots, String> {
        let mut slots: Vec<BoundSlot> = test
            .iter()
            .map(|slot| BoundSlot {
                range: slot.range,
                file: FileId::Test,
                offset: slot.gmem_offset,
            })
            .collect();
        slots.push(BoundSlot {
            range: control.page(PageLevel::Size4K),
            file: FileId::Control,
            offset: 0,
        });
        slots.sort_by_key(|slot| slot.range.start());
        for slot in &slots {
            let aligned = slot.offset & (PageLevel::Size4K.bytes() - 1) == 0;
            if slot.range.is_empty() || !slot.range.is_aligned(PageLevel::Size4K) || !aligned {
                return Err(format!(
                    "memory slot {} is not made of 4K pages",
                    slot.range
                ));
            }
            if slot.offset.checked_add(slot.range.bytes()).is_none() {
                return Err(format!("memory slot {} ends past any file", slot.range));
            }
        }
        if let Some(pair) = slots
            .windows(2)
            .find(|pair| pair[0].range.overlaps(pair[1].range))
        {
            return Err(format!(
                "memory slots {} and {} overlap",
                pair[0].range, pair[1].range
            ));
        }
        Ok(Slots {
            live: slots.clone(),
            deleted: Vec::new(),
            layout: slots,
        })
    }

    /// Whether a slot serves exactly `range` out of `file`.
    pub(crate) fn is_there(&self, range: GpaRange, file: FileId) -> bool {
        let is_it = |slot: &BoundSlot| slot.range == range && slot.file == file;
        self.live.iter().any(is_it)
    }

    /// From the first to the last address that slots were set up for.
    pub(crate) fn span(&self) -> GpaRange {
        let ends = self.layout.first().zip(self.layout.last());
        ends.and_then(|(first, last)| GpaRange::new(first.range.start(), last.range.end()))
            .unwrap_or_default()
    }

    /// Deletes the slot that serves exactly `range`.
    pub(crate) fn delete(&mut self, range: GpaRange) {
        let gone = self.live.extract_if(.., |slot| slot.range == range);
        self.deleted.extend(gone);
    }

    /// Adds one that was deleted; whether there was one.
    pub(crate) fn add(&mut self, range: GpaRange) -> bool {
        let Some(at) = self.deleted.iter().position(|slot| slot.range == range) else {
            return false;
        };
        self.live.push(self.deleted.swap_remove(at));
        self.live.sort_by_key(|slot| slot.range.start());
        true
    }

    /// The slot that serves `gpa`.
    pub(crate) fn find(&self, gpa: Gpa) -> Option<BoundSlot> {
        let at = self.live.partition_point(|slot| slot.range.end() <= gpa);
        self.live
            .get(at)
            .filter(|slot| slot.range.contains(gpa))
            .copied()
    }

    /// The parts of `range` that slots serve, in address order.
    pub(crate) fn parts(&self, range: GpaRange) -> impl Iterator<Item = (BoundSlot, GpaRange)> {
        parts(&self.live, range)
    }

    /// The parts of `range` that slots were set up for, whether they serve it now or not.
    pub(crate) fn layout(&self, range: GpaRange) -> impl Iterator<Item = (BoundSlot, GpaRange)> {
        parts(&self.layout, range)
    }

    /// The first of these parts.
    pub(crate) fn first_part(&self, range: GpaRange) -> Option<(BoundSlot, GpaRange)> {
        self.parts(range).next()
    }

    /// Whether slots serve all of `range`.
    pub(crate) fn cover(&self, range: GpaRange) -> bool {
        let served: u64 = self.parts(range).map(|(_, part)| part.bytes()).sum();
        served == range.bytes()
    }

    /// The slots bound to `file`, in address order.
    pub(crate) fn of_file(&self, file: FileId) -> impl DoubleEndedIterator<Item = &BoundSlot> {
        self.live.iter().filter(move |slot| slot.file == file)
    }

    fn laid_out(&self, file: FileId) -> impl DoubleEndedIterator<Item = &BoundSlot> {
        self.layout.iter().filter(move |slot| slot.file == file)
    }

    /// Size of `file`: up to the last byte that a slot needs.
    pub(crate) fn file_size(&self, file: FileId) -> u64 {
        self.laid_out(file)
            .map(|slot| slot.offset + slot.range.bytes())
            .max()
            .unwrap_or(0)
    }

    /// The pieces of the test file behind `range`, as (offset, length), contiguous ones joined.
    /// Addresses past the last slot of test memory map past the end of the file.
    pub(crate) fn pieces(&self, range: GpaRange) -> Vec<(u64, u64)> {
        let mut pieces: Vec<Range<u64>> = Vec::new();
        let mut push = |piece: Range<u64>| match pieces.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => pieces.push(piece),
        };
        for (slot, part) in self.layout(range) {
            if slot.file == FileId::Test {
                let offset = slot.offset_of(part.start());
                push(offset..offset + part.bytes());
            }
        }
        let end = self
            .laid_out(FileId::Test)
            .next_back()
            .map_or(Gpa::new(0), |slot| slot.range.end());
        if range.end() > end {
            let past = range.start().max(end);
            let size = self.file_size(FileId::Test);
            let offset = size.saturating_add(past.checked_sub(end).unwrap_or(0));
            let len = range.end().checked_sub(past).unwrap_or(0);
            push(offset..offset.saturating_add(len));
        }
        pieces
            .into_iter()
            .map(|piece| (piece.start, piece.end - piece.start))
            .collect()
    }
}

fn parts(
    slots: &[BoundSlot],
    range: GpaRange,
) -> impl Iterator<Item = (BoundSlot, GpaRange)> + use<'_> {
    let first = slots.partition_point(|slot| slot.range.end() <= range.start());
    slots[first..]
        .iter()
        .map_while(move |slot| Some((*slot, slot.range.intersect(range)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    fn slot(start: u64, end: u64, gmem_offset: u64) -> MemSlot {
        MemSlot {
            range: GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap(),
            gmem_offset,
        }
    }

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[test]
    fn pieces_follow_the_file_and_not_the_addresses() {
        let slots = Slots::new(
            &[
                slot(64 * M, 68 * M, 8 * M),
                slot(68 * M, 72 * M, 0),
                slot(72 * M, 76 * M, 4 * M),
            ],
            Gpa::new(0x3fe0_0000),
        )
        .unwrap();
        assert_eq!(
            slots.pieces(range(67 * M, 73 * M)),
            [(11 * M, M), (0, 5 * M)],
            "two slots that follow each other in the file are one piece"
        );
        assert_eq!(
            slots.pieces(range(75 * M, 80 * M)),
            [(7 * M, M), (12 * M, 4 * M)],
            "what lies past memory is past the end of the file, not in another slot's part"
        );
        assert_eq!(slots.pieces(range(80 * M, 81 * M)), [(16 * M, M)]);
    }

    #[test]
    fn overlapping_slots_are_refused() {
        let error = Slots::new(
            &[slot(0, 4 * M, 0), slot(2 * M, 6 * M, 4 * M)],
            Gpa::new(0x3fe0_0000),
        )
        .unwrap_err();
        assert!(error.contains("overlap"), "{error}");
    }

    #[test]
    fn the_control_page_is_in_a_file_of_its_own() {
        let slots = Slots::new(&[slot(1 << 30, 2 << 30, 0)], Gpa::new(0x3fe0_0000)).unwrap();
        let control = slots.find(Gpa::new(0x3fe0_0fff)).unwrap();
        assert_eq!(control.file, FileId::Control);
        assert_eq!(slots.pieces(range(0, 2 << 30)), [(0, 1 << 30)]);
        assert!(slots.find(Gpa::new(0x3fe0_1000)).is_none());
    }
}
