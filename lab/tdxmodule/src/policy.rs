//! Every decision that a real kernel or module could get wrong, with the right answer as default.
//!
//! The core calls a [`Policy`] wherever it rounds, orders, chooses, counts, allocates or reports. A
//! seeded fault is a small policy that makes one or two of these decisions wrongly. The core does
//! not depend on which policy it has.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel, Side};

use super::entry::{Level, SeptEntry, State};
use super::physical_memory::Pfn;
use super::seamcall::Seamcall;
use super::status::Status;
use super::watched::watched;

pub use super::decision::*;

/// Makes all decisions correctly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faithful;

impl Policy for Faithful {}

watched! {
/// The decisions. Every method may keep state, so that a fault can strike at the n-th time only.
#[allow(unused_variables, reason = "names of parameters document the defaults")]
pub trait Policy: Send {
    // Module: SEAMCALLs.

    /// A status with which a SEAMCALL is refused before it does anything, such as BUSY.
    fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
        None
    }

    /// Whether REMOVE and DEMOTE insist on TLB tracking.
    fn module_checks_tracking(&mut self) -> bool {
        true
    }

    /// Entry `index` (0..512) of the table that DEMOTE builds for a leaf in `state` over the frames
    /// from `first`.
    fn demoted_child(&mut self, state: State, first: Pfn, index: u64) -> SeptEntry {
        SeptEntry::leaf(state, PageLevel::Size4K, first.add(index))
    }

    /// Whether DEMOTE leaves the content of 4K page `index` alone.
    fn demote_keeps_content(&mut self, index: u64) -> bool {
        true
    }

    // Module: results visible in the guest.

    /// A status with which ACCEPT is refused before it looks at the S-EPT, such as BUSY.
    fn accept_refused(&mut self, gpa: Gpa, level: PageLevel) -> Option<Status> {
        None
    }

    /// 4K pages that ACCEPT zeroes before it lets an interrupt in and restarts. At least 1.
    fn accept_burst(&mut self) -> u64 {
        512
    }

    /// Which of `pages` (4K pages counted from the start of the leaf) ACCEPT zeroes.
    fn accept_zeroes(&mut self, level: PageLevel, pages: Range<u64>) -> Range<u64> {
        pages
    }

    /// The entry of a leaf the guest has accepted.
    fn accepted_entry(&mut self, level: PageLevel, frame: Pfn) -> SeptEntry {
        SeptEntry::leaf(State::Mapped, level, frame)
    }

    /// RAX of an ACCEPT of `level`.
    fn accept_status(&mut self, level: PageLevel, status: Status) -> Status {
        status
    }

    /// Whether RELEASE makes vCPUs forget the translation of the page.
    fn release_flushes(&mut self) -> bool {
        true
    }

    /// Effect of an access to a pending page.
    fn pending_access(&mut self, sept_ve_disable: bool) -> PendingAccess {
        if sept_ve_disable {
            PendingAccess::Exit
        } else {
            PendingAccess::Ve
        }
    }

    /// The address that a #VE reports.
    fn ve_address(&mut self, gpa: Gpa) -> Gpa {
        gpa
    }

    /// Level and pending bit that ATTR.RD returns.
    fn attributes_read(&mut self, level: Level, pending: bool) -> (Level, bool) {
        (level, pending)
    }

    // Module: the zero-step filter.

    /// Whether an EPT violation counts as one at another instruction than that of the last entry, given
    /// whether it is.
    fn rip_has_moved(&mut self, moved: bool) -> bool {
        moved
    }

    /// Whether EPT violations of ACCEPT count, too.
    fn counts_accepts(&mut self) -> bool {
        false
    }

    /// Whether a vCPU is let in whose next fault is a #VE on a pending page, given whether this version
    /// of the module does so.
    fn admits_pending(&mut self, admits: bool) -> bool {
        admits
    }

    // KVM: EPT violations.

    /// The level to which KVM splits for an ACCEPT of `requested`.
    fn accept_level(&mut self, requested: PageLevel) -> PageLevel {
        requested
    }

    /// Which root the split for an ACCEPT is applied to.
    fn accept_split_root(&mut self) -> Side {
        Side::Private
    }

    /// Stages of KVM for an ACCEPT below the level of the leaf, in order.
    fn accept_stages(&mut self) -> &'static [AcceptStage] {
        &[AcceptStage::Split, AcceptStage::Inhibit]
    }

    /// The 2M region in which an ACCEPT of a 4K page at `gpa` forbids huge pages; `None` for none.
    fn inhibits(&mut self, gpa: Gpa) -> Option<Gpa> {
        Some(gpa.align_down(PageLevel::Size2M))
    }

    /// Whether huge pages count as forbidden in a region whose bit reads `bit`.
    fn is_inhibited(&mut self, region: Gpa, bit: bool) -> bool {
        bit
    }

    /// Whether KVM's check before a split for an ACCEPT, made without mmu_lock, finds huge pages
    /// forbidden already, given whether they are. If so, there is no split.
    fn is_done_already(&mut self, inhibited: bool) -> bool {
        inhibited
    }

    /// The level at which a private page is mapped.
    fn fault_level(&mut self, limits: &LevelLimits) -> PageLevel {
        limits.level()
    }

    /// Whether a level chosen without mmu_lock must be chosen again, given whether a table or an
    /// inhibit bit was added since.
    fn level_is_stale(&mut self, changed: bool) -> bool {
        changed
    }

    /// The stages of mapping a private leaf.
    fn map_stages(&mut self) -> &'static [MapStage] {
        &[MapStage::Sept, MapStage::Mirror, MapStage::Count]
    }

    /// Whether a fault must restart, given whether an invalidation ran or runs concurrently.
    fn fault_retries(&mut self, invalidated: bool) -> bool {
        invalidated
    }

    /// Result of an error in handling an EPT violation; `None` means the guest is resumed.
    fn fault_failure(&mut self, failure: Failure) -> Option<Failure> {
        Some(failure)
    }

    /// Whether an access to a pending page with SEPT_VE_DISABLE set ends the VM.
    fn kills_on_pending_access(&mut self) -> bool {
        true
    }

    // KVM: splits.

    /// The 2M pages to split at the ends of `range`, by arithmetic. `offset` is the file offset of
    /// its start.
    fn head_and_tail(&mut self, range: GpaRange, offset: u64) -> HeadAndTail {
        HeadAndTail::of(range)
    }

    /// Whether a walk over `range` splits this leaf.
    fn walk_splits(&mut self, leaf: GpaRange, range: GpaRange) -> bool {
        !range.contains_range(leaf)
    }

    /// The stages of a split.
    fn split_stages(&mut self, why: Why) -> &'static [SplitStage] {
        &[
            SplitStage::Sept,
            SplitStage::Mirror,
            SplitStage::Count,
            SplitStage::Trace,
        ]
    }

    /// How a split ended, as its caller learns it.
    fn split_result(&mut self, why: Why, result: Result<(), Failure>) -> Result<(), Failure> {
        result
    }

    // KVM: the order of a change, and its SEAMCALLs.

    /// The stages of a punch hole.
    fn hole_stages(&mut self) -> &'static [HoleStage] {
        &[
            HoleStage::InvalidateBegin,
            HoleStage::Split,
            HoleStage::Zap,
            HoleStage::Truncate,
            HoleStage::InvalidateEnd,
        ]
    }

    /// The stages of a conversion to shared.
    fn conversion_stages(&mut self) -> &'static [ConversionStage] {
        &[
            ConversionStage::Split,
            ConversionStage::Zap,
            ConversionStage::SetAttributes,
        ]
    }

    /// Whether RANGE.BLOCK is called before a leaf is changed.
    fn blocks(&mut self, why: Why) -> bool {
        true
    }

    /// Whether TRACK is called before a leaf is changed.
    fn tracks(&mut self, why: Why) -> bool {
        true
    }

    /// How vCPUs are made to forget a translation.
    fn kick(&mut self, why: Why) -> Kick {
        Kick::Flush
    }

    /// What KVM does about a PAGE.DEMOTE that gave way to an interrupt.
    fn on_interrupted_demote(&mut self) -> OnInterrupt {
        OnInterrupt::Again
    }

    /// Whether KVM repeats a busy SEAMCALL, with all vCPUs kept out.
    fn retries_busy(&mut self, call: Seamcall) -> bool {
        true
    }

    /// Whether another call has the S-EPT tree while a vCPU goes back into the TD, whose zero-step
    /// filter wants it, too: TDH.VP.ENTER gives TDX_OPERAND_BUSY.
    fn entry_is_busy(&mut self) -> bool {
        false
    }

    /// Whether KVM enters again after a busy TDH.VP.ENTER.
    fn enters_again(&mut self) -> bool {
        true
    }

    /// Whether KVM takes this status of a SEAMCALL for a failure.
    fn notices(&mut self, call: Seamcall, status: Status) -> bool {
        !status.is_success()
    }

    // KVM and guest_memfd: ranges.

    /// Whether offset and length of a hole obey the alignment rule.
    fn hole_is_aligned(&mut self, offset: u64, len: u64, alignment: PageLevel) -> bool {
        (offset | len) & (alignment.bytes() - 1) == 0
    }

    /// The file that a hole is punched into.
    fn hole_file(&mut self, file: FileId) -> FileId {
        file
    }

    /// The part of a slot that a hole (in file offsets) covers.
    fn hole_in_slot(&mut self, slot: &BoundSlot, hole: Range<u64>) -> Option<GpaRange> {
        slot.covered_by(hole)
    }

    /// The range that is zapped for a hole.
    fn hole_zap_range(&mut self, range: GpaRange) -> GpaRange {
        range
    }

    /// The file offsets that are freed for a hole.
    fn hole_truncate_range(&mut self, hole: Range<u64>) -> Range<u64> {
        hole
    }

    /// The range that is zapped for a conversion.
    fn conversion_zap_range(&mut self, range: GpaRange) -> GpaRange {
        range
    }

    /// Whether a conversion invalidates faults that began before it.
    fn conversion_invalidates(&mut self) -> bool {
        true
    }

    /// The range whose attribute a conversion to this side sets.
    fn attribute_range(&mut self, to: Side, range: GpaRange) -> GpaRange {
        range
    }

    /// Whether a zap of `range` takes this leaf, which overlaps it.
    fn zaps(&mut self, leaf: GpaRange, range: GpaRange) -> bool {
        true
    }

    /// The file offset behind `gpa`.
    fn file_offset(&mut self, slot: &BoundSlot, gpa: Gpa) -> u64 {
        slot.offset_of(gpa)
    }

    /// Size of the folio that is allocated in an unpopulated file region.
    fn folio(&mut self, offset: u64, level: PageLevel) -> PageLevel {
        level
    }

    /// Whether a page that is mapped shared is cleared first, given whether it must be.
    fn clears_for_shared(&mut self, needed: bool) -> bool {
        needed
    }

    /// Whether a truncated page's frame goes back to the allocator.
    fn frees(&mut self, offset: u64) -> bool {
        true
    }

    // Conversions.

    /// Where the chunk of MapGPA that starts at `next` ends.
    fn map_gpa_chunk_end(&mut self, next: Gpa, end: Gpa) -> Gpa {
        next.checked_add(PageLevel::Size2M.bytes())
            .map_or(end, |chunk| chunk.min(end))
    }

    /// Whether MapGPA stops with RETRY before the chunk at `next`, given whether an interrupt is
    /// pending.
    fn map_gpa_interrupted(&mut self, next: Gpa, pending: bool) -> bool {
        pending
    }

    /// Whether MapGPA takes its operands for whole pages, given whether they are.
    fn map_gpa_is_aligned(&mut self, aligned: bool) -> bool {
        aligned
    }

    /// Whether a chunk of MapGPA is refused that the VMM does not convert, given whether memory lies
    /// behind all of it.
    fn vmm_refuses(&mut self, covered: bool) -> bool {
        true
    }

    /// Whether the guest_memfd refuses to make pages private to which someone has references.
    fn heeds_references(&mut self, range: GpaRange) -> bool {
        true
    }

    /// Whether that is found out before anything is changed.
    fn looks_for_references_first(&mut self) -> bool {
        true
    }

    /// Whether setting attributes to what they are is no work at all, given whether they are.
    fn skips_equal_attributes(&mut self, equal: bool) -> bool {
        equal
    }

    /// Where a call from `start` says that it met the held page `held`.
    fn error_at(&mut self, start: Gpa, held: Gpa) -> Gpa {
        held
    }

    /// Whether a call that meets a held page leaves those before it alone.
    fn refuses_as_a_whole(&mut self) -> bool {
        true
    }

    /// What is zapped when the memory slot at `slot` is deleted, of all memory.
    fn slot_zap_range(&mut self, slot: GpaRange, memory: GpaRange) -> Option<GpaRange> {
        Some(slot)
    }

    /// Whether KVM refuses to log writes to private memory.
    fn refuses_dirty_log(&mut self) -> bool {
        true
    }

    /// Whether dirty logging splits the leaves of the mirror.
    fn dirty_log_splits_mirror(&mut self) -> bool {
        false
    }

    /// Whether the VMM ends where no memory lies behind an address.
    fn ends_without_memory(&mut self) -> bool {
        true
    }

    /// R10 of MapGPA.
    fn map_gpa_status(&mut self, status: u64) -> u64 {
        status
    }

    /// The range converted when a page is touched through the wrong half.
    fn implicit_conversion(&mut self, gpa: Gpa) -> GpaRange {
        gpa.page(PageLevel::Size4K)
    }

    // Resources and reports.

    /// Whether an allocation is allowed to succeed.
    fn allocates(&mut self, what: Allocation) -> bool {
        true
    }

    /// The errno that a host call of this kind returns.
    fn host_errno(&mut self, kind: HostCallKind, errno: i32) -> i32 {
        errno
    }

    /// Whether a VM exit is counted.
    fn counts_exit(&mut self) -> bool {
        true
    }

    /// By how much a page counter moves for an event that should move it by `delta`.
    fn counted(&mut self, event: Counted, level: PageLevel, delta: i64) -> i64 {
        delta
    }

    /// The split event that the trace records; `None` loses it.
    fn traced(&mut self, event: SplitTrace) -> Option<SplitTrace> {
        Some(event)
    }

    /// Kernel log line for a split.
    fn remark_on_split(&mut self) -> Option<String> {
        None
    }

    /// Kernel log line for the teardown of a VM.
    fn remark_on_teardown(&mut self) -> Option<String> {
        None
    }

    // KVM: Dynamic PAMT.

    /// Whether KVM gives the module the pages for metadata that this needs.
    fn gives_pamt_pages(&mut self, what: PamtFor) -> bool {
        true
    }

    /// How many 4K pages KVM counts for a 2M range whose leaf was split into `pages`.
    fn pamt_pages_of_split(&mut self, pages: u64) -> u64 {
        pages
    }

    /// Whether a DEMOTE is kept apart from the PAMT.ADD of other TDs.
    fn demotes_under_pamt_lock(&mut self) -> bool {
        true
    }

    /// Whether KVM frees the pages that PAMT.REMOVE gives back.
    fn frees_pamt_pages(&mut self) -> bool {
        true
    }

    /// Whether the end of a VM gives this back.
    fn frees_at_the_end(&mut self, what: AtTheEnd) -> bool {
        true
    }

    /// The line that the kernel log gets; `None` loses it.
    fn logged(&mut self, line: String) -> Option<String> {
        Some(line)
    }
}
}
