//! Exceptions: #UD and #PF answered by a soft host, #VE in a TD, all others fatal.
//!
//! Exceptions switch stacks, because the precompiled `core` uses the red zone. The processor has
//! seven such stacks: six exceptions that may interrupt another one's handler have one each, and
//! the rest, none of which interrupts another, share the seventh.

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use tdxlab_protocol::tdcall::{self, reg};

use crate::machine::{APIC_BASE, APIC_EOI, VECTOR_PIC, VECTOR_SPURIOUS, VECTOR_WAKE};
use crate::vcpu::{Stack, this};
use crate::{cpu, fatal, mailbox, td, window};

global_asm!(
    include_str!("trap.s"),
    exception = sym exception,
    fatal_exception = sym fatal::exception,
    halt = sym fatal::halt,
    apic_eoi = const APIC_BASE + APIC_EOI,
    options(att_syntax),
);

const INVALID_OPCODE: u64 = 6;
const PAGE_FAULT: u64 = 14;
const VIRTUALIZATION: u64 = 20;
/// Page fault error code: the access was a write.
const FAULT_WRITE: u64 = 1 << 1;

/// The frame that the entry code in `trap.s` leaves on the stack.
#[repr(C)]
pub(crate) struct Frame {
    /// General registers in the order of [`reg`].
    pub(crate) gprs: [u64; 16],
    vector: u64,
    error: u64,
    /// Address to return to.
    pub(crate) rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.vector {
            0 => "#DE",
            2 => "NMI",
            3 => "#BP",
            6 => "#UD",
            8 => "#DF",
            13 => "#GP",
            14 => "#PF",
            18 => "#MC",
            20 => "#VE",
            _ => "exception",
        };
        write!(f, "{name} ({}) at RIP {:#x}", self.vector, self.rip)?;
        write!(f, ", error code {:#x}, RSP {:#x}", self.error, self.rsp)?;
        if self.vector == PAGE_FAULT {
            write!(f, ", CR2 {:#x}", cpu::cr2())?;
        }
        Ok(())
    }
}

/// Handles #UD, #PF and #VE. On return the guest continues at the frame's RIP.
extern "sysv64" fn exception(frame: &mut Frame) {
    match frame.vector {
        INVALID_OPCODE if frame.rip == td::instruction() => {
            mailbox::tdcall(&mut frame.gprs, frame.rip);
            frame.rip += tdcall::INSTRUCTION_BYTES;
        }
        PAGE_FAULT => match window::fault_in_host_owned(cpu::cr2()) {
            Some((gpa, side)) => {
                let write = frame.error & FAULT_WRITE != 0;
                this().count(|counts| counts.faults += 1);
                match mailbox::fault(gpa, side, write, frame.rip) {
                    mailbox::Answer::Retry => {}
                    mailbox::Answer::Ve => virtualization(frame),
                    mailbox::Answer::Dead => fatal::halt(),
                }
            }
            None => fatal::raise(frame),
        },
        VIRTUALIZATION if td::is_td() => virtualization(frame),
        _ => fatal::raise(frame),
    }
}

/// #VE, delivered by the processor in a TD and by the soft host elsewhere: one that was raised by
/// an access to a window ends that access, and the code that made it decides what to do.
fn virtualization(frame: &mut Frame) {
    let info = td::ve_info();
    this().count(|counts| counts.ve += 1);
    let Some(after) = window::recovery(frame.rip) else {
        panic!(
            "#VE outside of window accesses: exit reason {}, GPA {}, RIP {:#x}, RAX {:#x}",
            info.reason,
            info.gpa,
            frame.rip,
            frame.gprs[reg::RAX],
        );
    };
    this().ve.set(Some(info));
    frame.rip = after;
}

/// An entry of the interrupt descriptor table, as two words.
struct Gate([AtomicU64; 2]);

static IDT: [Gate; 256] = [const { Gate([AtomicU64::new(0), AtomicU64::new(0)]) }; 256];

impl Gate {
    /// Makes this an interrupt gate.
    fn set(&self, handler: u64, stack: Stack) {
        const CODE: u64 = 0x18;
        const PRESENT_INTERRUPT: u64 = 0x8e;
        let low = (handler & 0xffff)
            | CODE << 16
            | (stack as u64) << 32
            | PRESENT_INTERRUPT << 40
            | (handler >> 16 & 0xffff) << 48;
        self.0[0].store(low, Ordering::Relaxed);
        self.0[1].store(handler >> 32, Ordering::Relaxed);
    }
}

/// Fills in the table. Called once, before any vCPU loads it.
pub(crate) fn build_table() {
    unsafe extern "C" {
        safe static exception_entries: [u64; 32];
        safe fn interrupt_pic();
        safe fn interrupt_apic();
        safe fn interrupt_spurious();
    }
    for (vector, &entry) in exception_entries.iter().enumerate() {
        let stack = match vector {
            2 => Stack::Nmi,
            6 => Stack::InvalidOpcode,
            8 => Stack::DoubleFault,
            13 => Stack::GeneralProtection,
            14 => Stack::PageFault,
            20 => Stack::Virtualization,
            _ => Stack::Others,
        };
        IDT[vector].set(entry, stack);
    }
    let handlers = [
        (
            VECTOR_PIC + crate::machine::SERIAL_IRQ,
            interrupt_pic as *const (),
        ),
        (VECTOR_PIC + 7, interrupt_spurious as *const ()),
        (VECTOR_WAKE, interrupt_apic as *const ()),
        (VECTOR_SPURIOUS, interrupt_spurious as *const ()),
    ];
    for (vector, handler) in handlers {
        IDT[usize::from(vector)].set(handler.addr() as u64, Stack::Others);
    }
}

/// Loads the table on this vCPU.
pub(crate) fn load_table() {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer(size_of_val(&IDT) as u16 - 1, (&raw const IDT).addr() as u64);
    // SAFETY: the table stays for good, and every gate in it leads to a handler.
    unsafe {
        asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags));
    }
}
