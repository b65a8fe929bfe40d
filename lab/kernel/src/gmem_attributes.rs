//! The call that keeps private and shared in a guest_memfd itself: KVM_SET_MEMORY_ATTRIBUTES2.
//!
//! Source: include/uapi/linux/kvm.h of the series that brings conversion in place, v8 (2026-06-18) and later.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use kvm_bindings::kvm_create_guest_memfd;
use kvm_ioctls::Kvm;

/// VM types whose memory may be private without TDX: KVM_X86_SW_PROTECTED_VM, and, from Linux 6.18 on, any.
const TYPES: [u64; 2] = [1, 0];

/// KVM_CAP_VM_TYPES.
const CAP_VM_TYPES: u64 = 235;

/// Whether the call is there and turned on: a call for no bytes is EINVAL then, and ENOTTY where it is not.
///
/// # Errors
///
/// No VM or no guest_memfd could be made.
pub fn is_known() -> io::Result<bool> {
    let kvm = Kvm::new().map_err(os_error)?;
    let types = kvm.check_extension_raw(CAP_VM_TYPES);
    let mut failed = io::Error::from_raw_os_error(libc::ENODEV);
    for kind in TYPES {
        if types & 1 << kind == 0 {
            continue;
        }
        let made = kvm.create_vm_with_type(kind).and_then(|vm| {
            let wanted = kvm_create_guest_memfd {
                size: 2 << 20,
                ..kvm_create_guest_memfd::default()
            };
            vm.create_guest_memfd(wanted)
        });
        match made {
            Ok(fd) => {
                // SAFETY: the call has just made it, and nothing else knows the number.
                let gmem = unsafe { File::from_raw_fd(fd) };
                return Ok(answers(&gmem));
            }
            Err(error) => failed = os_error(error),
        }
    }
    Err(failed)
}

fn answers(gmem: &File) -> bool {
    let mut nothing = Attributes2::default();
    // SAFETY: the argument is a structure of the size that the number names, and outlives the call.
    let result = unsafe { libc::ioctl(gmem.as_raw_fd(), SET_MEMORY_ATTRIBUTES2, &mut nothing) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

fn os_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// `_IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)`.
pub const SET_MEMORY_ATTRIBUTES2: libc::Ioctl =
    0xc000_0000 | (size_of::<Attributes2>() as libc::Ioctl) << 16 | 0xae << 8 | 0xd2;

/// KVM_MEMORY_ATTRIBUTE_PRIVATE.
pub const PRIVATE: u64 = 1 << 3;

/// `struct kvm_memory_attributes2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Attributes2 {
    /// File offset, as the call is made on a guest_memfd.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// [`PRIVATE`], or 0 for shared.
    pub attributes: u64,
    /// None is known.
    pub flags: u64,
    /// Out: where a page kept the call from being made.
    pub error_offset: u64,
    /// Zero.
    pub reserved: [u64; 11],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_has_direction_size_type_and_number() {
        assert_eq!(size_of::<Attributes2>(), 128);
        assert_eq!(SET_MEMORY_ATTRIBUTES2, 0xc080_aed2);
    }
}
