//! Serial lines: 16550s with their FIFOs on. The first one carries the conversation with the lab.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

use tdxlab_protocol::frame::{self, FrameBuffer};
use tdxlab_protocol::layout::SERIAL_PORT;
use tdxlab_protocol::message::Reply;

use crate::{machine, mailbox, port, td, window};

/// Line status: a byte has come in.
const DATA_READY: u8 = 1 << 0;
/// Line status: the transmit FIFO is empty.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// Bytes that fit in the transmit FIFO.
const FIFO_BYTES: usize = 16;

/// Looks for a byte before the vCPU goes to sleep: within a frame the next one is near.
const LOOKS: u32 = 64;

/// Polls of a panicking vCPU for the end of another one's output, before it interrupts that.
const PATIENCE: u32 = 10_000_000;

/// The line that carries the protocol.
const PROTOCOL: Uart = Uart::at(SERIAL_PORT);

/// Held while a frame is on its way, so that the frames of several vCPUs do not mix.
static BUSY: AtomicBool = AtomicBool::new(false);
static FRAME: Frame = Frame(UnsafeCell::new(frame::EMPTY_FRAME));

struct Frame(UnsafeCell<FrameBuffer>);

// SAFETY: only used by the holder of `BUSY`, or by a panicking vCPU, after which no other matters.
unsafe impl Sync for Frame {}

/// A 16550.
#[derive(Clone, Copy)]
pub(crate) struct Uart {
    data: u16,
    interrupt_enable: u16,
    fifo_control: u16,
    line_control: u16,
    modem_control: u16,
    line_status: u16,
}

impl Uart {
    /// The one whose registers begin at this port.
    pub(crate) const fn at(first: u16) -> Uart {
        Uart {
            data: first,
            interrupt_enable: first + 1,
            fifo_control: first + 2,
            line_control: first + 3,
            modem_control: first + 4,
            line_status: first + 5,
        }
    }

    /// Sets the device up: 115200 8N1, FIFOs on and empty; with `interrupts`, one for 14 bytes that
    /// have come in, or for fewer when no more have come for a while.
    pub(crate) fn set_up(self, interrupts: bool) {
        const DIVISOR_LATCH: u8 = 0x80;
        const EIGHT_BITS: u8 = 0x03;
        const FIFOS_ON_AND_EMPTY: u8 = 0x07;
        // QEMU hands over as many bytes at a time as the guest waits for.
        const INTERRUPT_AT_14: u8 = 0xc0;
        port::write(self.line_control, DIVISOR_LATCH | EIGHT_BITS);
        port::write(self.data, 1);
        port::write(self.interrupt_enable, 0);
        port::write(self.line_control, EIGHT_BITS);
        port::write(self.fifo_control, FIFOS_ON_AND_EMPTY | INTERRUPT_AT_14);
        port::write(self.modem_control, 0x0b);
        port::write(self.interrupt_enable, u8::from(interrupts));
    }

    /// Sends bytes.
    pub(crate) fn write(self, bytes: &[u8]) {
        for chunk in bytes.chunks(FIFO_BYTES) {
            while port::read(self.line_status) & TRANSMIT_EMPTY == 0 {
                spin_loop();
            }
            for &byte in chunk {
                port::write(self.data, byte);
            }
        }
    }
}

/// Sets the first line up.
pub(crate) fn set_up() {
    PROTOCOL.set_up(!td::is_td());
}

/// Takes the next byte from the lab: out of the mailbox of a soft host, or from the line. Waits for it
/// asleep; in a TD, which gets no interrupts, awake.
pub(crate) fn receive() -> u8 {
    let mut looks = 0_u32;
    loop {
        if !td::is_td()
            && let Some(byte) = mailbox::next_byte()
        {
            return byte;
        }
        if port::read(PROTOCOL.line_status) & DATA_READY != 0 {
            return port::read(PROTOCOL.data);
        }
        looks = looks.saturating_add(1);
        if td::is_td() || looks < LOOKS {
            spin_loop();
        } else {
            machine::sleep();
        }
    }
}

/// Sends a reply: over the line, or where there is a soft host through the mailbox.
pub(crate) fn send(reply: &Reply) {
    while BUSY.swap(true, Ordering::Acquire) {
        spin_loop();
    }
    let way = match window::host_owned() {
        true => mailbox::post,
        false => write,
    };
    // SAFETY: `BUSY` is held.
    unsafe { transmit(reply, way) };
    BUSY.store(false, Ordering::Release);
}

/// Sends the last reply of this guest over the line, even if a stopped vCPU holds it.
pub(crate) fn send_at_any_cost(reply: &Reply) {
    for _ in 0..PATIENCE {
        if !BUSY.swap(true, Ordering::Acquire) {
            break;
        }
        spin_loop();
    }
    // SAFETY: this vCPU is panicking.
    unsafe { transmit(reply, write) };
}

/// # Safety
///
/// `BUSY` is held, or this is the last reply.
unsafe fn transmit(reply: &Reply, way: impl FnOnce(&[u8])) {
    // SAFETY: the caller's promise.
    let buffer = unsafe { &mut *FRAME.0.get() };
    // Every reply fits: the tests of the protocol crate send the largest one.
    if let Ok(bytes) = frame::encode(reply, buffer) {
        way(bytes);
    }
}

fn write(bytes: &[u8]) {
    PROTOCOL.write(bytes);
}
