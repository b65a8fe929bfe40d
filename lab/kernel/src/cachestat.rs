//! Populated pages of a file, through `cachestat(2)` (Linux 6.5 or newer).
//!
//! On a guest_memfd it counts pages that are allocated, whether the guest has accepted them or
//! not. `st_blocks` is always 0 there and `mincore` sees nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::stat::{SFlag, fstat};
use tdxlab_journal::Reading;

/// Number of the system call, the same on all architectures.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat` of include/uapi/linux/mman.h. All in pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStat {
    /// Pages in the page cache.
    pub cached: u64,
    /// Dirty pages.
    pub dirty: u64,
    /// Of them, being written back.
    pub writeback: u64,
    /// Pages that were evicted.
    pub evicted: u64,
    /// Pages evicted recently.
    pub recently_evicted: u64,
}

/// `struct cachestat_range`.
#[repr(C)]
struct Range {
    offset: u64,
    bytes: u64,
}

/// Asks for `bytes` bytes from `offset`. As in the system call, 0 bytes means up to the end.
///
/// # Errors
///
/// ENOSYS before Linux 6.5; EPERM where newer kernels want a writable file; EOPNOTSUPP for hugetlb
/// files.
pub fn cachestat(file: impl AsFd, offset: u64, bytes: u64) -> io::Result<CacheStat> {
    let range = Range { offset, bytes };
    let mut stat = CacheStat::default();
    // SAFETY: both structures are laid out as the kernel's and live through the call.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_fd().as_raw_fd(),
            &raw const range,
            &raw mut stat,
            0,
        )
    };
    match result {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Populated 4K pages in the pieces (offset and length in bytes) of a file.
pub fn populated(file: impl AsFd, pieces: &[(u64, u64)]) -> Reading<u64> {
    // For a pipe or a socket the kernel reports 0 pages, which is not a reading.
    match fstat(&file) {
        Ok(status) if status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() => {}
        Ok(_) => return Reading::missing("cachestat: not a file with pages"),
        Err(error) => return Reading::missing(format!("fstat: {error}")),
    }
    let mut pages = 0;
    for &(offset, bytes) in pieces.iter().filter(|(_, bytes)| *bytes > 0) {
        match cachestat(file.as_fd(), offset, bytes) {
            Ok(stat) => pages += stat.cached,
            Err(error) => {
                let advice = match error.raw_os_error() {
                    Some(libc::ENOSYS) => "; it came with Linux 6.5",
                    Some(libc::EPERM) => "; it wants a writable file or its owner",
                    _ => "",
                };
                return Reading::missing(format!("cachestat: {error}{advice}"));
            }
        }
    }
    Reading::Read(pages)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use nix::fcntl::{FallocateFlags, fallocate};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    /// Counts the pages of a real memfd; on a kernel without cachestat the reading says so.
    #[test]
    fn pages_of_a_memfd_are_counted() {
        let file = File::from(memfd_create(c"tdxlab-test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(1 << 20).unwrap();
        for page in [0, 1, 7, 255] {
            file.write_all_at(b"x", page * 4096).unwrap();
        }
        let pieces = [(0, 8 * 4096), (8 * 4096, 0), (128 * 4096, 128 * 4096)];
        match populated(&file, &pieces) {
            Reading::Read(pages) => {
                assert_eq!(pages, 4);
                let hole =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&file, hole, 4096, 4096).unwrap();
                assert_eq!(populated(&file, &pieces), Reading::Read(3));
            }
            Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
                assert!(reason.contains("Linux 6.5"), "{reason}");
            }
        }
    }

    #[test]
    fn a_pipe_has_no_page_cache() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert!(populated(&read, &[(0, 4096)]).value().is_none());
    }
}
