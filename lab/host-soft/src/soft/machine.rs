//! The machine under the software KVM: RAM of QEMU, and vCPUs that run in it.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tdxlab_host::HostError;
use tdxlab_plan::Side;
use tdxlab_softkvm::{Pfn, PhysicalMemory};

use super::mailbox::{Mailbox, root_entry};
use super::ram::Ram;

const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The software KVM's machine.
///
/// The trait has no error type, because a real machine has none; errors are kept for
/// [`SoftMachine::trouble`].
#[derive(Debug)]
pub(super) struct SoftMachine {
    ram: Arc<Ram>,
    pool: Range<Pfn>,
    mailbox: Mailbox,
    /// Frames of the pool that may hold something, one bit each.
    used: Vec<u64>,
    patience: Duration,
    trouble: Option<HostError>,
    /// The vCPUs have stopped for good; there are no translations to flush.
    stopped: bool,
}

impl SoftMachine {
    /// On the frames of `pool`, all of which are zero.
    pub(super) fn new(
        ram: Arc<Ram>,
        pool: Range<Pfn>,
        mailbox: Mailbox,
        patience: Duration,
    ) -> SoftMachine {
        let frames = pool.end.0 - pool.start.0;
        SoftMachine {
            ram,
            pool,
            mailbox,
            used: vec![0; frames.div_ceil(64) as usize],
            patience,
            trouble: None,
            stopped: false,
        }
    }

    /// Errors since the previous call.
    pub(super) fn trouble(&mut self) -> Result<(), HostError> {
        match self.trouble.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The vCPUs have stopped: kicks need not wait for them.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    fn note(&mut self, doing: &str, result: io::Result<()>) {
        if let Err(source) = result {
            self.trouble.get_or_insert(HostError::System {
                doing: doing.to_owned(),
                source,
            });
        }
    }

    /// Marks frames that can be written from now on: by the guest, or as tables.
    ///
    /// Fresh frames are zero. A frame known to be fresh need not be zeroed, so that a 2M ACCEPT of
    /// new memory is free. Hence a frame counts as used as soon as it is reachable, whether it was
    /// zeroed or not.
    fn mark_used(&mut self, first: Pfn, count: u64) {
        let pool = &self.pool;
        for frame in first.0..first.0 + count {
            if pool.contains(&Pfn(frame)) {
                let bit = frame - pool.start.0;
                self.used[(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
    }

    fn is_used(&self, frame: Pfn) -> bool {
        let pool = &self.pool;
        // Frames outside of the pool are not tracked.
        if !pool.contains(&frame) {
            return true;
        }
        let bit = frame.0 - pool.start.0;
        self.used[(bit / 64) as usize] & 1 << (bit % 64) != 0
    }
}

impl PhysicalMemory for SoftMachine {
    fn pool(&self) -> Range<Pfn> {
        self.pool.clone()
    }

    fn read_entry(&self, table: Pfn, index: usize) -> u64 {
        self.ram
            .word64(table.address() + index as u64 * 8)
            .load(SeqCst)
    }

    fn write_entry(&mut self, table: Pfn, index: usize, entry: u64) {
        self.mark_used(table, 1);
        if entry & PRESENT != 0 {
            let frames = if entry & LARGE != 0 { 512 } else { 1 };
            self.mark_used(Pfn((entry & ADDRESS) >> 12), frames);
        }
        self.ram
            .word64(table.address() + index as u64 * 8)
            .store(entry, SeqCst);
    }

    fn zero_frames(&mut self, first: Pfn, count: u64) {
        let end = first.0 + count;
        let mut at = first.0;
        while at < end {
            let run = (at..end)
                .take_while(|&frame| self.is_used(Pfn(frame)))
                .count() as u64;
            if run > 0 {
                let result = self.ram.zero(Pfn(at), run);
                self.note("zeroing guest memory", result);
            }
            at += run.max(1);
        }
    }

    fn copy_frame(&mut self, from: Pfn, to: Pfn) {
        self.mark_used(to, 1);
        let result = self.ram.copy(from, to);
        self.note("copying guest memory", result);
    }

    fn set_root_entry(&mut self, window: Side, index: usize, entry: u64) {
        self.ram
            .word64(root_entry(window, index))
            .store(entry, SeqCst);
    }

    fn kick(&mut self) {
        if self.stopped || self.trouble.is_some() {
            return;
        }
        if let Err(vcpu) = self.mailbox.kick(self.patience) {
            self.trouble = Some(HostError::GuestSilent {
                doing: format!("kicking vCPU {} out of its translations", vcpu.0),
                waited: self.patience,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soft::ram::tests::{layout, ram};

    fn machine() -> SoftMachine {
        let ram = Arc::new(ram(1 << 24));
        let mailbox = Mailbox::new(ram.clone(), 1);
        let pool = layout(1 << 24).pool();
        SoftMachine::new(ram, pool, mailbox, Duration::from_millis(5))
    }

    fn fill(machine: &SoftMachine, first: Pfn, count: u64) {
        for frame in 0..count {
            machine
                .ram
                .word64(first.add(frame).address())
                .store(1, SeqCst);
        }
    }

    fn is_zero(machine: &SoftMachine, first: Pfn, count: u64) -> bool {
        (0..count).all(|frame| machine.ram.word64(first.add(frame).address()).load(SeqCst) == 0)
    }

    /// The mapping of a page, zeroing, and its loss, in every order in which a KVM may do them.
    #[test]
    fn what_the_guest_could_write_is_zeroed() {
        let mut machine = machine();
        let table = machine.pool().start;
        let small = table.add(1);
        let large = table.add(512);
        machine.write_entry(table, 0, small.address() | PRESENT);
        machine.write_entry(table, 1, large.address() | PRESENT | LARGE);
        fill(&machine, small, 1);
        fill(&machine, large, 512);
        machine.write_entry(table, 0, 0);
        machine.write_entry(table, 1, 0);
        machine.zero_frames(small, 1);
        machine.zero_frames(large.add(100), 300);
        assert!(is_zero(&machine, small, 1));
        assert!(is_zero(&machine, large.add(100), 300));
        assert!(!is_zero(&machine, large, 1), "frames before are left alone");
        assert!(!is_zero(&machine, large.add(400), 1), "and behind");
    }

    #[test]
    fn a_table_is_written_whole() {
        let mut machine = machine();
        let table = machine.pool().start;
        machine.write_table(
            table,
            Box::new(std::array::from_fn(|index| (index as u64) << 12)),
        );
        for index in 0..512 {
            assert_eq!(machine.read_entry(table, index), (index as u64) << 12);
        }
        machine.zero_frames(table, 1);
        assert!(is_zero(&machine, table, 1), "it counts as used");
    }

    #[test]
    fn tables_and_copies_are_zeroed() {
        let mut machine = machine();
        let (table, copy) = (machine.pool().start, machine.pool().start.add(1));
        machine.write_entry(table, 511, 42);
        machine.copy_frame(table, copy);
        assert_eq!(machine.read_entry(copy, 511), 42);
        machine.zero_frames(table, 2);
        assert_eq!(machine.read_entry(table, 511), 0);
        assert_eq!(machine.read_entry(copy, 511), 0);
    }

    #[test]
    fn a_vcpu_that_never_comes_is_an_error_until_it_has_stopped() {
        let mut machine = machine();
        machine.kick();
        assert!(machine.trouble().is_ok());
        let running = tdxlab_protocol::layout::MAILBOX_START
            + tdxlab_protocol::mailbox::SLOTS
            + tdxlab_protocol::mailbox::SLOT_RUNNING;
        machine.ram.word32(running).store(1, SeqCst);
        machine.kick();
        let error = machine.trouble().unwrap_err().to_string();
        assert!(error.contains("kicking vCPU 0"), "{error}");
        machine.stop();
        machine.kick();
        assert!(machine.trouble().is_ok());
    }
}
