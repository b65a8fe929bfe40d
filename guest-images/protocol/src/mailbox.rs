//! How TDCALLs and window faults reach the soft host.
//!
//! Where there is no TDX, TDCALL raises #UD. The handler copies the registers to this vCPU's slot,
//! sets [`SLOT_STATE`] to [`STATE_REQUEST`], writes its index to the doorbell port and waits for
//! [`STATE_ANSWERED`]. A page fault in a window goes the same way. All fields are little-endian and
//! naturally aligned; `state`, `running`, `tlb_seen` and `tlb_epoch` are accessed atomically.
//!
//! # Stale translations
//!
//! The soft host edits the tables under the windows while guests run. What TDH.MEM.TRACK and a kick
//! do on a TDX host is done here with an epoch: the host raises [`HEADER_TLB_EPOCH`] and then waits
//! until every vCPU is outside the windows (`running` = 0), waits for the host (`state` =
//! [`STATE_REQUEST`]), or has caught up (`tlb_seen` = epoch). A guest flushes its TLB and copies the
//! epoch whenever they differ: before each page it touches, after raising `running`, and after each
//! answered request. `running` is raised (sequentially consistent) before the epoch is compared.
//!
//! # Messages
//!
//! On an emulated serial port every byte costs an exit, and wakes QEMU or the lab. Frames between a
//! soft host and its guest therefore go through a box each: the sender waits for [`BOX_EMPTY`], writes
//! one frame and sets [`BOX_FULL`]; the receiver copies it and sets [`BOX_EMPTY`]. For [`INBOX`] the lab
//! sends a delimiter through the serial port, an empty frame that wakes the guest; for [`OUTBOX`] the
//! guest writes [`OUTBOX_BELL`] to the doorbell port. The guest uses its outbox once its windows are the
//! host's. Its hello and its panic go through the serial port.

use crate::frame::MAX_FRAME;
use crate::layout::{MAILBOX_END, MAILBOX_START, MAX_VCPUS};

/// Value of [`HEADER_MAGIC`]: "TDXLABMB".
pub const MAGIC: u64 = u64::from_le_bytes(*b"TDXLABMB");

/// Header, offset from [`crate::layout::MAILBOX_START`]: u64 magic, written by the guest.
pub const HEADER_MAGIC: u64 = 0x00;
/// Header: u32 protocol version, written by the guest.
pub const HEADER_VERSION: u64 = 0x08;
/// Header: u32 epoch of the tables under the windows, written by the host.
pub const HEADER_TLB_EPOCH: u64 = 0x0c;

/// Offset of the first slot from the start of the mailbox.
pub const SLOTS: u64 = 0x1000;
/// Distance between slots.
pub const SLOT_BYTES: u64 = 0x100;

/// Slot: u32 state.
pub const SLOT_STATE: u64 = 0x00;
/// Slot: u32 kind of the request.
pub const SLOT_KIND: u64 = 0x04;
/// Slot: u32, 1 while the vCPU may use translations of a window.
pub const SLOT_RUNNING: u64 = 0x08;
/// Slot: u32, the epoch for which this vCPU last flushed.
pub const SLOT_TLB_SEEN: u64 = 0x0c;
/// Slot: 16 x u64 general registers in the order of [`crate::tdcall::reg`].
pub const SLOT_GPRS: u64 = 0x10;
/// Slot: u64 faulting GPA (window faults).
pub const SLOT_FAULT_GPA: u64 = 0x90;
/// Slot: u64 bits [`FAULT_WRITE`], [`FAULT_SHARED`].
pub const SLOT_FAULT_INFO: u64 = 0x98;
/// Slot: u32 answer to a window fault.
pub const SLOT_ANSWER: u64 = 0xa0;
/// Slot: u64 address of the instruction that asks. The zero-step filter counts by it.
pub const SLOT_RIP: u64 = 0xa8;

/// State: no request.
pub const STATE_IDLE: u32 = 0;
/// State: the guest asks, the host has not answered.
pub const STATE_REQUEST: u32 = 1;
/// State: the host has answered.
pub const STATE_ANSWERED: u32 = 2;

/// Kind: TDCALL with the registers in the slot.
pub const KIND_TDCALL: u32 = 1;
/// Kind: page fault in a window.
pub const KIND_FAULT: u32 = 2;

/// Fault information: the access was a write.
pub const FAULT_WRITE: u64 = 1 << 0;
/// Fault information: the shared window was used.
pub const FAULT_SHARED: u64 = 1 << 1;

/// Answer: the access can be tried again.
pub const ANSWER_RETRY: u32 = 0;
/// Answer: deliver #VE; TDG.VP.VEINFO.GET has its information.
pub const ANSWER_VE: u32 = 1;
/// Answer: the TD is dead; the vCPU must stop for good. The host ends QEMU.
pub const ANSWER_DEAD: u32 = 2;

/// Offset of the box for frames of the guest, from the start of the mailbox.
pub const OUTBOX: u64 = 0x6000;
/// Offset of the box for frames of the lab.
pub const INBOX: u64 = 0x7000;

/// Box: u32 state.
pub const BOX_STATE: u64 = 0x00;
/// Box: u32 bytes of the frame, both delimiters included.
pub const BOX_LENGTH: u64 = 0x04;
/// Box: the frame.
pub const BOX_FRAME: u64 = 0x10;

/// State: the sender may write a frame.
pub const BOX_EMPTY: u32 = 0;
/// State: there is a frame for the receiver.
pub const BOX_FULL: u32 = 1;

/// Written to the doorbell port where vCPUs write their index.
pub const OUTBOX_BELL: u8 = 0xff;

const _: () = {
    let box_bytes = BOX_FRAME + MAX_FRAME as u64;
    assert!(SLOTS + SLOT_BYTES * MAX_VCPUS as u64 <= OUTBOX);
    assert!(OUTBOX + box_bytes <= INBOX);
    assert!(MAILBOX_START + INBOX + box_bytes <= MAILBOX_END);
    assert!(MAX_VCPUS <= OUTBOX_BELL as u32);
};
