//! KVM_SET_MEMORY_ATTRIBUTES2 on a guest_memfd.
//!
//! Source: include/uapi/linux/kvm.h of the series that converts in place, v8 and later. A kernel without it,
//! or with `kvm.gmem_in_place_conversion` off, answers ENOTTY.

use std::os::fd::{AsFd, AsRawFd};

use tdxlab_kernel::gmem_attributes::{Attributes2, PRIVATE, SET_MEMORY_ATTRIBUTES2};
use tdxlab_protocol::addr::Side;

use super::layout::Piece;

/// How a call that changes a guest_memfd ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// 0 for success.
    pub errno: i32,
    /// File offset at which the kernel says that it stopped.
    pub stopped_at: Option<u64>,
}

/// Makes a piece private or shared.
pub(super) fn set(file: impl AsFd, piece: &Piece, to: Side) -> Changed {
    let mut argument = Attributes2 {
        offset: piece.offset,
        size: piece.bytes,
        attributes: match to {
            Side::Private => PRIVATE,
            Side::Shared => 0,
        },
        ..Attributes2::default()
    };
    loop {
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: the argument is a structure of the size that the number names, and outlives the call.
        let result = unsafe { libc::ioctl(fd, SET_MEMORY_ATTRIBUTES2, &mut argument) };
        if result >= 0 {
            return Changed::default();
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => {}
            errno => {
                let errno = errno.unwrap_or(libc::EIO);
                return Changed {
                    errno,
                    // Only a page that is held has a place in the file.
                    stopped_at: (errno == libc::EAGAIN).then_some(argument.error_offset),
                };
            }
        }
    }
}
