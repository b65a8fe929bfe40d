//! Memory layout: the guest's own memory (machine addresses) and its address space.
//!
//! Machine memory is what QEMU gives the guest as RAM. In a TD it is the GPA space itself; on the
//! `soft` host the tested GPA space is separate, emulated by page tables over machine memory.
//!
//! ```text
//! machine memory (soft)              virtual addresses
//! 0x0010_0000  runtime: code copy,   0 .. 4 GiB   identity map of machine memory
//!              bss, stacks, tables   W + gpa      private window
//! 0x0030_0000  mailbox               S + gpa      shared window
//! 0x0040_0000  host tables and pool
//! ```

/// Size of the guest image in bytes. QEMU wants a multiple of 64 KiB.
pub const IMAGE_BYTES: u64 = 64 * 1024;

/// Most vCPUs a guest can have.
pub const MAX_VCPUS: u32 = 64;

/// First machine address of the guest's runtime memory (copied code, data, stacks, page tables).
/// At or above 1 MiB, because below it a TD has no plain RAM.
pub const RUNTIME_START: u64 = 0x0010_0000;

/// Copy of the image from which the guest runs. The page tables of its own memory are below.
pub const IMAGE_COPY: u64 = RUNTIME_START + 0x1_0000;

/// End of the guest's runtime memory.
pub const RUNTIME_END: u64 = 0x0030_0000;

/// Machine address of the mailbox, see [`crate::mailbox`].
pub const MAILBOX_START: u64 = 0x0030_0000;

/// End of the mailbox area.
pub const MAILBOX_END: u64 = 0x0031_0000;

/// Where QEMU puts the TD_HOB (a TDVF section of two pages).
pub const TD_HOB_START: u64 = 0x0031_0000;

/// End of the TD_HOB.
pub const TD_HOB_END: u64 = 0x0031_2000;

/// First machine address the soft host may use for its own page tables and for the pool that
/// backs private and shared pages. 2M aligned.
pub const HOST_POOL_START: u64 = 0x0040_0000;

/// Machine address of the guest's top-level page table. The soft host writes the entries of the
/// two windows into it; the guest writes all others.
pub const PML4: u64 = RUNTIME_START;

/// Virtual address of GPA 0 in the private window (`W`).
pub const PRIVATE_WINDOW: u64 = 0x0000_2000_0000_0000;

/// Virtual address of GPA 0 in the shared window (`S`).
pub const SHARED_WINDOW: u64 = 0x0000_4000_0000_0000;

/// Size of each window, 32 TiB: GPAs from 0 up to this can be tested. 16 TiB of test memory fit
/// above any base the lab uses.
pub const WINDOW_BYTES: u64 = 0x0000_2000_0000_0000;

/// I/O port of the serial line that carries the protocol (COM1).
pub const SERIAL_PORT: u16 = 0x3f8;

/// I/O port of the serial line for a TD's text output (COM2).
pub const CONSOLE_PORT: u16 = 0x2f8;

/// I/O port of the doorbell (`isa-debugcon`). The byte written is the vCPU's index.
pub const DOORBELL_PORT: u16 = 0xe9;

/// I/O port of `isa-debug-exit`, used by the benches and when the host asks for power-off.
pub const EXIT_PORT: u16 = 0xf4;
