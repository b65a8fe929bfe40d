//! RAM of the QEMU process, mapped into the lab: size, address, access.
//!
//! One QEMU may run several guests, one after the other, each with a pool of its own size: sizes of
//! RAM are few, so that a QEMU fits many guests.
//!
//! The guest runs meanwhile, so all access is atomic.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::layout::HOST_POOL_START;
use tdxlab_softkvm::Pfn;

use crate::software;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 1 << 12;

/// RAM of this size or more is split by q35: [`LOW_WHEN_SPLIT`] below 4 GiB, the rest above
/// (`pc_q35_init()` in hw/i386/pc_q35.c).
const SPLIT_FROM: u64 = 0xb000_0000;
const _: () = assert!(SMALL < SPLIT_FROM);

/// Bytes of RAM where they are enough: all of them below 4 GiB.
const SMALL: u64 = 2 << 30;

/// Bytes below 4 GiB when RAM is split.
const LOW_WHEN_SPLIT: u64 = 0x8000_0000;

/// Where the rest of RAM that is split begins.
const HIGH: u64 = 4 << 30;

/// Largest pool. RAM is sparse, so this costs address space only; 2M leaves scattered over a
/// 16 TiB guest each take 2M of it.
pub(super) const LARGEST_POOL: u64 = 64 << 30;

/// RAM of a machine, and the part used by the soft host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RamLayout {
    /// Size of the RAM in bytes, a multiple of a MiB.
    pub(super) bytes: u64,
    /// Machine addresses of the pool.
    pool: Range<u64>,
}

impl RamLayout {
    /// Enough RAM for all that test memory can need, up to the largest pool.
    pub(super) fn for_memory(memory: GpaRange) -> RamLayout {
        let pool = software::machine_bytes(memory)
            .next_multiple_of(2 * MIB)
            .min(LARGEST_POOL);
        if HOST_POOL_START + pool <= SMALL {
            RamLayout {
                bytes: SMALL,
                pool: HOST_POOL_START..HOST_POOL_START + pool,
            }
        } else {
            // Above 4 GiB the pool is in one piece.
            RamLayout {
                bytes: LOW_WHEN_SPLIT + LARGEST_POOL,
                pool: HIGH..HIGH + pool,
            }
        }
    }

    /// Frames of the pool.
    pub(super) fn pool(&self) -> Range<Pfn> {
        Pfn(self.pool.start / PAGE)..Pfn(self.pool.end / PAGE)
    }
}

/// Offset of a machine address in the file behind the RAM.
fn offset(address: u64) -> u64 {
    if address < HIGH {
        address
    } else {
        address - HIGH + LOW_WHEN_SPLIT
    }
}

/// The RAM, mapped.
#[derive(Debug)]
pub(super) struct Ram {
    start: NonNull<libc::c_void>,
    bytes: u64,
    file: File,
}

// SAFETY: the mapping is only reached through atomics, which may be used from any thread.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// Maps the file behind so many bytes of RAM.
    pub(super) fn map(file: OwnedFd, bytes: u64) -> io::Result<Ram> {
        let file = File::from(file);
        let length = usize::try_from(bytes)
            .ok()
            .and_then(NonZero::new)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let size = file.metadata()?.len();
        if size < bytes {
            return Err(io::Error::other(format!(
                "the file behind the RAM has {size} bytes, not {bytes}"
            )));
        }
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no other.
        let start = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
                &file,
                0,
            )
        }?;
        let ram = Ram { start, bytes, file };
        // SAFETY: the mapping is ours. Children of the lab have no use for it.
        unsafe { madvise(ram.start, length.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(ram)
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The word of 8 bytes at a machine address.
    ///
    /// # Panics
    ///
    /// The address is not aligned or not RAM. Addresses come from the lab alone.
    pub(super) fn word64(&self, address: u64) -> &AtomicU64 {
        let place = self.place(address, 8);
        // SAFETY: `place` lies in the mapping, aligned, and is only reached through atomics.
        unsafe { AtomicU64::from_ptr(place.cast().as_ptr()) }
    }

    /// The word of 4 bytes at a machine address.
    ///
    /// # Panics
    ///
    /// As for [`Ram::word64`].
    pub(super) fn word32(&self, address: u64) -> &AtomicU32 {
        let place = self.place(address, 4);
        // SAFETY: as for `word64`.
        unsafe { AtomicU32::from_ptr(place.cast().as_ptr()) }
    }

    fn place(&self, address: u64, bytes: u64) -> NonNull<u8> {
        let offset = offset(address);
        assert!(
            offset.is_multiple_of(bytes) && offset <= self.bytes - bytes,
            "machine address {address:#x} is no word of the RAM"
        );
        // SAFETY: the offset was checked against the size of the mapping.
        unsafe { self.start.cast::<u8>().add(offset as usize) }
    }

    /// Fills frames with zeros, through the file: the lab's own memory does not grow by it.
    pub(super) fn zero(&self, first: Pfn, count: u64) -> io::Result<()> {
        /// From here on, giving the pages back is cheaper than writing them.
        const MANY: u64 = 16;
        static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

        let offset = offset(first.address());
        if count >= MANY {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let range = (offset.cast_signed(), (count * PAGE).cast_signed());
            return Ok(fallocate(&self.file, hole, range.0, range.1)?);
        }
        for page in 0..count {
            self.file.write_all_at(&ZEROS, offset + page * PAGE)?;
        }
        Ok(())
    }

    /// Copies a frame, through the file.
    pub(super) fn copy(&self, from: Pfn, to: Pfn) -> io::Result<()> {
        let mut page = [0; PAGE as usize];
        self.file.read_exact_at(&mut page, offset(from.address()))?;
        self.file.write_all_at(&page, offset(to.address()))
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: no borrow of the mapping is left.
        let _ = unsafe { munmap(self.start, self.bytes as usize) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use tdxlab_protocol::addr::Gpa;

    use super::*;

    /// RAM without a QEMU, for test memory of this size.
    pub(crate) fn ram(memory: u64) -> Ram {
        let bytes = layout(memory).bytes;
        let file = File::from(memfd_create(c"tdxlab-test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(bytes).unwrap();
        Ram::map(file.into(), bytes).unwrap()
    }

    pub(crate) fn layout(memory: u64) -> RamLayout {
        RamLayout::for_memory(GpaRange::with_len(Gpa::new(1 << 30), memory).unwrap())
    }

    #[test]
    fn small_ram_stays_below_the_hole_of_q35() {
        let small = layout(64 * MIB);
        assert_eq!(small.bytes, SMALL);
        assert_eq!(small.pool().start, Pfn(HOST_POOL_START / PAGE));
        let bytes = (small.pool().end.0 - small.pool().start.0) * PAGE;
        assert!(
            (128 * MIB..256 * MIB).contains(&bytes),
            "{bytes}: what test memory can need, no more"
        );
        assert_eq!(offset(0x1234_5000), 0x1234_5000);
    }

    #[test]
    fn large_ram_has_its_pool_above_it_and_is_bounded() {
        let large = layout(16 << 40);
        assert_eq!(large.pool().start, Pfn(HIGH / PAGE));
        assert_eq!(large.bytes, LOW_WHEN_SPLIT + LARGEST_POOL);
        assert_eq!(offset(HIGH), LOW_WHEN_SPLIT);
        assert_eq!(offset((large.pool().end.0 - 1) * PAGE), large.bytes - PAGE);
    }

    #[test]
    fn frames_are_zeroed_and_copied_wherever_they_lie() {
        for memory in [64 * MIB, 16 << 40] {
            let ram = ram(memory);
            let first = layout(memory).pool().start;
            for count in [1, 15, 16, 512] {
                for frame in 0..=count {
                    ram.word64(first.add(frame).address() + 8).store(7, SeqCst);
                }
                ram.zero(first, count).unwrap();
                for frame in 0..count {
                    assert_eq!(ram.word64(first.add(frame).address() + 8).load(SeqCst), 0);
                }
                let beyond = first.add(count);
                assert_eq!(ram.word64(beyond.address() + 8).load(SeqCst), 7);
                ram.copy(beyond, first).unwrap();
                assert_eq!(ram.word64(first.address() + 8).load(SeqCst), 7);
            }
        }
    }

    #[test]
    #[should_panic(expected = "no word of the RAM")]
    fn an_address_outside_is_refused() {
        let ram = ram(64 * MIB);
        ram.word64(ram.bytes);
    }
}
