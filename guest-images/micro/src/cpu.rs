//! Single instructions.

use core::arch::asm;

/// Writes a byte to a port.
pub(crate) fn outb(port: u16, value: u8) {
    // SAFETY: port I/O does not touch memory; the guest only writes to devices it owns.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

/// Writes two bytes to a port.
pub(crate) fn outw(port: u16, value: u16) {
    // SAFETY: as for `outb`.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags));
    }
}

/// Reads a byte from a port.
pub(crate) fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as for `outb`.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes a model-specific register.
///
/// # Safety
///
/// The write must leave memory as the compiler knows it.
pub(crate) unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}

/// The faulting address of a page fault.
pub(crate) fn cr2() -> u64 {
    let address: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Drops all translations of this vCPU.
pub(crate) fn flush_tlb() {
    // SAFETY: writing CR3 back changes no mapping.
    unsafe {
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// The time stamp counter.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: reading the counter has no effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Enables interrupts and waits for one, with no gap in between; interrupts are off afterwards.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: every vector has a handler with its own stack.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops this vCPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: stopping accesses no memory.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
