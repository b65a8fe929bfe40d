//! Pages a hole or a conversion covers, and leaves it splits.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel, Side};
use tdxlab_softkvm::policy::{
    Allocation, BoundSlot, ConversionStage, Faithful, FileId, HeadAndTail, HoleStage,
};

use super::faults;

const PAGE: u64 = PageLevel::Size4K.bytes();
const LEAF: u64 = PageLevel::Size2M.bytes();

/// `range` with its ends moved by so many pages, unless it would be empty.
fn moved(range: GpaRange, start: i64, end: i64) -> GpaRange {
    let at =
        |gpa: Gpa, pages: i64| Gpa::new(gpa.as_u64().saturating_add_signed(pages * PAGE as i64));
    GpaRange::new(at(range.start(), start), at(range.end(), end))
        .filter(|moved| !moved.is_empty())
        .unwrap_or(range)
}

faults! {
    "slot-delete-zaps-all": "a memory slot is deleted, and all private memory of the TD goes with it"
    ("KVM_X86_QUIRK_SLOT_ZAP_ALL, which a TD cannot stand", under "v5", seen by Debugfs Content)
    SlotDeleteZapsAll {} {
        fn slot_zap_range(&mut self, _: GpaRange, memory: GpaRange) -> Option<GpaRange> {
            Some(memory)
        }
    }

    "slot-delete-keeps-leaves": "a memory slot is deleted, and the guest can still reach what it served"
    ("kvm_arch_flush_shadow_memslot() leaves the mirror alone", under "v5", seen by Debugfs)
    SlotDeleteKeepsLeaves {} {
        fn slot_zap_range(&mut self, _: GpaRange, _: GpaRange) -> Option<GpaRange> {
            None
        }
    }

    "dirty-log-splits-mirror": "dirty logging of a TD is not refused, and splits every leaf of the mirror"
    ("kvm_tdp_mmu_try_split_huge_pages() visits mirror roots", under "v5", seen by Splits Debugfs Errno)
    DirtyLogSplitsMirror {} {
        fn refuses_dirty_log(&mut self) -> bool {
            false
        }
        fn dirty_log_splits_mirror(&mut self) -> bool {
            true
        }
    }

    "dirty-log-refused-too-late": "dirty logging of a TD is refused when the leaves of the mirror are split already"
    ("the flag is looked at after kvm_mmu_slot_apply_flags()", under "v5", seen by Splits Debugfs)
    DirtyLogRefusedTooLate {} {
        fn dirty_log_splits_mirror(&mut self) -> bool {
            true
        }
    }

    "over-zap": "leaves that stick out of a range are zapped, not split: data outside is lost"
    ("data loss named in the v3 cover letter and the RFC v5 review", rows 1, under "headtail",
     seen by Splits Content Debugfs)
    OverZap {} {
        fn head_and_tail(&mut self, _: GpaRange, _: u64) -> HeadAndTail {
            HeadAndTail::default()
        }
    }

    "over-zap-by-walk": "the walk splits nothing, so the zap takes leaves that stick out"
    ("v3 patch 11", rows 1, under "v3", seen by Splits Content Debugfs)
    OverZapByWalk {} {
        fn walk_splits(&mut self, _: GpaRange, _: GpaRange) -> bool {
            false
        }
    }

    "head-split-missing": "the leaf at the start of a range is not split"
    ("head and tail in tdx_gmem_convert(), RFC v5 patch 43", rows 2, under "headtail",
     seen by Splits Content Debugfs)
    HeadSplitMissing {} {
        fn head_and_tail(&mut self, range: GpaRange, _: u64) -> HeadAndTail {
            HeadAndTail { head: None, ..HeadAndTail::of(range) }
        }
    }

    "tail-split-missing": "the leaf at the end of a range is not split"
    ("head and tail in tdx_gmem_convert(), RFC v5 patch 43", rows 2, under "headtail",
     seen by Splits Content Debugfs)
    TailSplitMissing {} {
        fn head_and_tail(&mut self, range: GpaRange, _: u64) -> HeadAndTail {
            HeadAndTail { tail: None, ..HeadAndTail::of(range) }
        }
    }

    "same-leaf-looked-at-twice": "head and tail in one leaf are handled as two leaves"
    ("head and tail in tdx_gmem_convert(), RFC v5 patch 43", rows 3, under "headtail",
     seen by Entries)
    SameLeafTwice {} {
        fn head_and_tail(&mut self, range: GpaRange, _: u64) -> HeadAndTail {
            let right = HeadAndTail::of(range);
            let end = range.end().align_down(PageLevel::Size2M);
            HeadAndTail { tail: (end != range.end()).then_some(end), ..right }
        }
    }

    "aligned-end-split": "the leaf after a range that ends on a 2M boundary is split too"
    ("head and tail in tdx_gmem_convert(), RFC v5 patch 43", rows 4, under "headtail",
     seen by Splits Debugfs Entries)
    AlignedEndSplit {} {
        fn head_and_tail(&mut self, range: GpaRange, _: u64) -> HeadAndTail {
            let tail = Some(range.end().align_down(PageLevel::Size2M));
            HeadAndTail { tail, ..HeadAndTail::of(range) }
        }
    }

    "aligned-start-split": "the leaf at the start of a range is split though it is covered"
    ("head and tail in tdx_gmem_convert(), RFC v5 patch 43", rows 5, under "headtail",
     seen by Splits Debugfs Entries)
    AlignedStartSplit {} {
        fn head_and_tail(&mut self, range: GpaRange, _: u64) -> HeadAndTail {
            let head = Some(range.start().align_down(PageLevel::Size2M));
            let right = HeadAndTail::of(range);
            HeadAndTail { head, tail: right.tail.filter(|tail| Some(*tail) != head) }
        }
    }

    "covered-leaves-split": "the walk splits leaves that lie wholly inside the range"
    ("v3 patch 11: walk over the range", rows 5, under "v3", seen by Splits)
    CoveredLeavesSplit {} {
        fn walk_splits(&mut self, _: GpaRange, _: GpaRange) -> bool {
            true
        }
    }

    "ends-by-file-offset": "head and tail are rounded in file offsets, not in guest addresses"
    ("review of v3 patch 16: file offsets in place of guest frames", rows 6, under "headtail",
     seen by Entries)
    EndsByFileOffset {} {
        fn head_and_tail(&mut self, range: GpaRange, offset: u64) -> HeadAndTail {
            let shift = range.start().as_u64() as i64 - offset as i64;
            let Some(file) = GpaRange::with_len(Gpa::new(offset), range.bytes()) else {
                return HeadAndTail::of(range);
            };
            let back = |gpa: Gpa| Gpa::new(gpa.as_u64().saturating_add_signed(shift));
            let ends = HeadAndTail::of(file);
            HeadAndTail { head: ends.head.map(back), tail: ends.tail.map(back) }
        }
    }

    "hole-starts-a-page-early": "a hole zaps one page before its start"
    ("ends of the zap, kvm_gmem_invalidate_begin()", rows 1, under "headtail",
     seen by Debugfs Content)
    HoleStartsEarly {} {
        fn hole_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, -1, 0)
        }
    }

    "hole-starts-a-page-late": "a hole leaves its first page mapped"
    ("ends of the zap, kvm_gmem_invalidate_begin()", rows 14, under "headtail",
     seen by Debugfs Exits)
    HoleStartsLate {} {
        fn hole_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, 1, 0)
        }
    }

    "hole-ends-a-page-early": "a hole leaves its last page mapped"
    ("ends of the zap, kvm_gmem_invalidate_begin()", rows 14, under "headtail",
     seen by Debugfs Exits)
    HoleEndsEarly {} {
        fn hole_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, 0, -1)
        }
    }

    "hole-ends-a-page-late": "a hole zaps one page after its end"
    ("ends of the zap, kvm_gmem_invalidate_begin()", rows 1, under "headtail",
     seen by Debugfs Content)
    HoleEndsLate {} {
        fn hole_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, 0, 1)
        }
    }

    "conversion-starts-a-page-early": "a conversion zaps one page before its start"
    ("ends of the zap, v3 patch 15", rows 1, under "v5", seen by Debugfs Content)
    ConversionStartsEarly {} {
        fn conversion_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, -1, 0)
        }
    }

    "conversion-starts-a-page-late": "a conversion leaves its first page mapped private"
    ("ends of the zap, v3 patch 15", under "v5", seen by Debugfs)
    ConversionStartsLate {} {
        fn conversion_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, 1, 0)
        }
    }

    "conversion-ends-a-page-early": "a conversion leaves its last page mapped private"
    ("ends of the zap, v3 patch 15", under "v5", seen by Debugfs)
    ConversionEndsEarly {} {
        fn conversion_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, 0, -1)
        }
    }

    "conversion-ends-a-page-late": "a conversion zaps one page after its end"
    ("ends of the zap, v3 patch 15", rows 1, under "v5", seen by Debugfs Content)
    ConversionEndsLate {} {
        fn conversion_zap_range(&mut self, range: GpaRange) -> GpaRange {
            moved(range, 0, 1)
        }
    }

    "attribute-a-page-short": "the last page of a conversion keeps its attribute"
    ("ends of the attribute range, kvm_vm_set_mem_attributes()", under "v5", seen by Debugfs Status)
    AttributeShort {} {
        fn attribute_range(&mut self, _: Side, range: GpaRange) -> GpaRange {
            moved(range, 0, -1)
        }
    }

    "chunks-on-2m-boundaries": "MapGPA chunks end on 2M boundaries, not 2M after the start"
    ("chunks of tdx_map_gpa() start at the request, not on a boundary", under "v5", seen by Splits)
    ChunksOnBoundaries {} {
        fn map_gpa_chunk_end(&mut self, next: Gpa, end: Gpa) -> Gpa {
            let page = next.page(PageLevel::Size2M);
            page.end().min(end)
        }
    }

    "one-chunk": "MapGPA is done in one piece"
    ("chunks of tdx_map_gpa(), which a VMM may merge", under "v5", seen by Splits)
    OneChunk {} {
        fn map_gpa_chunk_end(&mut self, _: Gpa, end: Gpa) -> Gpa {
            end
        }
    }

    "slot-not-clipped": "a hole zaps the whole memory slot that it touches"
    ("range clipped wrongly at a slot binding, v3 patch 16", rows 7, under "headtail",
     seen by Debugfs Content)
    SlotNotClipped {} {
        fn hole_in_slot(&mut self, slot: &BoundSlot, hole: Range<u64>) -> Option<GpaRange> {
            slot.covered_by(hole).map(|_| slot.range)
        }
    }

    "second-slot-forgotten": "a hole over several slots of one file zaps only the first"
    ("several slots bound to one file, v3 patch 16", rows 7, under "headtail",
     seen by Debugfs Splits)
    SecondSlotForgotten { last: Option<Range<u64>> } {
        fn hole_in_slot(&mut self, slot: &BoundSlot, hole: Range<u64>) -> Option<GpaRange> {
            let covered = slot.covered_by(hole.clone())?;
            if self.last.as_ref() == Some(&hole) {
                return None;
            }
            self.last = Some(hole);
            Some(covered)
        }
    }

    "second-slot-not-split": "the split for the second slot of a range fails when the first is split"
    ("several slots bound to one file, v3 patch 16", rows 7, under "headtail",
     seen by Errno Splits Debugfs)
    SecondSlotNotSplit { parts: u64 } {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            self.parts = 0;
            Faithful.hole_stages()
        }
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            self.parts = 0;
            Faithful.conversion_stages()
        }
        fn head_and_tail(&mut self, range: GpaRange, _: u64) -> HeadAndTail {
            self.parts += 1;
            HeadAndTail::of(range)
        }
        fn allocates(&mut self, what: Allocation) -> bool {
            !(self.parts > 1 && what == Allocation::SplitTable)
        }
    }

    "later-chunk-not-split": "the split for a later piece of a conversion fails when earlier pieces are gone"
    ("attribute ioctl over several ranges, v3 patch 15", rows 12, under "v3",
     seen by MapGpa Splits Debugfs)
    LaterChunkNotSplit { next: Option<Gpa>, later: bool } {
        fn map_gpa_chunk_end(&mut self, next: Gpa, end: Gpa) -> Gpa {
            let chunk = Faithful.map_gpa_chunk_end(next, end);
            self.later = self.next == Some(next);
            self.next = Some(chunk);
            chunk
        }
        fn allocates(&mut self, what: Allocation) -> bool {
            !(self.later && what == Allocation::SplitTable)
        }
    }

    "file-offset-ignores-the-slot": "a slot's offset in the guest_memfd is left out: its pages are those of another slot"
    ("file offsets in place of guest frames, review of v3 patch 16", rows 6, under "headtail",
     seen by Populated KernelLog)
    FileOffsetIgnoresSlot {} {
        fn file_offset(&mut self, slot: &BoundSlot, gpa: Gpa) -> u64 {
            BoundSlot { offset: 0, ..*slot }.offset_of(gpa)
        }
    }

    "hole-in-the-neighbour": "a hole is punched into another VM's guest_memfd"
    ("several files on one inode, v3 patch 16", rows 7, under "headtail", seen by Debugfs Populated)
    HoleInNeighbour {} {
        fn hole_file(&mut self, _: FileId) -> FileId {
            FileId::Control
        }
    }

    "truncate-a-page-late": "the guest_memfd keeps the first page of a hole"
    ("ends of the truncation, kvm_gmem_punch_hole()", under "headtail", seen by Populated)
    TruncateLate {} {
        fn hole_truncate_range(&mut self, hole: Range<u64>) -> Range<u64> {
            hole.start + PAGE..hole.end
        }
    }

    "truncate-rounds-outward": "the guest_memfd frees whole folios that a hole only touches"
    ("bounds of truncate_inode_pages_range(), kvm_gmem_punch_hole()", under "headtail",
     seen by Populated)
    TruncateOutward {} {
        fn hole_truncate_range(&mut self, hole: Range<u64>) -> Range<u64> {
            hole.start - hole.start % LEAF..hole.end.next_multiple_of(LEAF)
        }
    }

    "alignment-not-checked": "a hole that is not aligned to the folio size is punched all the same"
    ("alignment of holes agreed in the guest_memfd calls, January 2026", under "v3",
     seen by Errno Debugfs)
    AlignmentNotChecked {} {
        fn hole_is_aligned(&mut self, offset: u64, len: u64, _: PageLevel) -> bool {
            (offset | len) & (PAGE - 1) == 0
        }
    }

    "alignment-too-strict": "a hole must be aligned to 2M though the folios may be split"
    ("alignment of holes agreed in the guest_memfd calls, January 2026", under "headtail",
     seen by Errno Debugfs)
    AlignmentTooStrict {} {
        fn hole_is_aligned(&mut self, offset: u64, len: u64, _: PageLevel) -> bool {
            (offset | len) & (LEAF - 1) == 0
        }
    }

    "alignment-of-length-forgotten": "only the offset of a hole is checked for alignment"
    ("alignment of holes agreed in the guest_memfd calls, January 2026", under "v3",
     seen by Errno Debugfs)
    LengthNotChecked {} {
        fn hole_is_aligned(&mut self, offset: u64, len: u64, alignment: PageLevel) -> bool {
            offset & (alignment.bytes() - 1) == 0 && len & (PAGE - 1) == 0
        }
    }

    "zap-skips-leaves-that-stick-out": "a zap passes over leaves it does not cover"
    ("a split that comes too late, RFC v5 patch 43", rows 11, under "headtail",
     seen by Debugfs Exits)
    ZapSkips { seen: u64 } {
        fn head_and_tail(&mut self, _: GpaRange, _: u64) -> HeadAndTail {
            self.seen += 1;
            HeadAndTail::default()
        }
        fn zaps(&mut self, leaf: GpaRange, range: GpaRange) -> bool {
            range.contains_range(leaf)
        }
    }

    "implicit-conversion-of-2m": "touching a page through the wrong half converts its 2M region"
    ("KVM_EXIT_MEMORY_FAULT names one page, kvm_prepare_memory_fault_exit()", under "v5",
     seen by Debugfs Content)
    ImplicitConversionWide {} {
        fn implicit_conversion(&mut self, gpa: Gpa) -> GpaRange {
            gpa.page(PageLevel::Size2M)
        }
    }
}
