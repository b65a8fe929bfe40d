//! QEMUs whose guest has ended, for the next guest.
//!
//! On this host a TD is made by the lab: memory, tables, KVM, TDX module. QEMU is only its processor,
//! and the micro guest keeps nothing of a TD but how its windows are mapped, which it is told anew for
//! every guest. A QEMU whose guest ended in good order therefore serves the next one as well as a new
//! QEMU does, and start, boot and end of that one are saved: some 50 ms of processor time. What does not
//! pass in a used QEMU is run again in a new one (`BootOptions::fresh`) before it is believed.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use parking_lot::Mutex;
use tdxlab_plan::Side;
use tdxlab_protocol::layout::WINDOW_BYTES;
use tdxlab_softkvm::Pfn;

use super::mailbox::{Mailbox, root_entry};
use super::qemu::Qemu;
use super::ram::{Ram, RamLayout};

/// Most QEMUs that wait. They sleep, and hold only what QEMU itself needs.
const MOST: usize = 8;

/// Bytes mapped by one top-level entry.
const ROOT_ENTRY_BYTES: u64 = 1 << 39;

/// QEMUs that wait for a guest. Dropping it ends them.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<Qemu>>);

impl Kept {
    /// One with so many vCPUs and so much RAM.
    pub(super) fn take(&self, vcpus: u16, layout: &RamLayout) -> Option<Qemu> {
        let mut waiting = self.0.lock();
        loop {
            let fits = |qemu: &Qemu| qemu.vcpus() == vcpus && qemu.ram.bytes() == layout.bytes;
            let place = waiting.iter().rposition(fits)?;
            let mut qemu = waiting.remove(place);
            if qemu.vm.process().ended().is_none() {
                return Some(qemu);
            }
        }
    }

    /// Keeps a QEMU whose vCPUs are idle and whose guest used the frames of `pool`. A QEMU that cannot
    /// be cleaned ends; so does the one that has waited longest, if there are too many.
    pub(super) fn keep(&self, mut qemu: Qemu, pool: &Range<Pfn>) {
        if clean(&qemu.ram, qemu.vcpus(), pool).is_err() {
            return;
        }
        qemu.guests_before += 1;
        let mut waiting = self.0.lock();
        let oldest = (waiting.len() >= MOST).then(|| waiting.remove(0));
        waiting.push(qemu);
        // To end one takes some milliseconds: not under the lock.
        drop(waiting);
        drop(oldest);
    }
}

/// Removes all that is left of a guest: in the windows, in vCPUs' translations, and in memory.
fn clean(ram: &Arc<Ram>, vcpus: u16, pool: &Range<Pfn>) -> io::Result<()> {
    for window in [Side::Private, Side::Shared] {
        for index in 0..(WINDOW_BYTES / ROOT_ENTRY_BYTES) as usize {
            ram.word64(root_entry(window, index)).store(0, SeqCst);
        }
    }
    Mailbox::new(ram.clone(), vcpus)
        .kick(Duration::ZERO)
        .map_err(|vcpu| io::Error::other(format!("vCPU {} is not idle", vcpu.0)))?;
    ram.zero(pool.start, pool.end.0 - pool.start.0)
}

#[cfg(test)]
mod tests {
    use tdxlab_protocol::layout::MAILBOX_START;
    use tdxlab_protocol::mailbox::{HEADER_TLB_EPOCH, SLOT_BYTES, SLOT_RUNNING, SLOTS};

    use super::*;
    use crate::soft::ram::tests::{layout, ram};

    #[test]
    fn nothing_is_left_of_a_guest() {
        let memory = 64 << 20;
        let (ram, pool) = (Arc::new(ram(memory)), layout(memory).pool());
        let last = (WINDOW_BYTES / ROOT_ENTRY_BYTES) as usize - 1;
        let words = [
            root_entry(Side::Private, 0),
            root_entry(Side::Private, last),
            root_entry(Side::Shared, 0),
            root_entry(Side::Shared, last),
            pool.start.address(),
            pool.end.address() - 8,
        ];
        for address in words {
            ram.word64(address).store(7, SeqCst);
        }
        let epoch = || ram.word32(MAILBOX_START + HEADER_TLB_EPOCH).load(SeqCst);
        let before = epoch();
        clean(&ram, 2, &pool).unwrap();
        for address in words {
            assert_eq!(ram.word64(address).load(SeqCst), 0, "{address:#x}");
        }
        assert_ne!(epoch(), before, "vCPUs drop what they have translated");
    }

    #[test]
    fn a_qemu_whose_vcpus_run_cannot_be_cleaned() {
        let memory = 64 << 20;
        let (ram, pool) = (Arc::new(ram(memory)), layout(memory).pool());
        ram.word32(MAILBOX_START + SLOTS + SLOT_BYTES + SLOT_RUNNING)
            .store(1, SeqCst);
        let error = clean(&ram, 2, &pool).unwrap_err();
        assert_eq!(error.to_string(), "vCPU 1 is not idle");
    }
}
