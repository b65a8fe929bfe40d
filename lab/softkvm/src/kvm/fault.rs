//! EPT violations: mapping pages, and the stages of an ACCEPT before that.
//!
//! A private fault is handled in two steps, as in the kernel: the page is looked up in the
//! guest_memfd without mmu_lock, then mapped with it, unless the range was invalidated in between.

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
use tdxlab_protocol::message::VcpuId;
use tdxlab_tdxmodule::policy::{
    AcceptStage, Allocation, BoundSlot, Counted, Failure, LevelLimits, Why,
};
use tdxlab_tdxmodule::{Pfn, PhysicalMemory};

use super::design::Conversion;
use super::{Kvm, death};
use crate::api::Killer;

/// A page that was looked up and waits to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    frame: Pfn,
    level: PageLevel,
    offset: u64,
    sequence: u64,
    /// Whether the region had a table or an inhibit bit then.
    confined: bool,
}

/// A fault that is being handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The faulting address.
    pub(crate) gpa: Gpa,
    /// Through which half.
    pub(crate) side: Side,
    /// Level of the ACCEPT that caused it, if one did.
    pub(crate) accept: Option<PageLevel>,
    /// The page, once it is known.
    pub(crate) lookup: Option<Lookup>,
}

/// Whether a fault is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultProgress {
    /// Continue handling it.
    Again,
    /// The guest can continue.
    Resume,
}

impl<M: PhysicalMemory> Kvm<M> {
    /// Handles one step of a fault.
    pub(crate) fn handle_fault(&mut self, fault: &mut Fault) -> FaultProgress {
        let result = match fault.side {
            Side::Private => self.private_fault(fault),
            Side::Shared => self.shared_fault(fault.gpa).map(|()| FaultProgress::Resume),
        };
        match result {
            Ok(progress) => progress,
            Err(Failure::Again) => {
                fault.lookup = None;
                FaultProgress::Again
            }
            Err(failure) => {
                match self.hardware.policy.fault_failure(failure) {
                    // KVM_RUN fails, which a VMM takes for the end.
                    Some(Failure::NoMemory) => self.die(death(
                        Killer::Vmm,
                        "error: kvm run failed Cannot allocate memory".to_owned(),
                    )),
                    Some(Failure::Bugged | Failure::Again) | None => {}
                }
                FaultProgress::Resume
            }
        }
    }

    /// An access to a pending page in a TD with SEPT_VE_DISABLE.
    pub(crate) fn pending_access(&mut self, vcpu: VcpuId, gpa: Gpa) {
        let line = format!(
            "kvm_intel: Guest access before accepting 0x{:x} on vCPU {}",
            gpa.as_u64(),
            vcpu.0
        );
        self.log(line.clone());
        if self.hardware.policy.kills_on_pending_access() {
            self.die(death(Killer::AccessBeforeAccept, line));
        }
    }

    fn private_fault(&mut self, fault: &mut Fault) -> Result<FaultProgress, Failure> {
        let gpa = fault.gpa;
        let Some(slot) = self.slots.find(gpa) else {
            return Ok(self.no_memory_there(gpa));
        };
        if let Some(lookup) = fault.lookup.take() {
            if self.invalidated(gpa, lookup.sequence) {
                return Ok(FaultProgress::Again);
            }
            self.map_looked_up(gpa, &lookup, slot)?;
            return Ok(FaultProgress::Resume);
        }
        if self.invalidated(gpa, self.invalidation.sequence) {
            return Ok(FaultProgress::Again);
        }
        if self.shared.contains(gpa) {
            let page = self.hardware.policy.implicit_conversion(gpa);
            self.convert_for_access(page, Side::Private)?;
            if self.death().is_some() {
                return Ok(FaultProgress::Resume);
            }
        }
        if let Some(requested) = fault.accept {
            self.honor_accept_level(gpa, requested)?;
        }
        if self.mirror.leaf(gpa).is_some() {
            return Ok(FaultProgress::Resume);
        }
        fault.lookup = Some(self.look_up(gpa, slot, fault.accept)?);
        Ok(FaultProgress::Again)
    }

    /// Maps the private page at `gpa` if it is not, without an exit: KVM_PRE_FAULT_MEMORY.
    pub(crate) fn prefault_page(&mut self, gpa: Gpa) -> Result<PageLevel, Failure> {
        if self.shared.contains(gpa) {
            self.shared_fault(gpa)?;
            return Ok(PageLevel::Size4K);
        }
        if let Some(leaf) = self.mirror.leaf(gpa) {
            return Ok(leaf.level);
        }
        let slot = self.slots.find(gpa).ok_or(Failure::Bugged)?;
        let lookup = self.look_up(gpa, slot, None)?;
        self.map_looked_up(gpa, &lookup, slot)?;
        Ok(lookup.level)
    }

    /// Splits to the level the guest accepts, and forbids larger pages there from now on.
    ///
    /// Source: `tdx_handle_mismatched_accept()` of RFC v5.
    fn honor_accept_level(&mut self, gpa: Gpa, requested: PageLevel) -> Result<(), Failure> {
        if !self.rules.splits_for_accept {
            return Ok(());
        }
        let level = self.hardware.policy.accept_level(requested);
        let region = gpa.align_down(PageLevel::Size2M);
        if level >= PageLevel::Size2M {
            return Ok(());
        }
        let inhibited = self.is_inhibited(region);
        if self.hardware.policy.is_done_already(inhibited) {
            return Ok(());
        }
        for stage in self.hardware.policy.accept_stages() {
            match stage {
                // The shared root has no leaf that could be split.
                AcceptStage::Split => {
                    if self.hardware.policy.accept_split_root() == Side::Private {
                        self.split_at(region, Why::AcceptSplit)?;
                    }
                }
                AcceptStage::Inhibit => {
                    if let Some(region) = self.hardware.policy.inhibits(gpa) {
                        self.inhibited.insert(region);
                    }
                }
            }
        }
        Ok(())
    }

    fn is_inhibited(&mut self, region: Gpa) -> bool {
        let bit = self.inhibited.contains(&region);
        self.hardware.policy.is_inhibited(region, bit)
    }

    fn look_up(
        &mut self,
        gpa: Gpa,
        slot: BoundSlot,
        accept: Option<PageLevel>,
    ) -> Result<Lookup, Failure> {
        let sequence = self.invalidation.sequence;
        let offset = self.hardware.policy.file_offset(&slot, gpa);
        let file = &mut self.files[slot.file as usize];
        let page = file
            .populate(offset, &mut self.hardware)
            .ok_or(Failure::NoMemory)?;
        let region = gpa.page(PageLevel::Size2M);
        let confined = self.confined(gpa);
        let limits = LevelLimits {
            leaf: self.rules.leaf,
            requested: accept,
            runnable: self.hardware.td.runnable(),
            table: self.mirror.has_table(gpa),
            inhibited: self.rules.leaf > PageLevel::Size4K && self.is_inhibited(region.start()),
            mixed: self.shared.overlaps(region),
            slot_fits: slot.fits(gpa, PageLevel::Size2M),
            folio_whole: page.folio.is_some(),
        };
        let level = self.hardware.policy.fault_level(&limits);
        let (frame, offset) = match (level, page.folio) {
            (PageLevel::Size4K, _) | (_, None) => (page.frame, offset),
            (_, Some(first)) => (first, offset & !(PageLevel::Size2M.bytes() - 1)),
        };
        Ok(Lookup {
            frame,
            level,
            offset,
            sequence,
            confined,
        })
    }

    /// Whether the region of `gpa` has a table of 4K entries, or its inhibit bit set.
    fn confined(&self, gpa: Gpa) -> bool {
        let region = gpa.align_down(PageLevel::Size2M);
        self.mirror.has_table(gpa) || self.inhibited.contains(&region)
    }

    fn map_looked_up(&mut self, gpa: Gpa, lookup: &Lookup, slot: BoundSlot) -> Result<(), Failure> {
        if self.mirror.leaf(gpa).is_some() {
            return Ok(());
        }
        // Without mmu_lock the level was a guess: a table or an inhibit bit may have come since.
        if lookup.level > PageLevel::Size4K {
            let changed = lookup.confined != self.confined(gpa);
            if self.hardware.policy.level_is_stale(changed) {
                return Err(Failure::Again);
            }
        }
        self.map_private(gpa, lookup.level, lookup.frame)?;
        self.files[slot.file as usize].use_privately(lookup.offset, lookup.level.pages_4k());
        Ok(())
    }

    /// Maps the 4K page at `gpa` shared. A page whose attribute is private is converted first.
    fn shared_fault(&mut self, gpa: Gpa) -> Result<(), Failure> {
        let gpa = gpa.align_down(PageLevel::Size4K);
        if self.slots.find(gpa).is_none() {
            self.no_memory_there(gpa);
            return Ok(());
        }
        if self.invalidated(gpa, self.invalidation.sequence) {
            return Err(Failure::Again);
        }
        if !self.shared.contains(gpa) {
            let page = self.hardware.policy.implicit_conversion(gpa);
            self.convert_for_access(page, Side::Shared)?;
            if self.death().is_some() {
                return Ok(());
            }
        }
        if self.ept.is_mapped(gpa, &self.hardware.machine) {
            return Ok(());
        }
        let frame = match self.rules.conversion {
            Conversion::InPlace => self.shared_page(gpa)?,
            Conversion::AttributesAndHole => {
                let (frame, dirty) = self.user_page(gpa)?;
                self.clear_for_shared(frame, dirty);
                frame
            }
        };
        self.ept.map(gpa, frame, &mut self.hardware)?;
        self.count(Counted::SharedMap, PageLevel::Size4K, 1);
        Ok(())
    }

    /// The page of the guest_memfd behind `gpa`, fit to be seen by those who share it.
    pub(super) fn shared_page(&mut self, gpa: Gpa) -> Result<Pfn, Failure> {
        let slot = self.slots.find(gpa).ok_or(Failure::Bugged)?;
        let offset = self.hardware.policy.file_offset(&slot, gpa);
        let file = &mut self.files[slot.file as usize];
        let page = file
            .populate(offset, &mut self.hardware)
            .ok_or(Failure::NoMemory)?;
        let dirty = file.use_shared(offset);
        self.clear_for_shared(page.frame, dirty);
        Ok(page.frame)
    }

    fn clear_for_shared(&mut self, frame: Pfn, dirty: bool) {
        if self.hardware.policy.clears_for_shared(dirty) {
            self.hardware.machine.zero_frames(frame, 1);
        }
    }

    /// The page of the VMM's own memory behind `gpa`, and whether it is new.
    pub(super) fn user_page(&mut self, gpa: Gpa) -> Result<(Pfn, bool), Failure> {
        if let Some(&frame) = self.user_pages.get(&gpa) {
            return Ok((frame, false));
        }
        if !self.hardware.policy.allocates(Allocation::UserPage) {
            return Err(Failure::NoMemory);
        }
        let frame = self.hardware.pool.take_frame().ok_or(Failure::NoMemory)?;
        self.user_pages.insert(gpa, frame);
        Ok((frame, true))
    }

    /// No slot contains the address: the VMM finds no memory to convert and gives up.
    fn no_memory_there(&mut self, gpa: Gpa) -> FaultProgress {
        let text = format!("error: kvm run failed Bad address (no memory at {gpa})");
        if self.hardware.policy.ends_without_memory() {
            self.die(death(Killer::Vmm, text));
        }
        FaultProgress::Resume
    }

    /// Whether a fault at `gpa` that began at `sequence` must restart. A 2M leaf could map a
    /// neighbouring invalidated page again, so the whole region counts.
    fn invalidated(&mut self, gpa: Gpa, sequence: u64) -> bool {
        let region = gpa.page(PageLevel::Size2M);
        let invalidated = self.invalidation.sequence != sequence
            || self
                .invalidation
                .ranges
                .iter()
                .any(|range| range.overlaps(region));
        self.hardware.policy.fault_retries(invalidated)
    }
}
