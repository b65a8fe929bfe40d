//! The guest's memory on the host: a memfd whose touched ranges can be read and punched.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};
use tdxlab_protocol::addr::{Gpa, GpaRange};

use crate::machine::Board;

/// Where what does not fit below the hole for devices begins.
const ABOVE: u64 = 4 << 30;

/// Where a guest has the memory that it starts with: from address 0 up to a hole for devices, and from 4
/// GiB on. In the file that it comes from there is no hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    bytes: u64,
    /// Bytes below the hole.
    below: u64,
}

impl Layout {
    /// Of so much memory on a board. Sources: `microvm_memory_init()` and `pc_q35_init()` in QEMU's
    /// hw/i386.
    pub fn of(board: Board, mebibytes: u64) -> Layout {
        let bytes = mebibytes << 20;
        let (most, below) = match board {
            Board::Microvm => (3 << 30, 3 << 30),
            // From there on QEMU splits at a whole GiB.
            Board::Q35 => (0xb000_0000 - 1, 2 << 30),
        };
        let below = if bytes > most { below } else { bytes };
        Layout { bytes, below }
    }

    /// How much there is.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// The address after the last one.
    pub fn end(self) -> Gpa {
        match self.bytes - self.below {
            0 => Gpa::new(self.bytes),
            above => Gpa::new(ABOVE + above),
        }
    }

    /// Where these addresses are in the file, from and to; `None` where some are not in it.
    pub fn offsets(self, range: GpaRange) -> Option<(u64, u64)> {
        let (start, end) = (range.start().as_u64(), range.end().as_u64());
        if end <= self.below {
            return Some((start, end));
        }
        let inside = start >= ABOVE && end <= self.end().as_u64();
        let offset = |gpa: u64| gpa - ABOVE + self.below;
        inside.then(|| (offset(start), offset(end)))
    }

    /// The addresses of a piece of the file.
    pub fn addresses(self, start: u64, end: u64) -> impl Iterator<Item = GpaRange> {
        let piece = |start: u64, end: u64, base: u64| {
            let range = GpaRange::new(Gpa::new(start + base), Gpa::new(end + base));
            range.filter(|range| !range.is_empty())
        };
        let below = piece(start.min(self.below), end.min(self.below), 0);
        let above = piece(
            start.max(self.below),
            end.max(self.below),
            ABOVE - self.below,
        );
        below.into_iter().chain(above)
    }
}

/// The memory of a plain guest.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    layout: Layout,
}

/// Why memory cannot be reached by its GPA.
#[derive(Debug, thiserror::Error)]
pub enum OutOfReach {
    /// It is not in the file.
    #[error(
        "{0} is not in the memory that the guest was started with, which is what the lab holds"
    )]
    Elsewhere(GpaRange),
    /// The host refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl GuestMemory {
    /// Allocates as much memory, lazily.
    ///
    /// # Errors
    ///
    /// The machine lacks the memory.
    pub fn new(layout: Layout) -> io::Result<GuestMemory> {
        let file = File::from(memfd_create("guest-memory", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(layout.bytes)?;
        Ok(GuestMemory { file, layout })
    }

    /// Where the guest has it.
    pub fn layout(&self) -> Layout {
        self.layout
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
    /// The range is not in it, or the host refused.
    pub fn punch(&self, range: GpaRange) -> Result<(), OutOfReach> {
        let offsets = self.layout.offsets(range).filter(|_| !range.is_empty());
        let (start, end) = offsets.ok_or(OutOfReach::Elsewhere(range))?;
        let number = |value: u64| libc::off_t::try_from(value).map_err(io::Error::other);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, number(start)?, number(end - start)?)
            .map_err(io::Error::from)?;
        Ok(())
    }

    /// The allocated ranges, by address: touched by the guest or its firmware, and not punched
    /// since.
    ///
    /// # Errors
    ///
    /// SEEK_DATA fails.
    pub fn touched(&self) -> io::Result<Vec<GpaRange>> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while let Some(start) = self.seek(at, Whence::SeekData)? {
            let end = self
                .seek(start, Whence::SeekHole)?
                .unwrap_or(self.layout.bytes);
            ranges.extend(self.layout.addresses(start, end));
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
        let memory = GuestMemory::new(Layout::of(Board::Microvm, 16)).unwrap();
        assert_eq!(memory.touched().unwrap(), []);
        memory.file.write_all_at(&[1; 0x3000], 0x40_0000).unwrap();
        assert_eq!(memory.touched().unwrap(), [range(0x40_0000, 0x40_3000)]);
        memory.punch(range(0x40_1000, 0x40_2000)).unwrap();
        assert_eq!(
            memory.touched().unwrap(),
            [range(0x40_0000, 0x40_1000), range(0x40_2000, 0x40_3000)]
        );
    }

    /// Memory above the hole, which takes no space while nobody touches it.
    #[rstest::rstest]
    #[case::microvm(Board::Microvm, 3 << 30)]
    #[case::q35(Board::Q35, 2 << 30)]
    fn memory_above_the_hole_is_seen_and_punched_by_its_address(
        #[case] board: Board,
        #[case] below: u64,
    ) {
        let memory = GuestMemory::new(Layout::of(board, 6 << 10)).unwrap();
        memory
            .file
            .write_all_at(&[1; 0x2000], below - 0x1000)
            .unwrap();
        let four = 4 << 30;
        let (last, first) = (range(below - 0x1000, below), range(four, four + 0x1000));
        assert_eq!(memory.touched().unwrap(), [last, first]);
        memory.punch(first).unwrap();
        assert_eq!(memory.touched().unwrap(), [last]);
        let end = memory.layout().end().as_u64();
        assert_eq!(end - four + below, 6 << 30);
        for none in [range(below, four), range(end, end + 0x1000), range(0, four)] {
            assert_eq!(memory.layout().offsets(none), None, "{none}");
        }
    }

    #[test]
    fn a_board_splits_only_what_does_not_fit_below_its_hole() {
        let end = |board, mebibytes| Layout::of(board, mebibytes).end().as_u64() >> 20;
        assert_eq!(end(Board::Microvm, 3072), 3072);
        assert_eq!(end(Board::Microvm, 3073), 4097);
        assert_eq!(end(Board::Q35, 2815), 2815);
        assert_eq!(end(Board::Q35, 2816), 4096 + 768);
    }

    #[test]
    fn a_hole_elsewhere_is_refused() {
        let memory = GuestMemory::new(Layout::of(Board::Microvm, 16)).unwrap();
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
