//! What others do to a VM that runs: a device that holds pages, a memory slot that goes, a VMM that
//! does not serve every conversion.

use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_tdxmodule::PhysicalMemory;
use tdxlab_tdxmodule::policy::{Failure, FileId, Why};

use super::Kvm;
use super::design::Conversion;
use crate::api::Answer;

impl<M: PhysicalMemory> Kvm<M> {
    /// pin_user_pages() on what user space maps of `range`. All of it, or nothing and an errno.
    pub(super) fn pin(&mut self, range: GpaRange) -> i32 {
        let in_place = self.rules.conversion == Conversion::InPlace;
        // User space has no mapping of what is private.
        if !self.slots.cover(range) || in_place && !self.shared.covers(range) {
            return libc::EFAULT;
        }
        for gpa in range.pages(PageLevel::Size4K) {
            let pinned = if in_place {
                self.shared_page(gpa).map(|_| ())
            } else {
                self.user_page(gpa).map(|(frame, dirty)| {
                    if dirty {
                        self.hardware.machine.zero_frames(frame, 1);
                    }
                    self.held_elsewhere.insert(gpa, frame);
                })
            };
            if let Err(failure) = pinned {
                return failure.errno();
            }
        }
        if in_place {
            self.held.insert(range);
        }
        0
    }

    /// unpin_user_pages().
    pub(super) fn unpin(&mut self, range: GpaRange) -> i32 {
        self.held.remove(range);
        let mut rest = self.held_elsewhere.split_off(&range.start());
        let mut after = rest.split_off(&range.end());
        self.held_elsewhere.append(&mut after);
        for (gpa, frame) in rest {
            // The VMM may have discarded it in the meantime.
            if self.user_pages.get(&gpa) != Some(&frame) {
                self.hardware.pool.give_frame(frame);
            }
        }
        0
    }

    /// KVM_SET_USER_MEMORY_REGION2 with a size of 0. Source: `kvm_delete_memslot()`,
    /// `kvm_arch_flush_shadow_memslot()`.
    pub(super) fn delete_slot(&mut self, range: GpaRange) -> i32 {
        if !self.slots.is_there(range, FileId::Test) {
            return libc::EINVAL;
        }
        let everything = self.slots.span();
        let zapped = self.hardware.policy.slot_zap_range(range, everything);
        if let Some(zapped) = zapped
            && self.zap_all_private(zapped).is_ok()
        {
            self.zap_shared(zapped);
        }
        // A fault that looked the slot up must look again.
        self.invalidation.sequence += 1;
        self.slots.delete(range);
        // `lpage_info` goes with the slot.
        self.inhibited
            .retain(|region| !region.page(PageLevel::Size2M).overlaps(range));
        0
    }

    /// KVM_SET_USER_MEMORY_REGION2 for a slot that was deleted.
    pub(super) fn add_slot(&mut self, range: GpaRange) -> i32 {
        if self.slots.add(range) {
            0
        } else {
            libc::EINVAL
        }
    }

    /// KVM_SET_USER_MEMORY_REGION2 with KVM_MEM_LOG_DIRTY_PAGES set, or with it taken away, for the
    /// slots over the guest_memfd of test memory. Source: `check_memory_region_flags()`.
    ///
    /// A policy may let it through: `kvm_tdp_mmu_try_split_huge_pages()` visits mirror roots, too.
    pub(super) fn log_dirty_pages(&mut self, on: bool) -> i32 {
        let refusal = self.hardware.policy.refuses_dirty_log();
        if on && self.hardware.policy.dirty_log_splits_mirror() {
            let mut leaves = Vec::new();
            for slot in self.slots.of_file(FileId::Test) {
                self.mirror.walk_range(slot.range, &mut |leaf| {
                    leaves.extend(leaf.map(|leaf| leaf.gpa))
                });
            }
            // Without memory for a table, KVM splits no further and reports nothing.
            let _ = leaves
                .into_iter()
                .try_for_each(|gpa| self.split_at(gpa, Why::DirtyLog));
        }
        match refusal {
            true => libc::EINVAL,
            false => 0,
        }
    }

    /// What the VMM answers from now on to conversions that touch `range`.
    pub(super) fn answer(&mut self, range: GpaRange, answer: Answer) -> i32 {
        for (set, wanted) in [
            (&mut self.refused, Answer::Refuse),
            (&mut self.delayed, Answer::Delay),
        ] {
            match answer == wanted {
                true => set.insert(range),
                false => set.remove(range),
            }
        }
        0
    }

    /// Whether the VMM puts this conversion off. It does so once for each chunk.
    pub(super) fn delays(&mut self, chunk: GpaRange) -> bool {
        let start = chunk.start();
        if self.put_off.remove(&start) || !self.delayed.overlaps(chunk) {
            return false;
        }
        self.put_off.insert(start)
    }

    /// Whether the guest_memfd refuses to make `range` private, since someone holds a page of it.
    /// Source: `kvm_gmem_is_safe_for_conversion()`.
    pub(super) fn refuse_held(&mut self, range: GpaRange) -> Result<(), Failure> {
        if self.held.overlaps(range) && self.hardware.policy.heeds_references(range) {
            return Err(Failure::Again);
        }
        Ok(())
    }
}
