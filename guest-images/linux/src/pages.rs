//! Kernel pages, through the lab's module: Linux converts them like its own.
//!
//! See `guest-images/linux/module/tdxlab_pages.c`, which these definitions must agree with.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tdxlab_protocol::addr::{Gpa, PageLevel, Side};
use tdxlab_protocol::linux::Failure;

use crate::failure::{Doing, refuse};
use crate::memory::Words;

const DEVICE: &str = "/dev/tdxlab-pages";
const PAGE: u64 = PageLevel::Size4K.bytes();

/// `struct tdxlab_pages_alloc`.
#[repr(C)]
struct Alloc {
    order: u32,
    reserved: u32,
    gpa: u64,
}

/// `struct tdxlab_pages_convert`.
#[repr(C)]
struct Convert {
    first: u32,
    count: u32,
    shared: u32,
    reserved: u32,
}

nix::ioctl_readwrite!(pages_alloc, b'x', 0xd0, Alloc);
nix::ioctl_write_ptr!(pages_convert, b'x', 0xd1, Convert);

/// Whether the module is loaded.
pub(crate) fn available() -> bool {
    Path::new(DEVICE).exists()
}

/// One block of the kernel's memory. Given back when dropped.
pub(crate) struct KernelPages {
    device: File,
    start: Gpa,
    pages: u32,
}

impl KernelPages {
    /// Takes a block.
    pub(crate) fn new(bytes: u64) -> Result<KernelPages, Failure> {
        if !bytes.is_power_of_two() || bytes < PAGE {
            return Err(refuse("the kernel's blocks are 4K times a power of two"));
        }
        let device = File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .doing(DEVICE)?;
        let order = (bytes / PAGE).trailing_zeros();
        let mut alloc = Alloc {
            order,
            reserved: 0,
            gpa: 0,
        };
        // SAFETY: the argument has the layout that the module reads and writes.
        unsafe { pages_alloc(device.as_raw_fd(), &mut alloc) }
            .doing("taking pages of the kernel")?;
        Ok(KernelPages {
            device,
            start: Gpa::new(alloc.gpa),
            pages: 1 << order,
        })
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE
    }

    /// GPAs of pages.
    pub(crate) fn places(&self, first: u32, count: u32) -> Vec<Option<Gpa>> {
        let gfn = self.start.gfn() + u64::from(first);
        (gfn..gfn + u64::from(count))
            .map(|gfn| Some(Gpa::from_gfn(gfn)))
            .collect()
    }

    /// Converts pages.
    pub(crate) fn convert(&mut self, first: u32, count: u32, to: Side) -> Result<(), Failure> {
        let convert = Convert {
            first,
            count,
            shared: u32::from(to == Side::Shared),
            reserved: 0,
        };
        // SAFETY: the argument has the layout that the module reads.
        unsafe { pages_convert(self.device.as_raw_fd(), &convert) }
            .map(drop)
            .doing("converting pages of the kernel")
    }

    /// Copies a page out.
    pub(crate) fn read(&self, page: u32, into: &mut Words) -> Result<(), Failure> {
        let mut bytes = [0; PAGE as usize];
        self.device
            .read_exact_at(&mut bytes, u64::from(page) * PAGE)
            .doing("reading a page of the kernel")?;
        for (word, bytes) in into.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(())
    }

    /// Copies a page in.
    pub(crate) fn write(&mut self, page: u32, words: &Words) -> Result<(), Failure> {
        let bytes = words.map(u64::to_le_bytes);
        self.device
            .write_all_at(bytes.as_flattened(), u64::from(page) * PAGE)
            .doing("writing a page of the kernel")
    }
}
