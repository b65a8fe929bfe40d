//! Plays the TDX module under an unmodified QEMU: a fixture for rehearsals of the `tdx` host.
//!
//! Loaded into QEMU with `LD_PRELOAD`, it stands between QEMU and a real KVM that has no TDX but
//! software-protected VMs (`CONFIG_KVM_SW_PROTECTED_VM`). QEMU then goes through all of its TDX
//! code: `tdx-guest`, TDVF metadata, HOB, guest_memfds, memory attributes, conversions. What
//! stays real is everything the lab looks at from outside: the guest_memfd and the holes in it,
//! the page counters, the split events, the kernel log, QMP.
//!
//! What is played, and where:
//!
//! | part | module |
//! |---|---|
//! | VM type 5 becomes 1; slots and memory attributes are noted on their way | [`mod@vm`] |
//! | the six `KVM_TDX_*` commands | [`setup`] |
//! | vCPUs start in a TD's initial state; doorbell exits are served | [`run`] |
//! | TDCALL leaves and their status codes | [`tdcall`] |
//! | states of S-EPT entries, as in a TD without huge pages (design `stock`) | [`sept`] |
//! | tables under the guest's windows, so that a page that is not accepted cannot be touched | [`windows`] |
//! | holes that the lab has punched | [`mod@holes`] |
//! | lies on request, for tests of the lab | [`lie`] |
//!
//! The guest says of itself that it is rehearsed
//! ([`tdxlab_protocol::tdcall::ATTRIBUTES_REHEARSAL`]), so that no report of such a run can be
//! mistaken for one of a TD.
//!
//! # What it cannot know
//!
//! Holes are punched behind its back, straight in the kernel. It learns of them from
//! `cachestat(2)` before each ACCEPT and probe, and for the whole of memory whenever the guest has
//! received a command. A page that was punched and allocated again (`fallocate`) between two
//! commands looks as if it had never been gone.

#![allow(
    clippy::missing_safety_doc,
    reason = "the only unsafe function is the C library's ioctl"
)]

mod holes;
mod kvm;
mod lie;
mod ranges;
mod run;
mod sept;
mod setup;
mod tdcall;
mod vm;
mod windows;

use std::sync::{Mutex, MutexGuard};

use libc::{c_int, c_ulong, c_void, off_t};

use crate::vm::Vm;

/// The VM of this process. QEMU has one.
static VM: Mutex<Vm> = Mutex::new(Vm::new());

/// The VM. A panic while it was held has aborted QEMU, so the lock is never poisoned.
fn vm() -> MutexGuard<'static, Vm> {
    VM.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The C library's `ioctl`, as QEMU calls it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the caller passes what KVM's interface asks for.
    let result = unsafe { dispatch(fd, request as u32, argument) };
    match result {
        Ok(value) => value,
        Err(kvm::Errno(errno)) => {
            // SAFETY: the address of this thread's errno is always valid.
            unsafe { *libc::__errno_location() = errno };
            -1
        }
    }
}

/// The C library's `fallocate`, with which QEMU punches holes.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate(fd: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
    if vm().refuses_hole(fd, mode, offset | bytes) {
        // SAFETY: the address of this thread's errno is always valid.
        unsafe { *libc::__errno_location() = libc::EINVAL };
        return -1;
    }
    // SAFETY: the system call takes no pointer.
    unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, offset, bytes) as c_int }
}

/// The same, as programs call it that were built for large files.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: off_t, bytes: off_t) -> c_int {
    fallocate(fd, mode, offset, bytes)
}

unsafe fn dispatch(fd: c_int, request: u32, argument: *mut c_void) -> kvm::Result<c_int> {
    // SAFETY: as for `ioctl`; each request has the argument that its handler takes.
    unsafe {
        match request {
            kvm::CREATE_VM => vm::create(fd, argument),
            kvm::RUN => run::run(fd),
            kvm::CHECK_EXTENSION => vm::check_extension(fd, argument),
            kvm::CREATE_VCPU => vm::create_vcpu(fd, argument),
            kvm::SET_USER_MEMORY_REGION2 => vm::set_slot(fd, argument),
            kvm::CREATE_GUEST_MEMFD => vm::create_guest_memfd(fd, argument),
            kvm::SET_MEMORY_ATTRIBUTES => vm::set_attributes(fd, argument),
            kvm::PRE_FAULT_MEMORY => vm::pre_fault(fd, argument),
            kvm::SET_CPUID2 => vm::set_cpuid(fd, argument),
            kvm::MEMORY_ENCRYPT_OP => setup::command(fd, argument),
            _ => kvm::call(fd, request, argument),
        }
    }
}
