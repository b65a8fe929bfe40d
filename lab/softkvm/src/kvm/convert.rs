//! Conversion between private and shared: MapGPA, and touching a page through the wrong half.

use rand::Rng;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel, Side};
use tdxlab_protocol::tdcall::vmcall;
use tdxlab_tdxmodule::policy::{ConversionStage, Failure, Policy};
use tdxlab_tdxmodule::{PhysicalMemory, SHARED_BIT};

use super::design::Conversion;
use super::{Kvm, death};
use crate::api::Killer;

/// An interrupt comes in the middle of a MapGPA about once in so many chunks.
const CHUNKS_PER_INTERRUPT: u32 = 16;

/// A MapGPA that is being worked off in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapGpa {
    /// Target: private or shared.
    to: Side,
    /// Start of the next chunk.
    next: Gpa,
    /// End of the whole.
    end: Gpa,
    /// Whether a chunk was done since the request.
    begun: bool,
}

/// Result of MapGPA for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapGpaResult {
    /// R10.
    pub(crate) status: u64,
    /// Where it stopped, if it did not succeed: R11, shared bit included.
    pub(crate) stopped_at: Option<u64>,
}

impl MapGpa {
    /// Checks the operands: R12 with the shared bit saying to which side, and R13.
    pub(crate) fn new(
        address: u64,
        size: u64,
        policy: &mut dyn Policy,
    ) -> Result<MapGpa, MapGpaResult> {
        let refuse = |status| MapGpaResult {
            status,
            stopped_at: Some(address),
        };
        let to = if address & SHARED_BIT != 0 {
            Side::Shared
        } else {
            Side::Private
        };
        let start = Gpa::new(address & !SHARED_BIT);
        // Both ends must lie in the same half, below the shared bit.
        let end = start
            .checked_add(size)
            .filter(|end| end.as_u64() <= SHARED_BIT)
            .ok_or_else(|| refuse(vmcall::INVALID_OPERAND))?;
        let aligned = start.is_aligned(PageLevel::Size4K) && end.is_aligned(PageLevel::Size4K);
        if !policy.map_gpa_is_aligned(aligned) {
            return Err(refuse(vmcall::ALIGN_ERROR));
        }
        let start = start.align_down(PageLevel::Size4K);
        let end = end.align_down(PageLevel::Size4K);
        Ok(MapGpa {
            to,
            next: start,
            end,
            begun: false,
        })
    }

    fn stop(&self, status: u64) -> MapGpaResult {
        let half = match self.to {
            Side::Shared => SHARED_BIT,
            Side::Private => 0,
        };
        MapGpaResult {
            status,
            stopped_at: Some(self.next.as_u64() | half),
        }
    }
}

impl<M: PhysicalMemory> Kvm<M> {
    /// One chunk of a MapGPA, at most 2M counted from where the guest started. The result, when
    /// there is no more to do.
    pub(crate) fn map_gpa_chunk(&mut self, map: &mut MapGpa) -> Option<MapGpaResult> {
        if map.next >= map.end {
            return Some(MapGpaResult {
                status: self.hardware.policy.map_gpa_status(vmcall::SUCCESS),
                stopped_at: None,
            });
        }
        // A conversion waits for the lock that a hole in the file holds.
        if !self.invalidation.ranges.is_empty() {
            return None;
        }
        if map.begun && self.is_interrupted(map.next) {
            let status = self.hardware.policy.map_gpa_status(vmcall::RETRY);
            return Some(map.stop(status));
        }
        let end = self.hardware.policy.map_gpa_chunk_end(map.next, map.end);
        let invalid = |kvm: &mut Self| {
            let status = kvm.hardware.policy.map_gpa_status(vmcall::INVALID_OPERAND);
            Some(map.stop(status))
        };
        let Some(chunk) = GpaRange::new(map.next, end) else {
            return invalid(self);
        };
        let covered = self.slots.cover(chunk);
        let served = covered && !self.refused.overlaps(chunk);
        if !served && self.hardware.policy.vmm_refuses(covered) {
            return invalid(self);
        }
        if self.delays(chunk) {
            let status = self.hardware.policy.map_gpa_status(vmcall::RETRY);
            return Some(map.stop(status));
        }
        let result = self.convert(chunk, map.to);
        match result {
            Ok(()) => {
                map.next = end;
                map.begun = true;
                None
            }
            Err(Failure::Again) => Some(map.stop(vmcall::RETRY)),
            Err(Failure::NoMemory | Failure::Bugged) => {
                let status = self.hardware.policy.map_gpa_status(vmcall::INVALID_OPERAND);
                Some(map.stop(status))
            }
        }
    }

    /// Whether an interrupt ends a MapGPA between two chunks, so that the guest must call again.
    fn is_interrupted(&mut self, next: Gpa) -> bool {
        let pending = self.interrupts.random_ratio(1, CHUNKS_PER_INTERRUPT);
        self.hardware.policy.map_gpa_interrupted(next, pending)
    }

    /// Converts `range`, which lies in slots, as one piece.
    pub(super) fn convert(&mut self, range: GpaRange, to: Side) -> Result<(), Failure> {
        // A VMM that punches does so whatever the attribute was.
        let in_place = self.rules.conversion == Conversion::InPlace;
        // A fault that read the attribute before must retry.
        if self.hardware.policy.conversion_invalidates() {
            self.invalidation.sequence += 1;
        }
        match to {
            Side::Shared if in_place && self.shared.covers(range) => Ok(()),
            Side::Shared => self.convert_to_shared(range),
            Side::Private => {
                // All or nothing: whether anything is held comes before anything is changed.
                if !self.hardware.policy.looks_for_references_first() {
                    self.zap_shared(range);
                }
                self.refuse_held(range)?;
                self.convert_to_private(range);
                Ok(())
            }
        }
    }

    /// An access through the other half: KVM_EXIT_MEMORY_FAULT, and the VMM converts the page and runs
    /// the vCPU again. Where it cannot, that is the end.
    pub(super) fn convert_for_access(&mut self, page: GpaRange, to: Side) -> Result<(), Failure> {
        let served = !self.refused.overlaps(page);
        match served.then(|| self.convert(page, to)) {
            Some(Ok(())) => Ok(()),
            Some(Err(failure)) if failure != Failure::Again => Err(failure),
            _ => {
                let text = format!("error: kvm run failed Bad address (cannot convert {page})");
                self.die(death(Killer::Vmm, text));
                Ok(())
            }
        }
    }

    fn convert_to_shared(&mut self, range: GpaRange) -> Result<(), Failure> {
        for stage in self.hardware.policy.conversion_stages() {
            match stage {
                ConversionStage::Split => self.split_for_range(range)?,
                ConversionStage::Zap => {
                    let zapped = self.hardware.policy.conversion_zap_range(range);
                    self.zap_all_private(zapped)?;
                }
                ConversionStage::SetAttributes => {
                    let set = self.hardware.policy.attribute_range(Side::Shared, range);
                    self.shared.insert(set);
                }
            }
        }
        if self.rules.conversion == Conversion::AttributesAndHole {
            for (slot, part) in self.slots.parts(range) {
                let offset = self.hardware.policy.file_offset(&slot, part.start());
                self.files[slot.file as usize]
                    .truncate(offset..offset + part.bytes(), &mut self.hardware);
            }
        }
        Ok(())
    }

    fn convert_to_private(&mut self, range: GpaRange) {
        self.zap_shared(range);
        let set = self.hardware.policy.attribute_range(Side::Private, range);
        self.shared.remove(set);
        if self.rules.conversion == Conversion::AttributesAndHole {
            // The VMM discards the shared memory.
            let gone: Vec<Gpa> = self
                .user_pages
                .range(range.start()..range.end())
                .map(|(&gpa, _)| gpa)
                .collect();
            for gpa in gone {
                if let Some(frame) = self.user_pages.remove(&gpa)
                    && self.held_elsewhere.get(&gpa) != Some(&frame)
                {
                    self.hardware.pool.give_frame(frame);
                }
            }
        }
    }
}
