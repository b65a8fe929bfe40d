//! What the decisions of a [`Policy`](crate::policy::Policy) are about: stages, reasons, limits, places.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};

/// Effect of an access to a pending page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingAccess {
    /// #VE in the guest.
    Ve,
    /// An exit with extended exit qualification type 6.
    Exit,
    /// It goes through, as if the page had been accepted. Never right.
    Allow,
}

/// What KVM does for an ACCEPT below the level of the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptStage {
    /// Split the leaf.
    Split,
    /// Forbid huge pages in the region.
    Inhibit,
}

/// A stage of a punch hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoleStage {
    /// Faults in the range must retry from here on.
    InvalidateBegin,
    /// Split the leaves that stick out.
    Split,
    /// Zap the mappings.
    Zap,
    /// Free the pages.
    Truncate,
    /// Faults may continue.
    InvalidateEnd,
}

/// A stage of a conversion to shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConversionStage {
    /// Split the leaves that stick out.
    Split,
    /// Zap the private mappings.
    Zap,
    /// Set the attribute.
    SetAttributes,
}

/// A stage of mapping a private leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapStage {
    /// In the S-EPT, by the TDX module.
    Sept,
    /// In KVM's copy.
    Mirror,
    /// In the page counters.
    Count,
}

/// A stage of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitStage {
    /// In the S-EPT, by the TDX module.
    Sept,
    /// In KVM's copy.
    Mirror,
    /// In the page counters.
    Count,
    /// In the trace.
    Trace,
}

/// Calls of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostCallKind {
    /// fallocate(PUNCH_HOLE) on the guest_memfd.
    Punch,
    /// KVM_PRE_FAULT_MEMORY.
    Prefault,
    /// fallocate on the guest_memfd.
    Allocate,
}

/// Why a mapping changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// A leaf is split for an ACCEPT.
    AcceptSplit,
    /// A leaf is split for a hole or a conversion.
    RangeSplit,
    /// A leaf is split for dirty logging.
    DirtyLog,
    /// A private leaf is zapped.
    Zap,
    /// Shared mappings are zapped.
    SharedZap,
    /// A SEAMCALL was busy.
    Busy,
}

/// How vCPUs are made to forget a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kick {
    /// All leave the TD and enter it again with clean TLBs.
    Flush,
    /// Reports the flush to the module without flushing TLBs. Always a bug.
    Pretend,
    /// No effect. Always a bug.
    Skip,
}

/// What KVM does about a SEAMCALL that gave way to an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// Makes it again once the interrupt was served, with the same operands.
    Again,
    /// Makes it again with interrupts off, so that the interrupt stays pending. Never right.
    AgainAtOnce,
    /// Takes it for a failure. Never right.
    Fail,
    /// Lets its caller try again later, and leaves the leaf blocked. Never right.
    Abandon,
}

/// What the end of a VM gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtTheEnd {
    /// A private leaf, which the counters know.
    Leaf,
    /// A page table.
    Table,
    /// The guest_memfds with their pages.
    File,
}

/// What the module needs metadata for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PamtFor {
    /// A 4K page of the guest.
    Page,
    /// A table of the S-EPT of a TD that is being made.
    FirstTable,
    /// A table of the S-EPT of a TD that runs.
    Table,
    /// The 512 pages that a leaf is split into.
    Children,
}

/// An allocation that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// A page table for a split.
    SplitTable,
    /// A page table for a new private mapping.
    SeptTable,
    /// A page table for a new shared mapping.
    EptTable,
    /// A 2M folio of the guest_memfd.
    Folio,
    /// A 4K page of the guest_memfd.
    Page,
    /// A page of the VMM's own memory that backs a shared page.
    UserPage,
    /// A page for metadata of the module (Dynamic PAMT).
    PamtPage,
}

/// Why a page counter moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// A private leaf was mapped.
    Map,
    /// A private leaf was zapped.
    Zap,
    /// A leaf was split: the huge leaf goes.
    SplitParent,
    /// A leaf was split: 512 small ones come.
    SplitChildren,
    /// A shared leaf was mapped.
    SharedMap,
    /// A shared leaf was zapped.
    SharedZap,
}

/// Why something could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// ENOMEM.
    NoMemory,
    /// KVM_BUG_ON: the VM is dead.
    Bugged,
    /// EAGAIN.
    Again,
}

impl Failure {
    /// The errno user space sees, positive.
    pub const fn errno(self) -> i32 {
        match self {
            Failure::NoMemory => libc::ENOMEM,
            Failure::Bugged => libc::EIO,
            Failure::Again => libc::EAGAIN,
        }
    }
}

/// All that limits the level at which a private page can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelLimits {
    /// Largest private leaf of the design.
    pub leaf: PageLevel,
    /// Level of the ACCEPT that caused the fault, if one did.
    pub requested: Option<PageLevel>,
    /// Whether the TD runs.
    pub runnable: bool,
    /// Whether the region has a table already.
    pub table: bool,
    /// Whether huge pages are forbidden in the region.
    pub inhibited: bool,
    /// Whether a page of the region is shared.
    pub mixed: bool,
    /// Whether the region lies in one slot, congruent with its file.
    pub slot_fits: bool,
    /// Whether the region's memory is one folio.
    pub folio_whole: bool,
}

impl LevelLimits {
    /// The largest level that all limits allow.
    pub fn level(&self) -> PageLevel {
        let huge = self.leaf >= PageLevel::Size2M
            && self
                .requested
                .is_none_or(|level| level >= PageLevel::Size2M)
            && self.runnable
            && !self.table
            && !self.inhibited
            && !self.mixed
            && self.slot_fits
            && self.folio_whole;
        if huge {
            PageLevel::Size2M
        } else {
            PageLevel::Size4K
        }
    }
}

/// The 2M pages to split for a range: at most the one its start lies in and the one its end lies
/// in.
///
/// Source: `tdx_gmem_convert()` of RFC v5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadAndTail {
    /// The page that the start cuts.
    pub head: Option<Gpa>,
    /// The page cut by the end, if different.
    pub tail: Option<Gpa>,
}

impl HeadAndTail {
    /// Head and tail of `range`.
    pub fn of(range: GpaRange) -> HeadAndTail {
        if range.is_empty() {
            return HeadAndTail::default();
        }
        let start = range.start().align_down(PageLevel::Size2M);
        let end = range.end().align_down(PageLevel::Size2M);
        let head = (start != range.start()).then_some(start);
        let tail = (end != range.end() && Some(end) != head).then_some(end);
        HeadAndTail { head, tail }
    }
}

/// The guest_memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileId {
    /// The one behind test memory.
    Test,
    /// The one behind the page of the positive control.
    Control,
}

/// A memory slot and the guest_memfd it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundSlot {
    /// The GPAs it serves.
    pub range: GpaRange,
    /// The file.
    pub file: FileId,
    /// File offset of its first byte.
    pub offset: u64,
}

impl BoundSlot {
    /// The file offset behind `gpa`.
    pub fn offset_of(&self, gpa: Gpa) -> u64 {
        self.offset + gpa.checked_sub(self.range.start()).unwrap_or(0)
    }

    /// The part of the slot whose file offsets lie in `hole`.
    pub fn covered_by(&self, hole: Range<u64>) -> Option<GpaRange> {
        let first = hole.start.max(self.offset);
        let last = hole.end.min(self.offset + self.range.bytes());
        if first >= last {
            return None;
        }
        let start = self.range.start().checked_add(first - self.offset)?;
        GpaRange::with_len(start, last - first)
    }

    /// Whether a page of `level` at `gpa` lies in the slot as a whole and is aligned in the file.
    pub fn fits(&self, gpa: Gpa, level: PageLevel) -> bool {
        let page = gpa.page(level);
        self.range.contains_range(page) && self.offset_of(page.start()) & (level.bytes() - 1) == 0
    }
}

/// One event `kvmmmu:kvm_mmu_split_huge_page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitTrace {
    /// Frame number of the leaf.
    pub gfn: u64,
    /// KVM's entry for it.
    pub spte: u64,
    /// Its level in KVM's numbering.
    pub level: u8,
    /// 0 or a negative errno.
    pub errno: i32,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const M: u64 = 1 << 20;
    const K: u64 = 1 << 10;

    #[rstest]
    #[case::both_aligned(2 * M, 8 * M, None, None)]
    #[case::head(3 * M, 8 * M, Some(2 * M), None)]
    #[case::tail(2 * M, 7 * M, None, Some(6 * M))]
    #[case::tail_of_a_short_range(2 * M, 2 * M + 4 * K, None, Some(2 * M))]
    #[case::both(3 * M, 7 * M, Some(2 * M), Some(6 * M))]
    #[case::same_page(2 * M + 4 * K, 2 * M + 8 * K, Some(2 * M), None)]
    #[case::nothing(3 * M, 3 * M, None, None)]
    fn head_and_tail_truth_table(
        #[case] start: u64,
        #[case] end: u64,
        #[case] head: Option<u64>,
        #[case] tail: Option<u64>,
    ) {
        let range = GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
        let found = HeadAndTail::of(range);
        assert_eq!(found.head, head.map(Gpa::new));
        assert_eq!(found.tail, tail.map(Gpa::new));
    }

    #[test]
    fn a_hole_is_clipped_to_the_slot() {
        let slot = BoundSlot {
            range: GpaRange::with_len(Gpa::new(64 * M), 8 * M).unwrap(),
            file: FileId::Test,
            offset: 16 * M,
        };
        assert_eq!(
            slot.covered_by(0..20 * M),
            GpaRange::with_len(Gpa::new(64 * M), 4 * M)
        );
        assert_eq!(slot.covered_by(24 * M..32 * M), None);
        assert!(slot.fits(Gpa::new(65 * M), PageLevel::Size2M));
    }
}
