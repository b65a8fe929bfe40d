//! `KVM_RUN`: a TD's initial state before the first one, and the doorbell exits in between.

use std::os::fd::RawFd;
use std::ptr;

use kvm_bindings::{
    KVM_EXIT_HYPERCALL, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IO_OUT, KVM_EXIT_MEMORY_FAULT,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_MEMORY_EXIT_FLAG_PRIVATE, kvm_regs, kvm_run,
    kvm_segment,
};
use libc::c_int;
use tdxlab_protocol::layout;

use crate::kvm::{self, Errno, Result};
use crate::sept::PAGE;
use crate::tdcall::{self, Exit, Outcome, Pending, VeInfo};
use crate::vm::Vm;

/// Hypercall number of a conversion, `KVM_HC_MAP_GPA_RANGE`.
const HC_MAP_GPA_RANGE: u64 = 12;
/// Hypercall flags: the guest was in 64-bit mode.
const EXIT_HYPERCALL_LONG_MODE: u64 = 1 << 0;
/// Conversion attributes: to private.
const MAP_GPA_RANGE_ENCRYPTED: u64 = 1 << 4;
/// System event of a guest that gives up, `KVM_SYSTEM_EVENT_TDX_FATAL`.
const SYSTEM_EVENT_TDX_FATAL: u32 = 7;

/// A vCPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) fd: RawFd,
    /// Address of its `struct kvm_run`, mapped a second time.
    run: usize,
    /// RCX and R8 at reset.
    pub(crate) initial_rcx: u64,
    /// Family, model and stepping, CPUID(1).EAX.
    pub(crate) signature: u32,
    started: bool,
    /// What is to be done when QEMU has answered.
    pub(crate) pending: Option<Pending>,
    /// For TDG.VP.VEINFO.GET.
    pub(crate) ve: Option<VeInfo>,
}

impl Vcpu {
    pub(crate) fn new(kvm: RawFd, fd: RawFd) -> Result<Vcpu> {
        // SAFETY: the request takes no argument.
        let bytes = unsafe { kvm::call(kvm, kvm::GET_VCPU_MMAP_SIZE, ptr::null_mut()) }?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let run = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes as usize,
                protection,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if run == libc::MAP_FAILED {
            return Err(kvm::errno());
        }
        Ok(Vcpu {
            fd,
            run: run.addr(),
            initial_rcx: 0,
            signature: 0,
            started: false,
            pending: None,
            ve: None,
        })
    }
}

/// `KVM_RUN`.
pub(crate) fn run(fd: RawFd) -> Result<c_int> {
    let (index, run) = {
        let mut vm = crate::vm();
        let Some(index) = vm.vcpus.iter().position(|vcpu| vcpu.fd == fd) else {
            // SAFETY: KVM_RUN takes no argument.
            return unsafe { kvm::call(fd, kvm::RUN, ptr::null_mut()) };
        };
        let run = vm.vcpus[index].run as *mut kvm_run;
        if !vm.vcpus[index].started {
            vm.vcpus[index].started = true;
            reset(&vm, index)?;
        }
        if let Some(pending) = vm.vcpus[index].pending.take() {
            // SAFETY: the mapping stays, and between two KVM_RUNs only this thread uses it.
            let answer = unsafe { answer_of_qemu(run) };
            if let Outcome::Exit(exit) = tdcall::resume(&mut vm, index, pending, answer) {
                // SAFETY: as above.
                return unsafe { leave(run, exit) };
            }
        }
        (index, run)
    };
    loop {
        if crate::vm().dead {
            return Err(Errno(libc::EIO));
        }
        // SAFETY: KVM_RUN takes no argument.
        unsafe { kvm::call(fd, kvm::RUN, ptr::null_mut()) }?;
        // SAFETY: as above.
        if !unsafe { is_doorbell(run) } {
            return Ok(0);
        }
        let outcome = tdcall::serve(&mut crate::vm(), index);
        if let Outcome::Exit(exit) = outcome {
            // SAFETY: as above.
            return unsafe { leave(run, exit) };
        }
    }
}

/// A TD's state at the reset vector, except for EFER: a TD has LME set, but the outer emulator of
/// a rehearsal (QEMU 7.2 and older) loses its own state on an exit with LME and without paging. The
/// guest sets LME itself where it is not set.
///
/// Source: tdh_vp_init.c and td_vmcs_init.c of the TDX module.
fn reset(vm: &Vm, index: usize) -> Result<()> {
    let vcpu = &vm.vcpus[index];
    kvm::change_sregs(vcpu.fd, |sregs| {
        let flat = |selector_type| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: 0,
            type_: selector_type,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        sregs.cs = flat(0xb);
        for segment in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *segment = flat(0x3);
        }
        sregs.cr0 = 0x21;
        sregs.cr4 = 0x40;
        sregs.efer = 0;
        (sregs.gdt.base, sregs.gdt.limit) = (0, 0xffff);
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
    })?;
    kvm::set_regs(
        vcpu.fd,
        kvm_regs {
            rbx: tdcall::GPA_WIDTH,
            rcx: vcpu.initial_rcx,
            rdx: u64::from(vcpu.signature),
            r8: vcpu.initial_rcx,
            rsi: index as u64,
            rip: 0xffff_fff0,
            rflags: 0x2,
            ..Default::default()
        },
    )?;
    kvm::make_runnable(vcpu.fd)
}

/// Whether the guest has written to the doorbell port.
unsafe fn is_doorbell(run: *const kvm_run) -> bool {
    // SAFETY: the kernel has filled in the part of the union that goes with the reason.
    unsafe {
        (*run).exit_reason == KVM_EXIT_IO && {
            let io = (*run).__bindgen_anon_1.io;
            io.port == layout::DOORBELL_PORT && u32::from(io.direction) == KVM_EXIT_IO_OUT
        }
    }
}

/// What QEMU has left in `struct kvm_run`: the data of an I/O exit, or the result of a hypercall.
unsafe fn answer_of_qemu(run: *const kvm_run) -> u64 {
    // SAFETY: the reason is the one `leave` has set, or of no interest.
    unsafe {
        match (*run).exit_reason {
            KVM_EXIT_IO => {
                let io = (*run).__bindgen_anon_1.io;
                let data = run.cast::<u8>().add(io.data_offset as usize);
                let mut value = [0; 8];
                ptr::copy_nonoverlapping(data, value.as_mut_ptr(), usize::from(io.size.min(8)));
                u64::from_le_bytes(value)
            }
            KVM_EXIT_HYPERCALL => (*run).__bindgen_anon_1.hypercall.ret,
            _ => 0,
        }
    }
}

/// Leaves KVM_RUN towards QEMU.
unsafe fn leave(run: *mut kvm_run, exit: Exit) -> Result<c_int> {
    // SAFETY: the mapping holds a `struct kvm_run` and, a page further on, room for I/O data.
    unsafe {
        match exit {
            Exit::Io { port, size, write } => {
                (*run).exit_reason = KVM_EXIT_IO;
                let io = &mut (*run).__bindgen_anon_1.io;
                io.direction = if write.is_some() {
                    KVM_EXIT_IO_OUT
                } else {
                    KVM_EXIT_IO_IN
                } as u8;
                io.size = size;
                io.port = port;
                io.count = 1;
                io.data_offset = PAGE;
                let bytes = write.unwrap_or(0).to_le_bytes();
                let data = run.cast::<u8>().add(PAGE as usize);
                ptr::copy_nonoverlapping(bytes.as_ptr(), data, usize::from(size));
                Ok(0)
            }
            Exit::MapGpa {
                gpa,
                pages,
                private,
            } => {
                (*run).exit_reason = KVM_EXIT_HYPERCALL;
                let call = &mut (*run).__bindgen_anon_1.hypercall;
                let encrypted = if private { MAP_GPA_RANGE_ENCRYPTED } else { 0 };
                call.nr = HC_MAP_GPA_RANGE;
                call.args = [gpa, pages, encrypted, 0, 0, 0];
                call.ret = 0;
                call.__bindgen_anon_1.flags = EXIT_HYPERCALL_LONG_MODE;
                Ok(0)
            }
            Exit::MemoryFault { gpa, private } => {
                (*run).exit_reason = KVM_EXIT_MEMORY_FAULT;
                let fault = &mut (*run).__bindgen_anon_1.memory_fault;
                fault.flags = if private {
                    u64::from(KVM_MEMORY_EXIT_FLAG_PRIVATE)
                } else {
                    0
                };
                fault.gpa = gpa;
                fault.size = PAGE;
                Err(Errno(libc::EFAULT))
            }
            Exit::Fatal(registers) => {
                (*run).exit_reason = KVM_EXIT_SYSTEM_EVENT;
                let event = &mut (*run).__bindgen_anon_1.system_event;
                event.type_ = SYSTEM_EVENT_TDX_FATAL;
                event.ndata = registers.len() as u32;
                event.__bindgen_anon_1.data = *registers;
                Ok(0)
            }
            Exit::TripleFault => {
                (*run).exit_reason = KVM_EXIT_SHUTDOWN;
                Ok(0)
            }
            Exit::Dead => Err(Errno(libc::EIO)),
        }
    }
}
