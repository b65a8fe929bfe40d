//! The guest's side of [`tdxlab_protocol::mailbox`]: requests to a soft host, flushing stale
//! translations, and messages.

use core::hint::spin_loop;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::frame::MAX_FRAME;
use tdxlab_protocol::layout::{DOORBELL_PORT, MAILBOX_START};
use tdxlab_protocol::mailbox::*;
use tdxlab_protocol::message::{Side, VERSION};
use tdxlab_protocol::tdcall::reg;

use crate::vcpu::this;
use crate::{cpu, machine, td};

/// Looks at the mailbox between two PAUSEs, each of which costs an emulator far more than a look.
const LOOKS: u32 = 64;
/// PAUSEs before a vCPU goes to sleep. Most answers are there sooner; one that takes its turn after
/// those of other vCPUs comes when these have been let run.
const PAUSES: u32 = 512;

/// A word of the mailbox.
fn word(offset: u64) -> &'static AtomicU32 {
    // SAFETY: the mailbox is identity-mapped memory outside of everything the compiler knows,
    // and every offset is aligned.
    unsafe { AtomicU32::from_ptr((MAILBOX_START + offset) as *mut u32) }
}

/// A double word of the mailbox.
fn double(offset: u64) -> &'static AtomicU64 {
    // SAFETY: as for `word`.
    unsafe { AtomicU64::from_ptr((MAILBOX_START + offset) as *mut u64) }
}

/// Start of this vCPU's slot.
fn slot() -> u64 {
    SLOTS + u64::from(this().id().0) * SLOT_BYTES
}

/// Announces the guest.
pub(crate) fn open() {
    word(HEADER_VERSION).store(u32::from(VERSION), SeqCst);
    double(HEADER_MAGIC).store(MAGIC, SeqCst);
}

/// Has the soft host do the TDCALL at `rip` on these registers.
pub(crate) fn tdcall(gprs: &mut [u64; 16], rip: u64) {
    let place = |number| double(slot() + SLOT_GPRS + number as u64 * 8);
    for (number, value) in gprs.iter().enumerate() {
        place(number).store(*value, Relaxed);
    }
    ask(KIND_TDCALL, rip);
    for (number, value) in gprs.iter_mut().enumerate() {
        // TDCALL never changes these two, and the guest could not continue without them.
        if !matches!(number, reg::RSP | reg::RBP) {
            *value = place(number).load(Relaxed);
        }
    }
}

/// Answer of the soft host to a window fault.
pub(crate) enum Answer {
    /// Try again.
    Retry,
    /// #VE.
    Ve,
    /// The TD is dead.
    Dead,
}

/// Reports a window fault of the instruction at `rip` to the soft host.
pub(crate) fn fault(gpa: Gpa, side: Side, write: bool, rip: u64) -> Answer {
    let shared = match side {
        Side::Private => 0,
        Side::Shared => FAULT_SHARED,
    };
    let write = if write { FAULT_WRITE } else { 0 };
    double(slot() + SLOT_FAULT_GPA).store(gpa.as_u64(), SeqCst);
    double(slot() + SLOT_FAULT_INFO).store(shared | write, SeqCst);
    ask(KIND_FAULT, rip);
    match word(slot() + SLOT_ANSWER).load(SeqCst) {
        ANSWER_RETRY => Answer::Retry,
        ANSWER_VE => Answer::Ve,
        ANSWER_DEAD => Answer::Dead,
        other => panic!("the soft host answered a fault at {gpa} with {other}"),
    }
}

/// Hands the slot to the host and waits for the answer.
fn ask(kind: u32, rip: u64) {
    let slot = slot();
    let state = word(slot + SLOT_STATE);
    word(slot + SLOT_KIND).store(kind, SeqCst);
    double(slot + SLOT_RIP).store(rip, SeqCst);
    state.store(STATE_REQUEST, SeqCst);
    cpu::outb(DOORBELL_PORT, this().id().0 as u8);
    wait_for(state, STATE_ANSWERED);
    state.store(STATE_IDLE, SeqCst);
    catch_up();
}

/// Puts the frame of a reply into the outbox. One vCPU at a time.
pub(crate) fn post(frame: &[u8]) {
    let state = word(OUTBOX + BOX_STATE);
    wait_for(state, BOX_EMPTY);
    let to = (MAILBOX_START + OUTBOX + BOX_FRAME) as *mut u8;
    // SAFETY: there is room for every frame, and the host does not read it before it is told that there
    // is one.
    unsafe { to.copy_from_nonoverlapping(frame.as_ptr(), frame.len()) };
    word(OUTBOX + BOX_LENGTH).store(frame.len() as u32, SeqCst);
    state.store(BOX_FULL, SeqCst);
    cpu::outb(DOORBELL_PORT, OUTBOX_BELL);
}

/// The next byte of the frame in the inbox, if there is one. For the boot processor alone.
pub(crate) fn next_byte() -> Option<u8> {
    /// Bytes of the frame that were taken.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let state = word(INBOX + BOX_STATE);
    if state.load(SeqCst) != BOX_FULL {
        return None;
    }
    let taken = TAKEN.load(Relaxed);
    let place = MAILBOX_START + INBOX + BOX_FRAME + u64::from(taken);
    // SAFETY: the host does not write there before it is told that the inbox is empty, and no frame is
    // longer than the inbox.
    let byte = unsafe { (place as *const u8).read_volatile() };
    if taken + 1 < word(INBOX + BOX_LENGTH).load(SeqCst).min(MAX_FRAME as u32) {
        TAKEN.store(taken + 1, Relaxed);
    } else {
        TAKEN.store(0, Relaxed);
        state.store(BOX_EMPTY, SeqCst);
    }
    Some(byte)
}

/// Waits until the host has set a state.
fn wait_for(state: &AtomicU32, value: u32) {
    let mut pauses = 0_u32;
    loop {
        for _ in 0..LOOKS {
            if state.load(SeqCst) == value {
                return;
            }
        }
        // A TD has no interrupts to wake it.
        if td::is_td() || pauses < PAUSES {
            pauses = pauses.saturating_add(1);
            spin_loop();
        } else {
            machine::doze();
        }
    }
}

/// Drops translations that are older than the host's epoch.
fn catch_up() {
    let seen = word(slot() + SLOT_TLB_SEEN);
    let epoch = word(HEADER_TLB_EPOCH).load(SeqCst);
    if seen.load(SeqCst) != epoch {
        cpu::flush_tlb();
        seen.store(epoch, SeqCst);
    }
}

/// Runs `access`, which may use translations of the windows.
pub(crate) fn with_translations<R>(access: impl FnOnce() -> R) -> R {
    let running = word(slot() + SLOT_RUNNING);
    running.store(1, SeqCst);
    catch_up();
    let result = access();
    running.store(0, SeqCst);
    result
}
