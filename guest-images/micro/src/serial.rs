//! The serial line to the lab: a 16550 with its FIFOs on.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

use tdxlab_protocol::frame::{self, FrameBuffer};
use tdxlab_protocol::layout::SERIAL_PORT;
use tdxlab_protocol::message::Reply;

use crate::{machine, port, td};

const DATA: u16 = SERIAL_PORT;
const INTERRUPT_ENABLE: u16 = SERIAL_PORT + 1;
const FIFO_CONTROL: u16 = SERIAL_PORT + 2;
const LINE_CONTROL: u16 = SERIAL_PORT + 3;
const MODEM_CONTROL: u16 = SERIAL_PORT + 4;
const LINE_STATUS: u16 = SERIAL_PORT + 5;

/// Line status: a byte has come in.
const DATA_READY: u8 = 1 << 0;
/// Line status: the transmit FIFO is empty.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// Bytes that fit in the transmit FIFO.
const FIFO_BYTES: usize = 16;

/// How often a panicking vCPU looks whether another one has left the line, before it interrupts.
const PATIENCE: u32 = 10_000_000;

/// Held while a frame is on its way, so that the frames of several vCPUs do not mix.
static BUSY: AtomicBool = AtomicBool::new(false);
static FRAME: Frame = Frame(UnsafeCell::new(frame::EMPTY_FRAME));

struct Frame(UnsafeCell<FrameBuffer>);

// SAFETY: only used by who holds `BUSY`, or by a panicking vCPU, after which nothing else counts.
unsafe impl Sync for Frame {}

/// Sets the device up: 115200 8N1, FIFOs on and empty, an interrupt for each byte that comes in.
pub(crate) fn set_up() {
    const DIVISOR_LATCH: u8 = 0x80;
    const EIGHT_BITS: u8 = 0x03;
    port::write(LINE_CONTROL, DIVISOR_LATCH | EIGHT_BITS);
    port::write(DATA, 1);
    port::write(INTERRUPT_ENABLE, 0);
    port::write(LINE_CONTROL, EIGHT_BITS);
    port::write(FIFO_CONTROL, 0x07);
    port::write(MODEM_CONTROL, 0x0b);
    port::write(INTERRUPT_ENABLE, u8::from(!td::is_td()));
}

/// Takes the next byte from the lab. Waits for it asleep; in a TD, which gets no interrupts, awake.
pub(crate) fn receive() -> u8 {
    while port::read(LINE_STATUS) & DATA_READY == 0 {
        if td::is_td() {
            spin_loop();
        } else {
            machine::sleep();
        }
    }
    port::read(DATA)
}

/// Sends a reply.
pub(crate) fn send(reply: &Reply) {
    while BUSY.swap(true, Ordering::Acquire) {
        spin_loop();
    }
    // SAFETY: `BUSY` is held.
    unsafe { transmit(reply) };
    BUSY.store(false, Ordering::Release);
}

/// Sends the last reply of this guest, even if a vCPU that will never go on holds the line.
pub(crate) fn send_at_any_cost(reply: &Reply) {
    for _ in 0..PATIENCE {
        if !BUSY.swap(true, Ordering::Acquire) {
            break;
        }
        spin_loop();
    }
    // SAFETY: this vCPU is panicking.
    unsafe { transmit(reply) };
}

/// # Safety
///
/// `BUSY` is held, or this is the last reply.
unsafe fn transmit(reply: &Reply) {
    // SAFETY: the caller's promise.
    let buffer = unsafe { &mut *FRAME.0.get() };
    // Every reply fits: the tests of the protocol crate send the largest one.
    let Ok(bytes) = frame::encode(reply, buffer) else {
        return;
    };
    for chunk in bytes.chunks(FIFO_BYTES) {
        while port::read(LINE_STATUS) & TRANSMIT_EMPTY == 0 {
            spin_loop();
        }
        for &byte in chunk {
            port::write(DATA, byte);
        }
    }
}
