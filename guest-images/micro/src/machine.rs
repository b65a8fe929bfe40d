//! The PC of a guest that is not a TD: interrupt controllers and the number of vCPUs.

use tdxlab_protocol::message::VcpuId;

use crate::cpu::{self, inb, outb, outw};

/// First vector of the 8259 PIC.
pub(crate) const VECTOR_PIC: u8 = 0x20;
/// Vector of the interrupt with which one vCPU wakes another.
pub(crate) const VECTOR_WAKE: u8 = 0x40;
/// Vector of spurious APIC interrupts.
pub(crate) const VECTOR_SPURIOUS: u8 = 0xff;
/// Interrupt line of COM1.
pub(crate) const SERIAL_IRQ: u8 = 4;

/// Where the local APIC's registers are.
pub(crate) const APIC_BASE: u64 = 0xfee0_0000;
/// End of interrupt.
pub(crate) const APIC_EOI: u64 = 0xb0;
const APIC_SPURIOUS: u64 = 0xf0;
const APIC_COMMAND: u64 = 0x300;
const APIC_COMMAND_TARGET: u64 = 0x310;
const APIC_TIMER: u64 = 0x320;
const APIC_LINT0: u64 = 0x350;
const APIC_TIMER_COUNT: u64 = 0x380;
const APIC_TIMER_DIVIDE: u64 = 0x3e0;

/// Longest a sleeping vCPU does not look whether there is something to do: 20 ms at the 1 GHz that
/// the timer has in QEMU and KVM alike.
const NAP: u32 = 20_000_000;
/// The same where the lab cannot interrupt the sleep: 250 us.
const SHORT_NAP: u32 = 100_000;

const COMMAND_BUSY: u32 = 1 << 12;
const COMMAND_ASSERT: u32 = 1 << 14;
const ALL_OTHERS: u32 = 0b11 << 18;
const INIT: u32 = 0b101 << 8;
const STARTUP: u32 = 0b110 << 8;

/// SIPI vector: the page at 0xff000, the alias of the image's boot page.
const BOOT_PAGE: u32 = 0xff;

/// Number of vCPUs, from QEMU's firmware configuration device.
pub(crate) fn vcpus() -> u16 {
    const SELECTOR: u16 = 0x510;
    const DATA: u16 = 0x511;
    const SIGNATURE: u16 = 0x00;
    const NUMBER_OF_CPUS: u16 = 0x05;
    outw(SELECTOR, SIGNATURE);
    let signature: [u8; 4] = core::array::from_fn(|_| inb(DATA));
    assert!(
        &signature == b"QEMU",
        "no firmware configuration device: it says {signature:02x?}"
    );
    outw(SELECTOR, NUMBER_OF_CPUS);
    u16::from_le_bytes([inb(DATA), inb(DATA)])
}

/// Enables the interrupt of the serial line only. Called on the boot processor.
pub(crate) fn set_up_pic() {
    const FIRST_COMMAND: u16 = 0x20;
    const FIRST_DATA: u16 = 0x21;
    const SECOND_COMMAND: u16 = 0xa0;
    const SECOND_DATA: u16 = 0xa1;
    for (command, data, vector, cascade) in [
        (FIRST_COMMAND, FIRST_DATA, VECTOR_PIC, 1 << 2),
        (SECOND_COMMAND, SECOND_DATA, VECTOR_PIC + 8, 2),
    ] {
        outb(command, 0x11);
        outb(data, vector);
        outb(data, cascade);
        outb(data, 0x01);
    }
    outb(FIRST_DATA, !(1 << SERIAL_IRQ));
    outb(SECOND_DATA, 0xff);
    const EXTERNAL: u32 = 0b111 << 8;
    write(APIC_LINT0, EXTERNAL);
}

/// Lets this vCPU's local APIC take interrupts, its own timer's among them.
pub(crate) fn set_up_apic() {
    const ENABLE: u32 = 1 << 8;
    const PERIODIC: u32 = 1 << 17;
    const DIVIDE_BY_1: u32 = 0b1011;
    write(APIC_SPURIOUS, ENABLE | u32::from(VECTOR_SPURIOUS));
    write(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    write(APIC_TIMER, PERIODIC | u32::from(VECTOR_WAKE));
}

/// Waits asleep for an interrupt, or for a moment: where KVM runs on an SVM that is itself emulated,
/// an interrupt is now and then acknowledged and never delivered.
pub(crate) fn sleep() {
    sleep_for(NAP);
}

/// Waits asleep for a short moment, or for an interrupt.
pub(crate) fn doze() {
    sleep_for(SHORT_NAP);
}

fn sleep_for(ticks: u32) {
    write(APIC_TIMER_COUNT, ticks);
    cpu::wait_for_interrupt();
    write(APIC_TIMER_COUNT, 0);
}

/// Has all other vCPUs start at the boot page.
pub(crate) fn start_others() {
    command(INIT | COMMAND_ASSERT | ALL_OTHERS);
    command(STARTUP | COMMAND_ASSERT | ALL_OTHERS | BOOT_PAGE);
}

/// Wakes a vCPU from HLT.
pub(crate) fn wake(vcpu: VcpuId) {
    write(APIC_COMMAND_TARGET, u32::from(vcpu.0) << 24);
    command(COMMAND_ASSERT | u32::from(VECTOR_WAKE));
}

fn command(value: u32) {
    write(APIC_COMMAND, value);
    // SAFETY: as for `write`; reading the register has no effect.
    while unsafe { ((APIC_BASE + APIC_COMMAND) as *const u32).read_volatile() } & COMMAND_BUSY != 0
    {
        core::hint::spin_loop();
    }
}

fn write(register: u64, value: u32) {
    // SAFETY: the APIC's registers are identity-mapped device memory.
    unsafe { ((APIC_BASE + register) as *mut u32).write_volatile(value) };
}
