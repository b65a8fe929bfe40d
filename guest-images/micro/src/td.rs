//! TDCALL: always the real instruction, in one place.
//!
//! Without TDX it raises #UD, and the handler forwards it to a host.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::Side;
use tdxlab_protocol::tdcall::{ATTR_RD_PENDING, leaf, reg, status, vmcall};

use crate::vcpu::this;

global_asm!(include_str!("td.s"), options(att_syntax));

unsafe extern "sysv64" {
    /// Executes TDCALL with these registers; in `td.s`.
    fn tdcall_with_registers(registers: &mut Registers);
    /// The instruction itself.
    safe static tdcall_instruction: u8;
}

/// General registers in the order of [`reg`].
type Registers = [u64; 16];

/// Registers R10 to R15: what I/O, HLT and MapGPA share with the VMM.
const MASK_R10_TO_R15: u64 = 0xfc00;

static IS_TD: AtomicBool = AtomicBool::new(false);
/// The shared bit of a GPA.
static SHARED_BIT: AtomicU64 = AtomicU64::new(0);

/// Whether the guest was started as a TD: in protected mode, with the GPA width in RBX. CPUID would
/// tell, too, but the reset code relies on the start already.
pub(crate) fn is_td() -> bool {
    IS_TD.load(Ordering::Relaxed)
}

/// Notes that the guest was started as a TD.
pub(crate) fn set_is_td() {
    IS_TD.store(true, Ordering::Relaxed);
}

/// Address of the instruction.
pub(crate) fn instruction() -> u64 {
    (&raw const tdcall_instruction).addr() as u64
}

/// Executes TDCALL.
fn tdcall(registers: &mut Registers) {
    // SAFETY: the leaves used here change registers and guest-physical memory outside of the
    // compiler's model.
    unsafe { tdcall_with_registers(registers) };
}

/// Executes and counts a TDCALL of a command. Those of the serial line are not counted.
fn counted_tdcall(registers: &mut Registers) {
    this().count(|counts| counts.tdcalls += 1);
    tdcall(registers);
}

/// Result of TDG.VP.INFO.
pub(crate) struct Info {
    /// GPA width in bits.
    pub(crate) gpa_width: u8,
    /// TD attributes.
    pub(crate) attributes: u64,
    /// vCPUs of the TD.
    pub(crate) vcpus: u32,
}

/// TDG.VP.INFO. Remembers where the shared bit is.
pub(crate) fn info() -> Info {
    let mut registers = [0; 16];
    registers[reg::RAX] = leaf::VP_INFO;
    tdcall(&mut registers);
    let code = registers[reg::RAX];
    assert!(code == status::SUCCESS, "TDG.VP.INFO: status {code:#x}");
    let gpa_width = (registers[reg::RCX] & 0x3f) as u8;
    assert!(
        matches!(gpa_width, 48 | 52),
        "TDG.VP.INFO: GPA width {gpa_width} is neither 48 nor 52"
    );
    SHARED_BIT.store(1 << (gpa_width - 1), Ordering::Relaxed);
    Info {
        gpa_width,
        attributes: registers[reg::RDX],
        vcpus: registers[reg::R8] as u32,
    }
}

/// The bit of a GPA that puts it on `side`.
pub(crate) fn side_bit(side: Side) -> u64 {
    match side {
        Side::Private => 0,
        Side::Shared => SHARED_BIT.load(Ordering::Relaxed),
    }
}

/// Whether pending pages kill the TD rather than raise #VE: TD_CTLS.PENDING_VE_DISABLE. `None` where
/// the field cannot be read.
pub(crate) fn pending_ve_disabled() -> Option<bool> {
    const TD_CTLS: u64 = 0x1110_0003_0000_0017;
    let mut registers = [0; 16];
    registers[reg::RAX] = leaf::VM_RD;
    registers[reg::RDX] = TD_CTLS;
    tdcall(&mut registers);
    (registers[reg::RAX] == status::SUCCESS).then_some(registers[reg::R8] & 1 != 0)
}

/// #VE information.
#[derive(Clone, Copy)]
pub(crate) struct VeInfo {
    /// Exit reason.
    pub(crate) reason: u32,
    /// Guest-physical address, with the shared bit.
    pub(crate) gpa: Gpa,
}

/// TDG.VP.VEINFO.GET.
pub(crate) fn ve_info() -> VeInfo {
    let mut registers = [0; 16];
    registers[reg::RAX] = leaf::VP_VEINFO_GET;
    counted_tdcall(&mut registers);
    let code = registers[reg::RAX];
    assert!(
        code == status::SUCCESS,
        "TDG.VP.VEINFO.GET: status {code:#x}"
    );
    VeInfo {
        reason: registers[reg::RCX] as u32,
        gpa: Gpa::new(registers[reg::R9]),
    }
}

/// TDG.MEM.PAGE.ACCEPT: its status.
pub(crate) fn accept(gpa: Gpa, level: PageLevel) -> u64 {
    page_call(leaf::MEM_PAGE_ACCEPT, gpa, level)
}

/// TDG.MEM.PAGE.RELEASE: its status.
pub(crate) fn release(gpa: Gpa, level: PageLevel) -> u64 {
    page_call(leaf::MEM_PAGE_RELEASE, gpa, level)
}

fn page_call(leaf: u64, gpa: Gpa, level: PageLevel) -> u64 {
    let mut registers = [0; 16];
    registers[reg::RAX] = leaf;
    registers[reg::RCX] = gpa.as_u64() | u64::from(level.tdx());
    counted_tdcall(&mut registers);
    registers[reg::RAX]
}

/// Result of TDG.MEM.PAGE.ATTR.RD.
pub(crate) struct PageAttributes {
    pub(crate) status: u64,
    pub(crate) level: u8,
    pub(crate) pending: bool,
    pub(crate) attributes: u64,
}

/// TDG.MEM.PAGE.ATTR.RD.
pub(crate) fn page_attributes(gpa: Gpa) -> PageAttributes {
    let mut registers = [0; 16];
    registers[reg::RAX] = leaf::MEM_PAGE_ATTR_RD;
    registers[reg::RCX] = gpa.as_u64();
    counted_tdcall(&mut registers);
    PageAttributes {
        status: registers[reg::RAX],
        level: (registers[reg::RCX] & 0b111) as u8,
        pending: registers[reg::RCX] & ATTR_RD_PENDING != 0,
        attributes: registers[reg::RDX],
    }
}

/// TDG.VP.VMCALL with R10 to R15; returns R10 and R11.
fn call_vmm(r11_to_r15: [u64; 5]) -> (u64, u64) {
    let mut registers = [0; 16];
    registers[reg::RAX] = leaf::VP_VMCALL;
    registers[reg::RCX] = MASK_R10_TO_R15;
    registers[reg::R11..].copy_from_slice(&r11_to_r15);
    tdcall(&mut registers);
    let code = registers[reg::RAX];
    assert!(
        code == status::SUCCESS,
        "TDG.VP.VMCALL {:#x}: status {code:#x}",
        r11_to_r15[0]
    );
    (registers[reg::R10], registers[reg::R11])
}

/// MapGPA, once: R10 and R11.
pub(crate) fn map_gpa(range: GpaRange, to: Side) -> (u64, u64) {
    let start = range.start().as_u64() | side_bit(to);
    this().count(|counts| counts.tdcalls += 1);
    call_vmm([vmcall::MAP_GPA, start, range.bytes(), 0, 0])
}

/// Port I/O by the VMM: the value read, or anything for a write.
pub(crate) fn port_io(port: u16, bytes: u64, write: Option<u64>) -> u64 {
    let direction = u64::from(write.is_some());
    let (code, value) = call_vmm([
        vmcall::IO,
        bytes,
        direction,
        u64::from(port),
        write.unwrap_or(0),
    ]);
    assert!(
        code == vmcall::SUCCESS,
        "I/O at port {port:#x}: status {code:#x}"
    );
    value
}

/// HLT with interrupts blocked.
pub(crate) fn halt() {
    call_vmm([vmcall::HLT, 1, 0, 0, 0]);
}

/// ReportFatalError with the beginning of `text`. QEMU refuses codes with any of the low 16 bits
/// set.
pub(crate) fn report_fatal_error(text: &[u8]) {
    const GUEST_PANIC: u64 = 1 << 16;
    const TEXT_REGISTERS: [usize; 8] = [
        reg::R14,
        reg::R15,
        reg::RBX,
        reg::RDI,
        reg::RSI,
        reg::R8,
        reg::R9,
        reg::RDX,
    ];
    let mut registers = [0; 16];
    registers[reg::RAX] = leaf::VP_VMCALL;
    registers[reg::R11] = vmcall::REPORT_FATAL_ERROR;
    registers[reg::R12] = GUEST_PANIC;
    let mut mask = 1 << reg::R10 | 1 << reg::R11 | 1 << reg::R12 | 1 << reg::R13;
    for (register, text) in TEXT_REGISTERS.into_iter().zip(text.chunks(8)) {
        let mut word = [0; 8];
        word[..text.len()].copy_from_slice(text);
        registers[register] = u64::from_le_bytes(word);
    }
    for register in TEXT_REGISTERS {
        mask |= 1 << register;
    }
    registers[reg::RCX] = mask;
    tdcall(&mut registers);
}
