//! The pages of a buffer: anonymous memory or hugetlb pages, mapped, and their physical extents.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_protocol::linux::{Failure, Pages};
use tdxlab_protocol::pattern::WORDS;

use crate::failure::{Doing, refuse};

const PAGE: usize = PageLevel::Size4K.bytes() as usize;
const HUGE: usize = PageLevel::Size2M.bytes() as usize;

/// `MADV_POPULATE_WRITE`: makes all pages present, or fails where a touch would kill.
const POPULATE_WRITE: i32 = 23;

/// Bytes that stay free for all other uses when a buffer is made.
const RESERVE: u64 = 24 << 20;

/// The words of one page.
pub(crate) type Words = [u64; WORDS];

/// Mapped memory, aligned to 2M. Unmapped when dropped.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    /// All that was mapped, alignment included.
    whole: (NonNull<u8>, NonZeroUsize),
}

impl Mapping {
    /// Maps `bytes` without populating them.
    pub(crate) fn new(bytes: u64, pages: Pages) -> Result<Mapping, Failure> {
        let hugetlb = pages == Pages::Hugetlb2M;
        let unit = if hugetlb { HUGE } else { PAGE };
        let size = usize::try_from(bytes)
            .ok()
            .filter(|&size| size != 0 && size % unit == 0);
        let size = size.ok_or_else(|| refuse(&format!("{bytes} bytes are not whole pages")))?;
        let (flags, spare) = match hugetlb {
            true => (MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB, 0),
            false => (MapFlags::MAP_NORESERVE, HUGE),
        };
        let length = size.checked_add(spare).and_then(NonZeroUsize::new);
        let length = length.ok_or_else(|| refuse("more than an address can say"))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new private mapping where the kernel wants it touches no other.
        let mapped =
            unsafe { mmap_anonymous(None, length, protection, flags | MapFlags::MAP_PRIVATE) };
        let mapped = mapped.doing("mapping a buffer")?.cast::<u8>();
        let skip = mapped.as_ptr().align_offset(HUGE).min(spare);
        let mapping = Mapping {
            // SAFETY: `skip` is at most the spare part of the mapping.
            start: unsafe { mapped.add(skip) },
            bytes: size,
            whole: (mapped, length),
        };
        // A child of a load must not copy pages that the agent writes to meanwhile.
        mapping.advise(0, size, MmapAdvise::MADV_DONTFORK)?;
        match pages {
            Pages::Small => mapping.advise(0, size, MmapAdvise::MADV_NOHUGEPAGE)?,
            // A kernel without transparent huge pages refuses; it then has none to give.
            Pages::Transparent => drop(mapping.advise(0, size, MmapAdvise::MADV_HUGEPAGE)),
            Pages::Hugetlb2M | Pages::Kernel => {}
        }
        Ok(mapping)
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn advise(&self, from: usize, bytes: usize, advice: MmapAdvise) -> Result<(), Failure> {
        // SAFETY: the range is in the mapping, and no such advice changes its content.
        unsafe { madvise(self.start.add(from).cast(), bytes, advice) }.doing("madvise")
    }

    /// Makes pages present.
    pub(crate) fn populate(&self, first: u32, count: u32) -> Result<(), Failure> {
        let from = first as usize * PAGE;
        let bytes = count as usize * PAGE;
        assert!(from + bytes <= self.bytes, "pages beyond the buffer");
        // SAFETY: the range lies in the mapping; its content stays.
        let result =
            unsafe { libc::madvise(self.start.add(from).as_ptr().cast(), bytes, POPULATE_WRITE) };
        Errno::result(result)
            .map(drop)
            .doing("making pages of a buffer present")
    }

    /// Gives pages back to the kernel.
    pub(crate) fn give_back(&self, first: u32, count: u32) -> Result<(), Failure> {
        let (from, bytes) = (first as usize * PAGE, count as usize * PAGE);
        assert!(from + bytes <= self.bytes, "pages beyond the buffer");
        self.advise(from, bytes, MmapAdvise::MADV_DONTNEED)
    }

    /// Where pages lie now; `None` for one that is not there.
    pub(crate) fn places(&self, first: u32, count: u32) -> Result<Vec<Option<Gpa>>, Failure> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        let mut entries = vec![0; count as usize * 8];
        let index = self.start.as_ptr().addr() / PAGE + first as usize;
        File::open("/proc/self/pagemap")
            .and_then(|pagemap| pagemap.read_exact_at(&mut entries, index as u64 * 8))
            .doing("/proc/self/pagemap")?;
        let entries = entries
            .as_chunks()
            .0
            .iter()
            .map(|&entry| u64::from_le_bytes(entry));
        Ok(entries
            // Unprivileged readers get frame 0.
            .map(|entry| Some(entry & FRAME).filter(|&gfn| entry & PRESENT != 0 && gfn != 0))
            .map(|gfn| gfn.map(Gpa::from_gfn))
            .collect())
    }

    fn page(&self, page: u32) -> NonNull<Words> {
        let from = page as usize * PAGE;
        assert!(from < self.bytes, "page beyond the buffer");
        // SAFETY: the page lies in the mapping.
        unsafe { self.start.add(from) }.cast()
    }

    /// Copies a page out.
    pub(crate) fn read(&self, page: u32, into: &mut Words) {
        // SAFETY: the page is mapped and aligned, and there is no other reference to it.
        unsafe {
            self.page(page)
                .copy_to_nonoverlapping(NonNull::from(into), 1)
        }
    }

    /// Copies a page in.
    pub(crate) fn write(&mut self, page: u32, words: &Words) {
        // SAFETY: as in `read`.
        unsafe {
            self.page(page)
                .copy_from_nonoverlapping(NonNull::from(words), 1)
        }
    }

    /// How many of its bytes Linux maps with 2M pages, by /proc/self/smaps.
    pub(crate) fn huge_bytes(&self) -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let begin = self.start.as_ptr().addr();
        let end = begin + self.bytes;
        let mut inside = false;
        let mut kibibytes = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
                inside = number(from) < end && number(to) > begin;
            } else if inside && matches!(first, "AnonHugePages:" | "Private_Hugetlb:") {
                kibibytes += words
                    .next()
                    .and_then(|n| n.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        }
        (kibibytes << 10).min(self.bytes())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, length) = self.whole;
        // SAFETY: the mapping belongs to this buffer, and no reference to it is left.
        let unmapped = unsafe { munmap(start.cast(), length.get()) };
        unmapped.expect("a mapping can be unmapped");
    }
}

/// Refuses a buffer that exceeds the guest's memory: Linux would kill its first process sooner or
/// later.
pub(crate) fn check_room(bytes: u64) -> Result<(), Failure> {
    let info = fs::read_to_string("/proc/meminfo").doing("/proc/meminfo")?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let available = available.ok_or_else(|| refuse("/proc/meminfo says no MemAvailable"))? << 10;
    if bytes.saturating_add(RESERVE) <= available {
        return Ok(());
    }
    Err(Failure {
        errno: libc::ENOMEM,
        ..refuse(&format!(
            "{} MiB of memory, with {} MiB to be had",
            bytes >> 20,
            available >> 20
        ))
    })
}
