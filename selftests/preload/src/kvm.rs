//! KVM's own interface: request numbers, and calls that go past this library to the kernel.
//!
//! Source: `include/uapi/linux/kvm.h` and `arch/x86/include/uapi/asm/kvm.h`.

use std::io;
use std::os::fd::RawFd;

use kvm_bindings::{
    kvm_cpuid2, kvm_create_guest_memfd, kvm_memory_attributes, kvm_mp_state, kvm_pre_fault_memory,
    kvm_regs, kvm_sregs, kvm_userspace_memory_region2,
};
use libc::{c_int, c_long, c_void};

/// An error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) c_int);

/// What an ioctl ends with.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// Where an ioctl's argument goes.
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn number(direction: u32, nr: u32, bytes: usize) -> u32 {
    direction << 30 | (bytes as u32) << 16 | 0xae << 8 | nr
}

pub(crate) const CREATE_VM: u32 = number(NONE, 0x01, 0);
pub(crate) const CHECK_EXTENSION: u32 = number(NONE, 0x03, 0);
pub(crate) const GET_VCPU_MMAP_SIZE: u32 = number(NONE, 0x04, 0);
pub(crate) const CREATE_VCPU: u32 = number(NONE, 0x41, 0);
pub(crate) const SET_USER_MEMORY_REGION2: u32 =
    number(WRITE, 0x49, size_of::<kvm_userspace_memory_region2>());
pub(crate) const RUN: u32 = number(NONE, 0x80, 0);
const SET_REGS: u32 = number(WRITE, 0x82, size_of::<kvm_regs>());
const GET_SREGS: u32 = number(READ, 0x83, size_of::<kvm_sregs>());
const SET_SREGS: u32 = number(WRITE, 0x84, size_of::<kvm_sregs>());
pub(crate) const SET_CPUID2: u32 = number(WRITE, 0x90, size_of::<kvm_cpuid2>());
const SET_MP_STATE: u32 = number(WRITE, 0x99, size_of::<kvm_mp_state>());
pub(crate) const MEMORY_ENCRYPT_OP: u32 = number(READ | WRITE, 0xba, size_of::<usize>());
pub(crate) const SET_MEMORY_ATTRIBUTES: u32 =
    number(WRITE, 0xd2, size_of::<kvm_memory_attributes>());
pub(crate) const CREATE_GUEST_MEMFD: u32 =
    number(READ | WRITE, 0xd4, size_of::<kvm_create_guest_memfd>());
pub(crate) const PRE_FAULT_MEMORY: u32 =
    number(READ | WRITE, 0xd5, size_of::<kvm_pre_fault_memory>());

/// The VM type of a TD.
pub(crate) const VM_TYPE_TDX: usize = 5;
/// The VM type that plays one: software-protected, with real private memory.
pub(crate) const VM_TYPE_SW_PROTECTED: usize = 1;

/// `cachestat(2)`, which the C library has no function for.
const SYS_CACHESTAT: c_long = 451;

/// The last system call's error.
pub(crate) fn errno() -> Errno {
    Errno(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// Calls the kernel's ioctl.
///
/// # Safety
///
/// `argument` is what `request` asks for.
pub(crate) unsafe fn call(fd: RawFd, request: u32, argument: *mut c_void) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let value = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) };
    if value < 0 {
        Err(errno())
    } else {
        Ok(value as c_int)
    }
}

/// Calls the kernel's ioctl with a structure.
fn with<T>(fd: RawFd, request: u32, argument: &mut T) -> Result<c_int> {
    // SAFETY: the request number holds the size of `T`, and each constant above goes with its
    // structure.
    unsafe { call(fd, request, (&raw mut *argument).cast()) }
}

/// Sets the general registers.
pub(crate) fn set_regs(vcpu: RawFd, mut regs: kvm_regs) -> Result<()> {
    with(vcpu, SET_REGS, &mut regs).map(drop)
}

/// Reads, changes and writes back the system registers.
pub(crate) fn change_sregs(vcpu: RawFd, change: impl FnOnce(&mut kvm_sregs)) -> Result<()> {
    let mut sregs = kvm_sregs::default();
    with(vcpu, GET_SREGS, &mut sregs)?;
    change(&mut sregs);
    with(vcpu, SET_SREGS, &mut sregs).map(drop)
}

/// Lets a vCPU run without INIT and SIPI.
pub(crate) fn make_runnable(vcpu: RawFd) -> Result<()> {
    let mut state = kvm_mp_state {
        mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE,
    };
    with(vcpu, SET_MP_STATE, &mut state).map(drop)
}

/// Makes a range private or shared in KVM's eyes.
pub(crate) fn set_private(vm: RawFd, gpa: u64, bytes: u64, private: bool) -> Result<()> {
    let mut attributes = kvm_memory_attributes {
        address: gpa,
        size: bytes,
        attributes: if private {
            u64::from(kvm_bindings::KVM_MEMORY_ATTRIBUTE_PRIVATE)
        } else {
            0
        },
        flags: 0,
    };
    with(vm, SET_MEMORY_ATTRIBUTES, &mut attributes).map(drop)
}

/// Maps a range as if the guest had touched it.
pub(crate) fn pre_fault(vcpu: RawFd, gpa: u64, bytes: u64) -> Result<()> {
    let mut range = kvm_pre_fault_memory {
        gpa,
        size: bytes,
        ..Default::default()
    };
    // KVM moves the start forward and may return early.
    while range.size > 0 {
        match with(vcpu, PRE_FAULT_MEMORY, &mut range) {
            Ok(_) | Err(Errno(libc::EINTR | libc::EAGAIN)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// How many 4K pages of a guest_memfd are populated in a byte range.
pub(crate) fn populated(gmem: RawFd, offset: u64, bytes: u64) -> Result<u64> {
    let range = [offset, bytes];
    let mut counts = [0_u64; 5];
    // SAFETY: both pointers are to structures of the size the kernel takes.
    let value =
        unsafe { libc::syscall(SYS_CACHESTAT, gmem, range.as_ptr(), counts.as_mut_ptr(), 0) };
    if value < 0 {
        Err(errno())
    } else {
        Ok(counts[0])
    }
}

/// Populates a byte range of a guest_memfd.
pub(crate) fn allocate(gmem: RawFd, offset: u64, bytes: u64) -> Result<()> {
    // SAFETY: fallocate takes no pointer. The C library's function is this library's own.
    let value = unsafe {
        libc::syscall(
            libc::SYS_fallocate,
            gmem,
            libc::FALLOC_FL_KEEP_SIZE,
            offset as libc::off_t,
            bytes as libc::off_t,
        )
    };
    if value < 0 { Err(errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_those_of_the_header() {
        assert_eq!(CREATE_VM, 0xae01);
        assert_eq!(RUN, 0xae80);
        assert_eq!(SET_CPUID2, 0x4008_ae90);
        assert_eq!(MEMORY_ENCRYPT_OP, 0xc008_aeba);
        assert_eq!(SET_MEMORY_ATTRIBUTES, 0x4020_aed2);
        assert_eq!(CREATE_GUEST_MEMFD, 0xc040_aed4);
        assert_eq!(PRE_FAULT_MEMORY, 0xc040_aed5);
        assert_eq!(SET_USER_MEMORY_REGION2, 0x40a0_ae49);
        assert_eq!(SET_SREGS, 0x4138_ae84);
    }
}
