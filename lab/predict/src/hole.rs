//! Holes punched into the guest_memfd, and allocation: docs/semantics.md, section 7.

use tdxlab_plan::addr::{GpaRange, PageLevel};

use super::convert::Settled;
use super::entries::entries;
use super::runs::Pages;
use super::state::State;
use super::tally::Tally;

/// Invalid argument.
const EINVAL: i32 = 22;

impl State {
    /// fallocate(PUNCH_HOLE | KEEP_SIZE) over a range, one call per piece that is contiguous in the
    /// file. A piece that violates the design's alignment ends it, unchanged; the pieces before it
    /// are punched. Parts past the end of the file are ignored, without an error.
    pub(super) fn punch(&mut self, tally: &mut Tally, range: GpaRange) {
        tally.entries_at_most = Some(0);
        for (gfns, file, torn) in self.calls(range) {
            let alignment = self.design.hole_alignment.pages_4k();
            if torn || !file.start.is_multiple_of(alignment) || !file.end.is_multiple_of(alignment)
            {
                tally.errnos.push(EINVAL);
                return;
            }
            for (part, _) in self.slots.pieces(&gfns) {
                let more = entries(&self.design, &part);
                let sum = tally.entries_at_most.zip(more);
                tally.entries_at_most = sum.map(|(sum, more)| sum + more);
            }
            self.punch_piece(tally, gfns);
        }
        tally.errnos.push(0);
    }

    /// fallocate(KEEP_SIZE) over a range, piece by piece: populated, not mapped. A piece that is off page
    /// boundaries or reaches past the end of the file ends it, unchanged (`kvm_gmem_allocate()`).
    pub(super) fn allocate(&mut self, tally: &mut Tally, range: GpaRange) {
        for (pages, file, torn) in self.calls(range) {
            if torn || file.end > self.slots.file_pages() {
                tally.errnos.push(EINVAL);
                return;
            }
            self.populate(&pages);
            if !self.uncertain_regions(&pages).is_empty() {
                self.stir(tally, &pages);
            }
        }
        tally.errnos.push(0);
    }

    /// The calls on the file for a range: gfns, pages of the file, and whether an end is off page
    /// boundaries.
    fn calls(&self, range: GpaRange) -> Vec<(Pages, Pages, bool)> {
        let torn_start = !range.start().is_aligned(PageLevel::Size4K);
        let torn_end = !range.end().is_aligned(PageLevel::Size4K);
        let pieces = self.file_pieces(&pages_around(range));
        let last = pieces.len().saturating_sub(1);
        let torn = |index| (index == 0 && torn_start) || (index == last && torn_end);
        let pieces = pieces.into_iter().enumerate();
        pieces
            .map(|(index, (gfns, file))| (gfns, file, torn(index)))
            .collect()
    }

    fn punch_piece(&mut self, tally: &mut Tally, pages: Pages) {
        let uncertain = self.uncertain_regions(&pages);
        self.split_ends(tally, &pages);
        self.unmap_private(tally, pages.clone());
        if self.design.in_place() {
            self.unmap_shared(tally, pages.clone());
        }
        for (_, file) in self.slots.pieces(&pages) {
            self.folios.free(file);
        }
        for region in uncertain {
            self.clear_or_widen(tally, region, &pages, Settled::Punched);
        }
    }

    /// The range as pieces that are contiguous in gfns and in the file. The part past the end of
    /// test memory, if any, lengthens the last piece in the file only.
    pub(super) fn file_pieces(&self, pages: &Pages) -> Vec<(Pages, Pages)> {
        let mut pieces: Vec<(Pages, Pages)> = Vec::new();
        for (gfns, file) in self.slots.pieces(pages) {
            match pieces.last_mut() {
                Some((last_gfns, last_file)) if last_file.end == file.start => {
                    last_gfns.end = gfns.end;
                    last_file.end = file.end;
                }
                _ => pieces.push((gfns, file)),
            }
        }
        let end = self.memory.end().gfn();
        if pages.end > end {
            let past = pages.end - pages.start.max(end);
            match pieces.last_mut() {
                Some((gfns, file)) if gfns.end == end && file.end == self.slots.file_pages() => {
                    file.end += past;
                }
                _ => {
                    let start = self.slots.file_pages() + pages.start.saturating_sub(end);
                    pieces.push((end..end, start..start + past));
                }
            }
        }
        pieces
    }
}

/// The pages a range touches, partly touched ones too.
pub(super) fn pages_around(range: GpaRange) -> Pages {
    let last = range.end().as_u64().div_ceil(PageLevel::Size4K.bytes());
    range.start().gfn()..last
}
