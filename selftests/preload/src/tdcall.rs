//! TDCALL leaves and window faults, answered in the guest's mailbox.
//!
//! Sources: the public TDX module 1.5.01 for leaves and status codes, `arch/x86/kvm/vmx/tdx.c` for
//! what KVM does about exits.

use std::fs::OpenOptions;
use std::io::Write;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use tdxlab_protocol::layout;
use tdxlab_protocol::mailbox::{self as mb};
use tdxlab_protocol::tdcall::{
    ATTR_RD_PENDING, ATTRIBUTES_REHEARSAL, ATTRIBUTES_SEPT_VE_DISABLE, EXIT_REASON_EPT_VIOLATION,
    leaf, reg, status, vmcall,
};

use crate::holes::{forget_if_gone, look_for_holes};
use crate::kvm;
use crate::lie::End;
use crate::sept::{PAGE, REGION, State};
use crate::vm::{Shared, Vm};
use crate::windows::{Cannot, Window};

/// Bits of a GPA, the shared bit being the topmost.
pub(crate) const GPA_WIDTH: u64 = 48;
const SHARED_BIT: u64 = 1 << (GPA_WIDTH - 1);

/// Most bytes KVM converts in one exit.
const MAP_GPA_CHUNK: u64 = 2 << 20;

/// TD-scope metadata field TD_CTLS; bit 0 is PENDING_VE_DISABLE.
const FIELD_TD_CTLS: u64 = 0x1110_0003_0000_0017;
/// TD-scope metadata field CONFIG_FLAGS.
const FIELD_CONFIG_FLAGS: u64 = 0x1110_0003_0000_0016;
/// Bits of a field identifier that name the field; the others say how it is to be read.
const FIELD_MASK: u64 = 0x7f00_0000_ffff_ffff;
/// TDX_METADATA_FIELD_ID_INCORRECT.
const FIELD_ID_INCORRECT: u64 = 0xc000_0c00_0000_0000;

/// What KVM says of a TD that touches memory before it accepts it, level warning.
const ACCESS_BEFORE_ACCEPT: &str = "<4>kvm_intel: Guest access before accepting";

/// How the answer to a request goes on.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The guest runs on.
    Guest,
    /// KVM_RUN returns to QEMU.
    Exit(Exit),
}

/// Why KVM_RUN returns to QEMU.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Port I/O; `write` is the value of an OUT.
    Io {
        port: u16,
        size: u8,
        write: Option<u64>,
    },
    /// A conversion is asked for.
    MapGpa { gpa: u64, pages: u64, private: bool },
    /// An access has used the other half than the attributes say.
    MemoryFault { gpa: u64, private: bool },
    /// The guest gives up; its registers.
    Fatal(Box<[u64; 16]>),
    /// The guest has no handler for the fault in its handler.
    TripleFault,
    /// KVM has given the TD up.
    Dead,
}

/// What is to be done when QEMU has answered.
#[derive(Debug)]
pub(crate) enum Pending {
    /// An IN has its value.
    IoRead { port: u16 },
    /// An OUT is done.
    IoWrite,
    /// A chunk of a conversion is done.
    MapGpa { next: u64, end: u64, private: bool },
    /// A page has been converted; the request is served again.
    Again,
}

/// #VE information.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VeInfo {
    gla: u64,
    gpa: u64,
    write: bool,
}

/// Serves the request in a vCPU's slot.
pub(crate) fn serve(vm: &mut Vm, vcpu: usize) -> Outcome {
    serve_again(vm, vcpu, false)
}

/// Goes on after QEMU has answered.
pub(crate) fn resume(vm: &mut Vm, vcpu: usize, pending: Pending, answer: u64) -> Outcome {
    let Some(slot) = Slot::of(vm, vcpu) else {
        return dead(vm, "the mailbox is gone");
    };
    match pending {
        Pending::IoRead { port } => {
            slot.set_gpr(reg::R11, answer);
            slot.finish_vmcall(vmcall::SUCCESS);
            // A frame ends with a zero byte: a command may have come, and before it a hole.
            if port == layout::SERIAL_PORT && answer & 0xff == 0 {
                look_for_holes(vm);
            }
            Outcome::Guest
        }
        Pending::IoWrite => {
            slot.finish_vmcall(vmcall::SUCCESS);
            Outcome::Guest
        }
        Pending::MapGpa { next, end, private } => {
            // KVM takes a positive EAGAIN for "later", and QEMU 11.1 never says so: where it cannot
            // convert, it stops the vCPU (kvm_handle_hypercall() in target/i386/kvm/kvm.c).
            let failed = match answer as i64 {
                0 => None,
                value if value == i64::from(libc::EAGAIN) => Some(vmcall::RETRY),
                _ => Some(vmcall::INVALID_OPERAND),
            };
            if let Some(code) = failed {
                slot.set_gpr(reg::R11, with_shared_bit(next, private));
                slot.finish_vmcall(code);
                return Outcome::Guest;
            }
            map_gpa_chunk(
                vm,
                vcpu,
                slot,
                next.saturating_add(MAP_GPA_CHUNK),
                end,
                private,
            )
        }
        Pending::Again => serve_again(vm, vcpu, true),
    }
}

/// `converted`: QEMU has just been asked to convert the page of this very request.
fn serve_again(vm: &mut Vm, vcpu: usize, converted: bool) -> Outcome {
    let Some(slot) = Slot::of(vm, vcpu) else {
        return dead(vm, "the doorbell was rung before the mailbox is there");
    };
    match slot.u32(mb::SLOT_KIND) {
        mb::KIND_TDCALL => tdcall(vm, vcpu, slot, converted),
        mb::KIND_FAULT => fault(vm, vcpu, slot, converted),
        kind => dead(
            vm,
            &format!("the guest asks for an unknown kind of thing, {kind}"),
        ),
    }
}

fn tdcall(vm: &mut Vm, vcpu: usize, slot: Slot, converted: bool) -> Outcome {
    let rax = slot.gpr(reg::RAX);
    let answered = match rax & 0xffff {
        leaf::VP_VMCALL => return vp_vmcall(vm, vcpu, slot),
        leaf::VP_INFO => {
            slot.set_gpr(reg::RCX, GPA_WIDTH);
            slot.set_gpr(reg::RDX, vm.attributes | ATTRIBUTES_REHEARSAL);
            let vcpus = vm.vcpus.len() as u64;
            slot.set_gpr(reg::R8, vcpus | vcpus << 32);
            slot.set_gpr(reg::R9, vcpu as u64);
            slot.set_gpr(reg::R10, 0);
            slot.set_gpr(reg::R11, 0);
            Ok(status::SUCCESS)
        }
        leaf::VP_VEINFO_GET => match vm.vcpus[vcpu].ve.take() {
            None => Ok(status::NO_VALID_VE_INFO),
            Some(ve) => {
                slot.set_gpr(reg::RCX, u64::from(EXIT_REASON_EPT_VIOLATION));
                slot.set_gpr(reg::RDX, if ve.write { 2 } else { 1 });
                slot.set_gpr(reg::R8, ve.gla);
                slot.set_gpr(reg::R9, ve.gpa);
                slot.set_gpr(reg::R10, 0);
                Ok(status::SUCCESS)
            }
        },
        leaf::MEM_PAGE_ACCEPT => accept(vm, vcpu, slot.gpr(reg::RCX), converted),
        leaf::MEM_PAGE_ATTR_RD => attr_rd(vm, vcpu, slot, converted),
        leaf::VM_RD => Ok(vm_rd(vm, slot)),
        _ => Ok(status::OPERAND_INVALID),
    };
    match answered {
        Ok(code) => {
            slot.set_gpr(reg::RAX, code);
            slot.answer();
            Outcome::Guest
        }
        Err(exit) => exit_with(vm, vcpu, exit),
    }
}

/// Leaves towards QEMU and serves the request again afterwards, unless the TD is dead.
fn exit_with(vm: &mut Vm, vcpu: usize, exit: Exit) -> Outcome {
    if exit != Exit::Dead {
        vm.vcpus[vcpu].pending = Some(Pending::Again);
    }
    Outcome::Exit(exit)
}

/// TDG.MEM.PAGE.ACCEPT.
fn accept(vm: &mut Vm, vcpu: usize, rcx: u64, converted: bool) -> Result<u64, Exit> {
    const REFUSED: u64 = status::OPERAND_INVALID | reg::RCX as u64;
    if !converted && let Some(end) = vm.lies.end_at_accept() {
        return Err(match end {
            End::Killed => killed(
                vm,
                "<4>WARNING: CPU: 0 PID: 0 at KVM_BUG_ON (a lie of the rehearsal)",
            ),
            End::Panic(code) => Exit::Fatal(Box::new(last_words(code))),
            End::TripleFault => Exit::TripleFault,
        });
    }
    let (level, gpa) = (rcx & 7, rcx & !0xfff);
    let bytes = match level {
        0 => PAGE,
        1 => REGION,
        _ => return Ok(REFUSED),
    };
    if rcx & 0xff8 != 0 || gpa % bytes != 0 || gpa >= SHARED_BIT {
        return Ok(REFUSED);
    }
    forget_if_gone(vm, gpa);
    // All mappings are 4K: where there is a table, the walk for a 2M page ends in it.
    let mismatch = Ok(status::PAGE_SIZE_MISMATCH | 1);
    if level == 1 && vm.sept.has_table(gpa) {
        return mismatch;
    }
    match vm.sept.state(gpa) {
        Some(State::Mapped) => return Ok(status::PAGE_ALREADY_ACCEPTED),
        Some(State::Pending) => {}
        None => add_page(vm, vcpu, gpa, converted)?,
    }
    if level == 1 {
        return mismatch;
    }
    vm.sept.set(gpa, State::Mapped);
    show(vm, Window::Private, gpa)?;
    Ok(status::SUCCESS)
}

/// The registers of a TD that reports a fatal error: its code, and text in those that RCX names.
fn last_words(code: u64) -> [u64; 16] {
    /// The first three of those that hold text, in the order of the text.
    const TEXT: [usize; 3] = [14, 15, 3];
    let mut registers = [0; 16];
    registers[12] = code;
    for (register, word) in TEXT
        .into_iter()
        .zip(b"a lie of a rehearsal\0\0\0\0".chunks(8))
    {
        registers[1] |= 1 << register;
        registers[register] = word
            .iter()
            .rev()
            .fold(0, |all, &byte| all << 8 | u64::from(byte));
    }
    registers
}

/// TDG.MEM.PAGE.ATTR.RD.
fn attr_rd(vm: &mut Vm, vcpu: usize, slot: Slot, converted: bool) -> Result<u64, Exit> {
    let gpa = slot.gpr(reg::RCX);
    if !gpa.is_multiple_of(PAGE) || gpa >= SHARED_BIT {
        return Ok(status::OPERAND_INVALID | reg::RCX as u64);
    }
    forget_if_gone(vm, gpa);
    if vm.sept.state(gpa).is_none() {
        add_page(vm, vcpu, gpa, converted)?;
    }
    let pending = vm.sept.state(gpa) == Some(State::Pending);
    slot.set_gpr(reg::RCX, gpa | if pending { ATTR_RD_PENDING } else { 0 });
    // Attributes in L2 VMs; the TD's own are reported as 0.
    slot.set_gpr(reg::RDX, 0);
    Ok(status::SUCCESS)
}

/// TDG.VM.RD.
fn vm_rd(vm: &Vm, slot: Slot) -> u64 {
    let field = slot.gpr(reg::RDX) & FIELD_MASK;
    let value = if field == FIELD_TD_CTLS & FIELD_MASK {
        u64::from(vm.attributes & ATTRIBUTES_SEPT_VE_DISABLE != 0)
    } else if field == FIELD_CONFIG_FLAGS & FIELD_MASK {
        0
    } else {
        return FIELD_ID_INCORRECT;
    };
    slot.set_gpr(reg::R8, value);
    status::SUCCESS
}

/// The exit on a FREE private page: KVM maps one 4K page of the guest_memfd, which is pending then.
/// Where the page is shared in KVM's eyes, QEMU converts it first.
fn add_page(vm: &mut Vm, vcpu: usize, gpa: u64, converted: bool) -> Result<(), Exit> {
    if !vm.private.contains(gpa) {
        if converted {
            return Err(killed(
                vm,
                "tdxlab-preload: QEMU has not converted a page to private",
            ));
        }
        return Err(Exit::MemoryFault { gpa, private: true });
    }
    match kvm::pre_fault(vm.vcpus[vcpu].fd, gpa, PAGE) {
        Ok(()) => {
            vm.sept.set(gpa, State::Pending);
            Ok(())
        }
        Err(kvm::Errno(errno)) => {
            let text = format!("tdxlab-preload: KVM cannot map {gpa:#x}: errno {errno}");
            Err(killed(vm, &text))
        }
    }
}

/// A fault in a window: the guest has touched a page that it cannot reach.
fn fault(vm: &mut Vm, vcpu: usize, slot: Slot, converted: bool) -> Outcome {
    let gpa = slot.u64(mb::SLOT_FAULT_GPA);
    let info = slot.u64(mb::SLOT_FAULT_INFO);
    if gpa >= layout::WINDOW_BYTES {
        return dead(vm, "the guest reports a fault outside its windows");
    }
    let shared = info & mb::FAULT_SHARED != 0;
    let answered = if shared {
        shared_fault(vm, gpa, converted)
    } else {
        private_fault(vm, vcpu, gpa, info & mb::FAULT_WRITE != 0, converted)
    };
    match answered {
        Ok(answer) => {
            slot.set_u32(mb::SLOT_ANSWER, answer);
            slot.answer();
            Outcome::Guest
        }
        Err(exit) => exit_with(vm, vcpu, exit),
    }
}

/// KVM maps the shared page when the guest tries again.
fn shared_fault(vm: &mut Vm, gpa: u64, converted: bool) -> Result<u32, Exit> {
    if vm.private.contains(gpa) {
        if converted {
            return Err(killed(
                vm,
                "tdxlab-preload: QEMU has not converted a page to shared",
            ));
        }
        return Err(Exit::MemoryFault {
            gpa: gpa & !(PAGE - 1),
            private: false,
        });
    }
    show(vm, Window::Shared, gpa)?;
    Ok(mb::ANSWER_RETRY)
}

fn private_fault(
    vm: &mut Vm,
    vcpu: usize,
    address: u64,
    write: bool,
    converted: bool,
) -> Result<u32, Exit> {
    let gpa = address & !(PAGE - 1);
    forget_if_gone(vm, gpa);
    match vm.sept.state(gpa) {
        Some(State::Mapped) => {
            show(vm, Window::Private, gpa)?;
            return Ok(mb::ANSWER_RETRY);
        }
        Some(State::Pending) => {}
        None => add_page(vm, vcpu, gpa, converted)?,
    }
    if vm.attributes & ATTRIBUTES_SEPT_VE_DISABLE != 0 {
        let text = format!("{ACCESS_BEFORE_ACCEPT} 0x{gpa:x} on vCPU {vcpu}");
        return Err(killed(vm, &text));
    }
    vm.vcpus[vcpu].ve = Some(VeInfo {
        gla: layout::PRIVATE_WINDOW + address,
        gpa: address,
        write,
    });
    Ok(mb::ANSWER_VE)
}

/// TDG.VP.VMCALL.
fn vp_vmcall(vm: &mut Vm, vcpu: usize, slot: Slot) -> Outcome {
    // RAX, RCX and RSP cannot be passed; KVM asks the module for the same of RBP.
    const NEVER: u64 = 1 << reg::RAX | 1 << reg::RCX | 1 << reg::RSP | 1 << reg::RBP;
    let mask = slot.gpr(reg::RCX);
    if mask & NEVER != 0 || mask >> 32 != 0 {
        slot.set_gpr(reg::RAX, status::OPERAND_INVALID | reg::RCX as u64);
        slot.answer();
        return Outcome::Guest;
    }
    let argument = |number: usize| {
        if mask & 1 << number != 0 {
            slot.gpr(number)
        } else {
            0
        }
    };
    let (r12, r13, r14) = (argument(reg::R12), argument(reg::R13), argument(reg::R14));
    if argument(reg::R10) != 0 {
        slot.finish_vmcall(vmcall::SUBFUNCTION_UNSUPPORTED);
        return Outcome::Guest;
    }
    match argument(reg::R11) {
        vmcall::IO => {
            if !matches!(r12, 1 | 2 | 4) || r13 > 1 || r14 > 0xffff {
                slot.finish_vmcall(vmcall::INVALID_OPERAND);
                return Outcome::Guest;
            }
            let write = (r13 == 1).then(|| argument(reg::R15));
            let port = r14 as u16;
            let pending = if write.is_some() {
                Pending::IoWrite
            } else {
                Pending::IoRead { port }
            };
            vm.vcpus[vcpu].pending = Some(pending);
            Outcome::Exit(Exit::Io {
                port,
                size: r12 as u8,
                write,
            })
        }
        vmcall::MAP_GPA => map_gpa(vm, vcpu, slot, r12, r13),
        // Nothing is there to wake it, so it does not sleep for long; KVM may wake it early too.
        vmcall::HLT => {
            std::thread::sleep(std::time::Duration::from_micros(200));
            slot.finish_vmcall(vmcall::SUCCESS);
            Outcome::Guest
        }
        vmcall::REPORT_FATAL_ERROR => {
            Outcome::Exit(Exit::Fatal(Box::new(std::array::from_fn(argument))))
        }
        _ => {
            slot.finish_vmcall(vmcall::SUBFUNCTION_UNSUPPORTED);
            Outcome::Guest
        }
    }
}

/// MapGPA, with the checks of `tdx_map_gpa()`.
fn map_gpa(vm: &mut Vm, vcpu: usize, slot: Slot, gpa: u64, bytes: u64) -> Outcome {
    let is_shared = |address: u64| address & SHARED_BIT != 0;
    let last = gpa.checked_add(bytes).and_then(|end| end.checked_sub(1));
    let legal = last
        .filter(|&last| bytes != 0 && last < SHARED_BIT << 1 && is_shared(gpa) == is_shared(last));
    let refused = match legal {
        None => Some(vmcall::INVALID_OPERAND),
        Some(_) if !gpa.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) => {
            Some(vmcall::ALIGN_ERROR)
        }
        Some(_) => None,
    };
    if let Some(code) = refused {
        slot.set_gpr(reg::R11, gpa);
        slot.finish_vmcall(code);
        return Outcome::Guest;
    }
    let start = gpa & !SHARED_BIT;
    map_gpa_chunk(vm, vcpu, slot, start, start + bytes, !is_shared(gpa))
}

/// Asks QEMU for the next chunk, or tells the guest that all is done.
fn map_gpa_chunk(
    vm: &mut Vm,
    vcpu: usize,
    slot: Slot,
    mut next: u64,
    end: u64,
    private: bool,
) -> Outcome {
    while next < end && vm.lies.drops_conversion() {
        next += MAP_GPA_CHUNK;
    }
    if next >= end {
        slot.finish_vmcall(vmcall::SUCCESS);
        return Outcome::Guest;
    }
    let pages = MAP_GPA_CHUNK.min(end - next) / PAGE;
    vm.vcpus[vcpu].pending = Some(Pending::MapGpa { next, end, private });
    Outcome::Exit(Exit::MapGpa {
        gpa: next,
        pages,
        private,
    })
}

fn with_shared_bit(gpa: u64, private: bool) -> u64 {
    if private { gpa } else { gpa | SHARED_BIT }
}

fn show(vm: &mut Vm, window: Window, gpa: u64) -> Result<(), Exit> {
    let mut windows = std::mem::replace(&mut vm.windows, crate::windows::Windows::new());
    let shown = windows.show(&Shared(vm), window, gpa & !(PAGE - 1));
    vm.windows = windows;
    shown.map_err(|cannot| {
        killed(
            vm,
            match cannot {
                Cannot::PoolEmpty => "tdxlab-preload: too many scattered pages for a rehearsal",
                Cannot::NoMemory => "tdxlab-preload: the guest has no memory for tables",
            },
        )
    })
}

/// Tells all vCPUs to drop their translations before they next use a window.
pub(crate) fn ask_for_flush(vm: &Vm) {
    let epoch = layout::MAILBOX_START + mb::HEADER_TLB_EPOCH;
    if let Some(epoch) = vm.host(epoch, 4) {
        // SAFETY: the mailbox is guest memory, which stays mapped, and the epoch is aligned.
        unsafe { AtomicU32::from_ptr(epoch.cast()) }.fetch_add(1, Ordering::SeqCst);
    }
}

/// KVM gives the TD up and says so in the kernel log.
fn killed(vm: &mut Vm, text: &str) -> Exit {
    vm.dead = true;
    eprintln!("{}", text.trim_start_matches("<4>"));
    let log = OpenOptions::new().write(true).open("/dev/kmsg");
    // Without the right to write there, the line above has to do.
    let _ = log.and_then(|mut log| log.write_all(text.as_bytes()));
    Exit::Dead
}

/// The guest or QEMU has done what no TD does.
fn dead(vm: &mut Vm, text: &str) -> Outcome {
    Outcome::Exit(killed(vm, &format!("tdxlab-preload: {text}")))
}

/// A vCPU's slot in the mailbox.
#[derive(Clone, Copy)]
struct Slot(*mut u8);

impl Slot {
    fn of(vm: &Vm, vcpu: usize) -> Option<Slot> {
        let gpa = layout::MAILBOX_START + mb::SLOTS + vcpu as u64 * mb::SLOT_BYTES;
        vm.host(gpa, mb::SLOT_BYTES).map(Slot)
    }

    fn field<T>(self, offset: u64) -> *mut T {
        self.0.wrapping_add(offset as usize).cast()
    }

    fn u32(self, offset: u64) -> u32 {
        // SAFETY: `of` has found the whole slot; fields are aligned in it. The guest can change it at
        // any time, which a volatile read allows.
        unsafe { ptr::read_volatile(self.field(offset)) }
    }

    fn set_u32(self, offset: u64, value: u32) {
        // SAFETY: as for `u32`.
        unsafe { ptr::write_volatile(self.field(offset), value) }
    }

    fn u64(self, offset: u64) -> u64 {
        // SAFETY: as for `u32`.
        unsafe { ptr::read_volatile(self.field(offset)) }
    }

    fn gpr(self, number: usize) -> u64 {
        self.u64(mb::SLOT_GPRS + number as u64 * 8)
    }

    fn set_gpr(self, number: usize, value: u64) {
        // SAFETY: as for `u32`.
        unsafe { ptr::write_volatile(self.field(mb::SLOT_GPRS + number as u64 * 8), value) }
    }

    /// Says that the answer is there.
    fn answer(self) {
        // SAFETY: as for `u32`.
        unsafe { AtomicU32::from_ptr(self.field(mb::SLOT_STATE)) }
            .store(mb::STATE_ANSWERED, Ordering::SeqCst);
    }

    /// Ends a TDG.VP.VMCALL, which by itself always succeeds, with a status of the VMM.
    fn finish_vmcall(self, code: u64) {
        self.set_gpr(reg::R10, code);
        self.set_gpr(reg::RAX, status::SUCCESS);
        self.answer();
    }
}
