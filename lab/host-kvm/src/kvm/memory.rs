//! Test memory on the host: the memfd behind it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use tdxlab_host::{HostError, OnHost};
use tdxlab_journal::Reading;
use tdxlab_kernel::cachestat;
use tdxlab_plan::HostKind;
use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_qemu::{Process, QemuError, fds};

/// The memfd, of which offset 0 is the start of test memory.
#[derive(Debug)]
pub(super) struct TestMemory {
    file: OwnedFd,
    memory: GpaRange,
}

/// Makes a file for test memory where QEMU's own would not do, by the name that QEMU gives its.
pub(super) fn file(memory: GpaRange) -> Result<OwnedFd, QemuError> {
    let doing = || QemuError::system("making a file for test memory");
    let file = memfd_create(c"memory-backend-memfd", MFdFlags::MFD_CLOEXEC)
        .map_err(|error| doing()(error.into()))?;
    let bytes = i64::try_from(memory.bytes()).map_err(|error| doing()(io::Error::other(error)))?;
    ftruncate(&file, bytes).map_err(|error| doing()(error.into()))?;
    Ok(file)
}

impl TestMemory {
    /// Takes it from QEMU: of its two files, the one as large as test memory that was made last.
    pub(super) fn take(process: &Process, memory: GpaRange) -> Result<TestMemory, HostError> {
        let files =
            fds::take(process, fds::MEMORY_BACKEND).map_err(|error| error.on(HostKind::Kvm))?;
        let found: Vec<String> = files
            .iter()
            .map(|file| format!("{:#x}", file.bytes))
            .collect();
        let newest = files.into_iter().max_by_key(|file| file.number);
        match newest.filter(|file| file.bytes == memory.bytes()) {
            Some(file) => Ok(TestMemory {
                file: file.file,
                memory,
            }),
            None => Err(HostError::Qemu {
                what: format!(
                    "has memory files of {} bytes, and the last is not test memory",
                    found.join(" and ")
                ),
                advice: "holes would hit the wrong pages; please report this with QEMU's version"
                    .to_owned(),
            }),
        }
    }

    /// All of it.
    pub(super) const fn range(&self) -> GpaRange {
        self.memory
    }

    /// fallocate(PUNCH_HOLE | KEEP_SIZE); its errno.
    pub(super) fn punch(&self, range: GpaRange) -> i32 {
        self.fallocate(
            FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
            range,
        )
    }

    /// fallocate(KEEP_SIZE); returns errno, 0 for success.
    pub(super) fn allocate(&self, range: GpaRange) -> i32 {
        self.fallocate(FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
    }

    fn fallocate(&self, mode: FallocateFlags, range: GpaRange) -> i32 {
        let offset = range.start().checked_sub(self.memory.start());
        let numbers = offset.zip(Some(range.bytes()));
        let numbers = numbers.and_then(|(offset, bytes)| {
            Some((i64::try_from(offset).ok()?, i64::try_from(bytes).ok()?))
        });
        match numbers.map(|(offset, bytes)| fallocate(&self.file, mode, offset, bytes)) {
            Some(Ok(())) => 0,
            Some(Err(errno)) => errno as i32,
            None => Errno::EINVAL as i32,
        }
    }

    /// Populated 4K pages, and the source. The page cache first, which does not cover hugetlb and
    /// old kernels; then `st_blocks`.
    pub(super) fn populated(&self) -> (Reading<u64>, String) {
        let cached = cachestat::populated(self.file.as_fd(), &[(0, self.memory.bytes())]);
        let why = match cached {
            Reading::Read(_) => return (cached, "cachestat(2)".to_owned()),
            Reading::Missing { reason } | Reading::Incomplete { reason, .. } => reason,
        };
        let source = format!("st_blocks of the file, as there is no {why}");
        let blocks = fstat(&self.file).map_err(|error| error.to_string());
        let bytes = blocks.and_then(|status| {
            let blocks = u64::try_from(status.st_blocks).map_err(|error| error.to_string())?;
            Ok(blocks * 512)
        });
        match bytes {
            Ok(bytes) => (Reading::Read(bytes / PageLevel::Size4K.bytes()), source),
            Err(error) => (Reading::missing(format!("fstat: {error}; {why}")), source),
        }
    }
}
