//! The lab's side of [`tdxlab_protocol::mailbox`]: requests of vCPUs, stale translations, and messages.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use tdxlab_plan::{Side, VcpuId};
use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::frame::MAX_FRAME;
use tdxlab_protocol::layout::{MAILBOX_START, PRIVATE_WINDOW, WINDOW_BYTES};
use tdxlab_protocol::mailbox::*;
use tdxlab_protocol::message::VERSION;
use tdxlab_qemu::conversation::LineError;
use tdxlab_softkvm::Request;

use super::ram::Ram;

/// Looks at a vCPU before the lab lets others use the processor.
const LOOKS: u32 = 256;

/// The mailbox of a guest.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    ram: Arc<Ram>,
    vcpus: u16,
}

impl Mailbox {
    /// The mailbox of a guest with so many vCPUs.
    pub(super) fn new(ram: Arc<Ram>, vcpus: u16) -> Mailbox {
        Mailbox { ram, vcpus }
    }

    /// Checks that a guest has set up its mailbox, in this version of the layout.
    ///
    /// # Errors
    ///
    /// What is in its place.
    pub(super) fn check(ram: &Ram) -> Result<(), String> {
        let magic = ram.word64(MAILBOX_START + HEADER_MAGIC).load(SeqCst);
        if magic != MAGIC {
            return Err(format!("its mailbox starts with {magic:#018x}"));
        }
        let version = ram.word32(MAILBOX_START + HEADER_VERSION).load(SeqCst);
        if version != u32::from(VERSION) {
            return Err(format!(
                "its mailbox is of version {version}, not {VERSION}"
            ));
        }
        Ok(())
    }

    /// Request and registers of the vCPU that rang the doorbell.
    ///
    /// # Errors
    ///
    /// The request is invalid; as text, with its content.
    pub(super) fn request(&self, bell: u8) -> Result<(VcpuId, Request, [u64; 16]), String> {
        let vcpu = VcpuId(u16::from(bell));
        if vcpu.0 >= self.vcpus {
            return Err(format!("vCPU {bell} rang, and there are {}", self.vcpus));
        }
        let state = self.half(vcpu, SLOT_STATE).load(SeqCst);
        if state != STATE_REQUEST {
            return Err(format!("vCPU {bell} rang and asks nothing (state {state})"));
        }
        let rip = self.word(vcpu, SLOT_RIP).load(SeqCst);
        match self.half(vcpu, SLOT_KIND).load(SeqCst) {
            KIND_TDCALL => {
                let gprs = std::array::from_fn(|number| self.gpr(vcpu, number).load(Relaxed));
                Ok((vcpu, Request::Tdcall { rip }, gprs))
            }
            KIND_FAULT => {
                let gpa = self.word(vcpu, SLOT_FAULT_GPA).load(SeqCst);
                let info = self.word(vcpu, SLOT_FAULT_INFO).load(SeqCst);
                if gpa >= WINDOW_BYTES || info & !(FAULT_WRITE | FAULT_SHARED) != 0 {
                    return Err(format!(
                        "vCPU {bell} faulted at {gpa:#x} ({info:#x}), outside of every window"
                    ));
                }
                let fault = Request::Fault {
                    gpa: Gpa::new(gpa),
                    side: match info & FAULT_SHARED {
                        0 => Side::Private,
                        _ => Side::Shared,
                    },
                    write: info & FAULT_WRITE != 0,
                    rip,
                };
                Ok((vcpu, fault, [0; 16]))
            }
            kind => Err(format!("vCPU {bell} asks something of kind {kind}")),
        }
    }

    /// Answers a TDCALL.
    pub(super) fn answer_tdcall(&self, vcpu: VcpuId, gprs: &[u64; 16]) {
        for (number, value) in gprs.iter().enumerate() {
            self.gpr(vcpu, number).store(*value, Relaxed);
        }
        self.half(vcpu, SLOT_STATE).store(STATE_ANSWERED, SeqCst);
    }

    /// Answers a window fault.
    pub(super) fn answer_fault(&self, vcpu: VcpuId, answer: u32) {
        self.half(vcpu, SLOT_ANSWER).store(answer, SeqCst);
        self.half(vcpu, SLOT_STATE).store(STATE_ANSWERED, SeqCst);
    }

    /// Takes the frame out of the outbox.
    ///
    /// # Errors
    ///
    /// There is none, or it has a length that no frame has.
    pub(super) fn take_frame(&self) -> Result<Vec<u8>, String> {
        const START: u64 = MAILBOX_START + OUTBOX;
        let state = self.ram.word32(START + BOX_STATE);
        let found = state.load(SeqCst);
        if found != BOX_FULL {
            return Err(format!(
                "it rang for a reply, and there is none (state {found})"
            ));
        }
        let length = self.ram.word32(START + BOX_LENGTH).load(SeqCst);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(format!("a reply of {length} bytes is longer than any"));
        }
        let places = (START + BOX_FRAME..).step_by(8).take(length.div_ceil(8));
        let words = places.map(|place| self.ram.word64(place).load(Relaxed));
        let mut frame: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        frame.truncate(length);
        state.store(BOX_EMPTY, SeqCst);
        Ok(frame)
    }

    /// Puts a frame into the inbox.
    ///
    /// # Errors
    ///
    /// The guest has not taken the last one.
    pub(super) fn put_frame(&self, frame: &[u8]) -> Result<(), LineError> {
        const START: u64 = MAILBOX_START + INBOX;
        let state = self.ram.word32(START + BOX_STATE);
        if state.load(SeqCst) != BOX_EMPTY {
            return Err(LineError::Full);
        }
        for (place, bytes) in (START + BOX_FRAME..).step_by(8).zip(frame.chunks(8)) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let word = u64::from_le_bytes(word);
            self.ram.word64(place).store(word, Relaxed);
        }
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.ram.word32(START + BOX_LENGTH).store(length, SeqCst);
        state.store(BOX_FULL, SeqCst);
        Ok(())
    }

    /// Raises the epoch of the tables and waits until no vCPU uses an older translation.
    ///
    /// # Errors
    ///
    /// The vCPU that still does so after `patience`.
    pub(super) fn kick(&self, patience: Duration) -> Result<(), VcpuId> {
        let header = self.ram.word32(MAILBOX_START + HEADER_TLB_EPOCH);
        let epoch = header.fetch_add(1, SeqCst).wrapping_add(1);
        for vcpu in (0..self.vcpus).map(VcpuId) {
            let mut looks = 0u32;
            let mut began = None;
            while self.is_stale(vcpu, epoch) {
                looks += 1;
                if !looks.is_multiple_of(LOOKS) {
                    std::hint::spin_loop();
                } else if began.get_or_insert_with(Instant::now).elapsed() > patience {
                    return Err(vcpu);
                } else {
                    std::thread::yield_now();
                }
            }
        }
        Ok(())
    }

    /// Whether the vCPU may use translations from before `epoch`. The order of the looks matters:
    /// one that starts to run after the first look sees the new epoch.
    fn is_stale(&self, vcpu: VcpuId, epoch: u32) -> bool {
        self.half(vcpu, SLOT_RUNNING).load(SeqCst) != 0
            && self.half(vcpu, SLOT_STATE).load(SeqCst) != STATE_REQUEST
            && self.half(vcpu, SLOT_TLB_SEEN).load(SeqCst) != epoch
    }

    fn gpr(&self, vcpu: VcpuId, number: usize) -> &std::sync::atomic::AtomicU64 {
        self.word(vcpu, SLOT_GPRS + number as u64 * 8)
    }

    fn word(&self, vcpu: VcpuId, offset: u64) -> &std::sync::atomic::AtomicU64 {
        self.ram.word64(slot(vcpu) + offset)
    }

    fn half(&self, vcpu: VcpuId, offset: u64) -> &std::sync::atomic::AtomicU32 {
        self.ram.word32(slot(vcpu) + offset)
    }
}

const fn slot(vcpu: VcpuId) -> u64 {
    MAILBOX_START + SLOTS + vcpu.0 as u64 * SLOT_BYTES
}

/// Machine address of the top-level entry for `index` of one side.
pub(super) fn root_entry(window: Side, index: usize) -> u64 {
    use tdxlab_protocol::layout::{PML4, SHARED_WINDOW};
    let start = match window {
        Side::Private => PRIVATE_WINDOW,
        Side::Shared => SHARED_WINDOW,
    };
    PML4 + ((start >> 39) + index as u64) % 512 * 8
}

#[cfg(test)]
mod tests {
    use tdxlab_protocol::layout::{PML4, SHARED_WINDOW};

    use super::*;
    use crate::soft::ram::tests::ram;

    fn mailbox() -> Mailbox {
        Mailbox::new(Arc::new(ram(1 << 21)), 2)
    }

    /// Does the guest's part before the doorbell.
    fn ask(mailbox: &Mailbox, vcpu: VcpuId, kind: u32) {
        mailbox.half(vcpu, SLOT_KIND).store(kind, SeqCst);
        mailbox.half(vcpu, SLOT_STATE).store(STATE_REQUEST, SeqCst);
    }

    #[test]
    fn requests_are_read_and_answered() {
        let mailbox = mailbox();
        let vcpu = VcpuId(1);
        let rip = 0x10_0040;
        mailbox.gpr(vcpu, 5).store(77, SeqCst);
        mailbox.word(vcpu, SLOT_RIP).store(rip, SeqCst);
        ask(&mailbox, vcpu, KIND_TDCALL);
        let (who, request, mut gprs) = mailbox.request(1).unwrap();
        assert_eq!((who, request, gprs[5]), (vcpu, Request::Tdcall { rip }, 77));
        gprs[5] = 78;
        mailbox.answer_tdcall(vcpu, &gprs);
        assert_eq!(mailbox.gpr(vcpu, 5).load(SeqCst), 78);
        assert_eq!(mailbox.half(vcpu, SLOT_STATE).load(SeqCst), STATE_ANSWERED);

        mailbox
            .word(vcpu, SLOT_FAULT_GPA)
            .store(0x4000_1008, SeqCst);
        let info = FAULT_WRITE | FAULT_SHARED;
        mailbox.word(vcpu, SLOT_FAULT_INFO).store(info, SeqCst);
        ask(&mailbox, vcpu, KIND_FAULT);
        let fault = Request::Fault {
            gpa: Gpa::new(0x4000_1008),
            side: Side::Shared,
            write: true,
            rip,
        };
        assert_eq!(mailbox.request(1).unwrap().1, fault);
    }

    #[test]
    fn requests_that_cannot_be_are_refused() {
        let mailbox = mailbox();
        assert!(Mailbox::check(&mailbox.ram).is_err());
        for bell in [0, 2, 255] {
            assert!(mailbox.request(bell).is_err(), "{bell}");
        }
        ask(&mailbox, VcpuId(0), 9);
        assert!(mailbox.request(0).unwrap_err().contains("of kind 9"));
        ask(&mailbox, VcpuId(0), KIND_FAULT);
        mailbox
            .word(VcpuId(0), SLOT_FAULT_GPA)
            .store(u64::MAX, SeqCst);
        assert!(
            mailbox
                .request(0)
                .unwrap_err()
                .contains("outside of every window")
        );
    }

    #[test]
    fn frames_go_through_the_boxes() {
        let mailbox = mailbox();
        assert!(mailbox.take_frame().unwrap_err().contains("state 0"));
        for length in [0, 1, 7, 8, 9, MAX_FRAME] {
            let frame: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            mailbox.put_frame(&frame).unwrap();
            let again = mailbox.put_frame(&frame);
            assert!(matches!(again, Err(LineError::Full)), "{again:?}");
            // Both boxes are alike: what was put into one is what a guest puts into the other.
            for offset in (0..INBOX - OUTBOX).step_by(8) {
                let word = mailbox.ram.word64(MAILBOX_START + INBOX + offset);
                let copy = mailbox.ram.word64(MAILBOX_START + OUTBOX + offset);
                copy.store(word.load(SeqCst), SeqCst);
                word.store(0, SeqCst);
            }
            assert_eq!(mailbox.take_frame().unwrap(), frame);
            assert!(mailbox.take_frame().is_err(), "it is empty");
        }
        let header = mailbox.ram.word64(MAILBOX_START + OUTBOX);
        header.store((MAX_FRAME as u64 + 1) << 32 | u64::from(BOX_FULL), SeqCst);
        assert!(
            mailbox
                .take_frame()
                .unwrap_err()
                .contains("longer than any")
        );
    }

    #[test]
    fn a_kick_waits_for_those_that_run_with_old_translations() {
        let mailbox = mailbox();
        let short = Duration::from_millis(5);
        assert_eq!(mailbox.kick(short), Ok(()), "nobody runs");
        mailbox.half(VcpuId(1), SLOT_RUNNING).store(1, SeqCst);
        assert_eq!(mailbox.kick(short), Err(VcpuId(1)));
        ask(&mailbox, VcpuId(1), KIND_FAULT);
        assert_eq!(mailbox.kick(short), Ok(()), "it waits for the host");
        mailbox.answer_fault(VcpuId(1), ANSWER_RETRY);

        let other = mailbox.clone();
        // Read before the kick can raise it, else the guest would wait for the next one.
        let old = other
            .ram
            .word32(MAILBOX_START + HEADER_TLB_EPOCH)
            .load(SeqCst);
        let guest = std::thread::spawn(move || {
            let header = other.ram.word32(MAILBOX_START + HEADER_TLB_EPOCH);
            while header.load(SeqCst) == old {
                std::thread::yield_now();
            }
            let epoch = header.load(SeqCst);
            other.half(VcpuId(1), SLOT_TLB_SEEN).store(epoch, SeqCst);
        });
        assert_eq!(
            mailbox.kick(Duration::from_secs(60)),
            Ok(()),
            "it catches up"
        );
        guest.join().unwrap();
    }

    #[test]
    fn windows_have_top_level_entries_of_their_own() {
        let index = |address: u64| ((address >> 39) & 511) as usize;
        let first = root_entry(Side::Private, 0);
        assert_eq!(first, PML4 + 8 * index(PRIVATE_WINDOW) as u64);
        let last = ((WINDOW_BYTES - 1) >> 39) as usize;
        assert_eq!(
            root_entry(Side::Private, last) + 8,
            root_entry(Side::Shared, 0),
            "the shared window follows the private one"
        );
        assert_eq!(
            root_entry(Side::Shared, 0),
            PML4 + 8 * index(SHARED_WINDOW) as u64
        );
    }
}
