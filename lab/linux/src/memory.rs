//! The guest's memory on the host: a memfd whose touched ranges can be read and punched.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};
use tdxlab_protocol::addr::{Gpa, GpaRange};

use crate::machine::ONE_PIECE;

/// The memory of a plain guest.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    bytes: u64,
}

/// Why memory cannot be reached by its GPA.
#[derive(Debug, thiserror::Error)]
pub enum OutOfReach {
    /// It is outside the guest, or at another offset than its GPA.
    #[error(
        "{0} is not in the first 2 GiB of the guest's memory, where offset and GPA are the same"
    )]
    Elsewhere(GpaRange),
    /// The host refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl GuestMemory {
    /// Allocates memory of that size, lazily.
    ///
    /// # Errors
    ///
    /// The machine lacks the memory.
    pub fn new(mebibytes: u64) -> io::Result<GuestMemory> {
        let file = File::from(memfd_create("guest-memory", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(mebibytes << 20)?;
        Ok(GuestMemory {
            file,
            bytes: mebibytes << 20,
        })
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file, for QEMU to inherit.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn duplicate(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Punches a range: its content is lost, and the guest reads zeros.
    ///
    /// # Errors
    ///
    /// Offset and GPA differ in the range, or the host refused.
    pub fn punch(&self, range: GpaRange) -> Result<(), OutOfReach> {
        if range.end().as_u64() > self.bytes.min(ONE_PIECE) || range.is_empty() {
            return Err(OutOfReach::Elsewhere(range));
        }
        let number = |value: u64| libc::off_t::try_from(value).map_err(io::Error::other);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(
            &self.file,
            flags,
            number(range.start().as_u64())?,
            number(range.bytes())?,
        )
        .map_err(io::Error::from)?;
        Ok(())
    }

    /// The allocated ranges, as offsets: touched by the guest or its firmware, and not punched
    /// since.
    ///
    /// # Errors
    ///
    /// SEEK_DATA fails.
    pub fn touched(&self) -> io::Result<Vec<GpaRange>> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while let Some(start) = self.seek(at, Whence::SeekData)? {
            let end = self.seek(start, Whence::SeekHole)?.unwrap_or(self.bytes);
            ranges.extend(GpaRange::new(Gpa::new(start), Gpa::new(end)));
            at = end;
        }
        Ok(ranges)
    }

    fn seek(&self, from: u64, whence: Whence) -> io::Result<Option<u64>> {
        let from = i64::try_from(from).map_err(io::Error::other)?;
        match lseek(&self.file, from, whence) {
            Ok(found) => u64::try_from(found).map(Some).map_err(io::Error::other),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Number of the descriptor in this process.
    pub fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[test]
    fn what_was_touched_is_seen_and_goes_with_a_hole() {
        let memory = GuestMemory::new(16).unwrap();
        assert_eq!(memory.touched().unwrap(), []);
        memory.file.write_all_at(&[1; 0x3000], 0x40_0000).unwrap();
        assert_eq!(memory.touched().unwrap(), [range(0x40_0000, 0x40_3000)]);
        memory.punch(range(0x40_1000, 0x40_2000)).unwrap();
        assert_eq!(
            memory.touched().unwrap(),
            [range(0x40_0000, 0x40_1000), range(0x40_2000, 0x40_3000)]
        );
    }

    #[test]
    fn a_hole_elsewhere_is_refused() {
        let memory = GuestMemory::new(16).unwrap();
        for hole in [
            range(0, 0),
            range(0x80_0000, 0x100_1000),
            range(1 << 32, (1 << 32) + 0x1000),
        ] {
            assert!(
                matches!(memory.punch(hole), Err(OutOfReach::Elsewhere(_))),
                "{hole}"
            );
        }
    }
}
