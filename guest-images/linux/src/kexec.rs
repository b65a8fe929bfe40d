//! Boots the same kernel again, by kexec.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use tdxlab_protocol::linux::{Failure, KEXEC_INITRD, KEXEC_KERNEL};

use crate::failure::{Doing, refuse};

/// Word on the kernel command line of a kernel started by kexec.
pub(crate) const MARK: &str = "tdxlab_kexec";

/// Loads the kernel and the initramfs that are in the image.
pub(crate) fn load(append: &str) -> Result<(), Failure> {
    if !append.is_ascii() || append.contains('\0') {
        return Err(refuse("the command line is not plain text"));
    }
    let kernel = File::open(KEXEC_KERNEL).doing(KEXEC_KERNEL)?;
    let initrd = File::open(KEXEC_INITRD).doing(KEXEC_INITRD)?;
    let line = format!("{append} {MARK}\0");
    // SAFETY: the descriptors are open, and `line` is zero-terminated and has the given length.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            line.len(),
            line.as_ptr(),
            0_u64,
        )
    };
    Errno::result(result).map(drop).doing("kexec_file_load")
}

/// Jumps into the loaded kernel.
pub(crate) fn jump() -> io::Result<Infallible> {
    nix::unistd::sync();
    Ok(reboot(RebootMode::RB_KEXEC)?)
}
