//! The end of a VM: everything it took goes back.
//!
//! Once the last file of a VM is closed, KVM lets go of the key id, zaps what is mapped with
//! TDH.PHYMEM.PAGE.RECLAIM, frees the tables, and the guest_memfd frees its pages. Source:
//! `kvm_destroy_vm()`, `tdx_vm_destroy()`, `kvm_gmem_release()`.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::policy::{AtTheEnd, Counted};
use tdxlab_tdxmodule::{PhysicalMemory, SHARED_BIT};

use super::Kvm;

impl<M: PhysicalMemory> Kvm<M> {
    /// Takes the VM apart. From then on only what can be counted may be asked.
    pub(crate) fn tear_down(&mut self) {
        if let Some(line) = self.hardware.policy.remark_on_teardown() {
            self.log(line);
        }
        let mut rest = GpaRange::new(Gpa::new(0), Gpa::new(SHARED_BIT));
        while let Some(range) = rest
            && let Some(leaf) = self.mirror.next_leaf(range)
        {
            self.mirror.clear(&leaf);
            self.reclaim(leaf.spte.frame(), leaf.level);
            if self.hardware.policy.frees_at_the_end(AtTheEnd::Leaf) {
                self.count(Counted::Zap, leaf.level, -1);
            }
            rest = GpaRange::new(leaf.range().end(), range.end());
        }
        let shared = self.ept.free(&mut self.hardware);
        if shared > 0 {
            self.count(Counted::SharedZap, PageLevel::Size4K, -(shared as i64));
        }
        for table in std::mem::take(&mut self.sept_tables) {
            self.reclaim(table, PageLevel::Size4K);
            if self.hardware.policy.frees_at_the_end(AtTheEnd::Table) {
                self.hardware.pool.give_frame(table);
            }
        }
        if self.hardware.policy.frees_at_the_end(AtTheEnd::File) {
            for file in &mut self.files {
                file.truncate(0..u64::MAX, &mut self.hardware);
            }
        }
        // Devices stop with the VMM.
        let held = std::mem::take(&mut self.held_elsewhere);
        let own = std::mem::take(&mut self.user_pages);
        for frame in held.into_values().chain(own.into_values()) {
            self.hardware.pool.give_frame(frame);
        }
    }

    /// Frames of machine memory that the VM holds.
    pub(crate) fn frames_in_use(&self) -> u64 {
        self.hardware.pool.used()
    }
}
