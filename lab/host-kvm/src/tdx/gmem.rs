//! The guest_memfd of main memory: finding, duplicating, punching and counting it.
//!
//! QEMU makes one guest_memfd per block of memory and names none of them. Main memory's is the one
//! of main memory's size; the image's is the one of the image's size.

use std::os::fd::AsFd;

use nix::fcntl::{FallocateFlags, fallocate};
use tdxlab_journal::Reading;
use tdxlab_kernel::cachestat;
use tdxlab_protocol::addr::{GpaRange, Side};
use tdxlab_qemu::fds::{self, TakenFile};
use tdxlab_qemu::{Process, QemuError};

use super::layout::{Piece, RamLayout};
use super::set_attributes as attributes;
pub use super::set_attributes::Changed;

/// The guest_memfds of a TD. Drop them before QEMU's end is judged: they keep the VM alive.
#[derive(Debug)]
pub struct Gmems {
    /// guest_memfd of main memory.
    pub ram: TakenFile,
    /// guest_memfd of the image.
    pub image: Option<TakenFile>,
}

/// Finds and duplicates them.
///
/// # Errors
///
/// There is none, none or more than one of main memory's size, or the kernel refuses.
pub fn take(process: &Process, ram_bytes: u64, image_bytes: u64) -> Result<Gmems, QemuError> {
    pick(
        fds::take(process, fds::GUEST_MEMFD)?,
        ram_bytes,
        image_bytes,
    )
}

/// Identifies them by size.
fn pick(files: Vec<TakenFile>, ram_bytes: u64, image_bytes: u64) -> Result<Gmems, QemuError> {
    let sizes: Vec<u64> = files.iter().map(|file| file.bytes).collect();
    let (mut ram, mut image) = (Vec::new(), Vec::new());
    for file in files {
        if file.bytes == ram_bytes {
            ram.push(file);
        } else if file.bytes == image_bytes {
            image.push(file);
        }
    }
    match (ram.pop(), ram.is_empty()) {
        (Some(ram), true) => Ok(Gmems {
            ram,
            // Of two with that size, the image's is unknown.
            image: image.pop().filter(|_| image.is_empty()),
        }),
        (found, _) => Err(QemuError::NoSuchFile {
            wanted: format!("exactly one guest_memfd of {ram_bytes} bytes"),
            found: format!(
                "{} of that size among those of {}",
                if found.is_some() { ram.len() + 1 } else { 0 },
                sizes
                    .iter()
                    .map(u64::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        }),
    }
}

/// Change of a range of a guest_memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `fallocate(PUNCH_HOLE | KEEP_SIZE)`.
    Punch,
    /// `fallocate(KEEP_SIZE)`.
    Allocate,
    /// `ioctl(KVM_SET_MEMORY_ATTRIBUTES2)`.
    Attributes(Side),
}

/// The calls for a change of a range: one for each piece that is contiguous in the file. Addresses
/// past main memory are past the end of the file.
///
/// The kernel does not check: a hole past the end of the file succeeds and does nothing. So each
/// piece that is RAM must lie inside the file, and nothing else may.
///
/// # Errors
///
/// A piece of RAM reaches past the file's end: a wrong layout, or a wrong file. As text.
pub fn calls(range: GpaRange, layout: RamLayout, file_bytes: u64) -> Result<Vec<Piece>, String> {
    let mut pieces = layout.pieces(range);
    for piece in &pieces {
        if piece.offset + piece.bytes > file_bytes {
            return Err(format!(
                "{range} lies at {:#x}..{:#x} of a guest_memfd that ends at {file_bytes:#x}",
                piece.offset,
                piece.offset + piece.bytes
            ));
        }
    }
    let inside: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let beyond = range.bytes() - inside;
    if beyond > 0 {
        match pieces.last_mut() {
            // The range continues past the end of the file, and so does the call.
            Some(last) if last.offset + last.bytes == file_bytes => last.bytes += beyond,
            Some(_) => return Err(format!("{range} has a hole without RAM inside")),
            None => pieces.push(Piece {
                offset: file_bytes,
                bytes: beyond,
            }),
        }
    }
    Ok(pieces)
}

/// Makes the calls one after the other, up to the first that fails.
pub fn change(file: impl AsFd, change: Change, pieces: &[Piece]) -> Changed {
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for piece in pieces {
        let changed = match change {
            Change::Punch => fallocated(&file, keep | FallocateFlags::FALLOC_FL_PUNCH_HOLE, piece),
            Change::Allocate => fallocated(&file, keep, piece),
            Change::Attributes(to) => attributes::set(&file, piece, to),
        };
        if changed.errno != 0 {
            return changed;
        }
    }
    Changed::default()
}

fn fallocated(file: impl AsFd, mode: FallocateFlags, piece: &Piece) -> Changed {
    let (offset, bytes) = (piece.offset.cast_signed(), piece.bytes.cast_signed());
    loop {
        match fallocate(&file, mode, offset, bytes) {
            Ok(()) => return Changed::default(),
            Err(nix::Error::EINTR) => {}
            Err(errno) => {
                return Changed {
                    errno: errno as i32,
                    stopped_at: None,
                };
            }
        }
    }
}

/// Populated 4K pages in the pieces of a range.
pub fn populated(file: impl AsFd, pieces: &[Piece]) -> Reading<u64> {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.offset, piece.bytes))
        .collect();
    cachestat::populated(file, &pieces)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use tdxlab_protocol::addr::Gpa;

    use super::*;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_range_inside_is_one_call() {
        let layout = RamLayout::new(GIB);
        let pieces = calls(range(0x1000, 0x3000), layout, GIB).unwrap();
        assert_eq!(
            pieces,
            [Piece {
                offset: 0x1000,
                bytes: 0x2000
            }]
        );
    }

    #[test]
    fn what_lies_behind_memory_lies_behind_the_file() {
        let layout = RamLayout::new(GIB);
        let across = calls(range(GIB - 0x1000, GIB + 0x1000), layout, GIB).unwrap();
        assert_eq!(
            across,
            [Piece {
                offset: GIB - 0x1000,
                bytes: 0x2000
            }]
        );
        let behind = calls(range(GIB, GIB + 0x1000), layout, GIB).unwrap();
        assert_eq!(
            behind,
            [Piece {
                offset: GIB,
                bytes: 0x1000
            }]
        );
    }

    #[test]
    fn nonsense_is_caught_before_the_kernel_says_nothing() {
        let layout = RamLayout::new(GIB);
        assert!(calls(range(0, GIB), layout, GIB - 4096).is_err());
        let much = RamLayout::new(3 * GIB);
        assert!(
            calls(range(GIB, 3 * GIB), much, 3 * GIB).is_err(),
            "ends in the hole"
        );
    }

    fn taken(bytes: u64) -> TakenFile {
        let file = memfd_create(c"tdxlab-test", MFdFlags::MFD_CLOEXEC).unwrap();
        TakenFile {
            file,
            number: 0,
            bytes,
        }
    }

    #[rstest::rstest]
    #[case::all(&[GIB, 65536, 131_072], true)]
    #[case::no_image(&[GIB, 131_072], false)]
    #[case::two_like_the_image(&[65536, GIB, 65536], false)]
    fn main_memory_is_found_by_its_size(#[case] sizes: &[u64], #[case] with_image: bool) {
        let files = sizes.iter().copied().map(taken).collect();
        let gmems = pick(files, GIB, 65536).unwrap();
        assert_eq!(gmems.ram.bytes, GIB);
        assert_eq!(gmems.image.is_some(), with_image);
    }

    #[rstest::rstest]
    #[case::none(&[65536, 131_072], "0 of that size")]
    #[case::two(&[GIB, 65536, GIB], "2 of that size")]
    #[case::nothing_at_all(&[], "0 of that size")]
    fn where_it_is_not_the_only_one_nothing_is_punched(#[case] sizes: &[u64], #[case] says: &str) {
        let files = sizes.iter().copied().map(taken).collect();
        let error = pick(files, GIB, 65536).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(error.contains(&GIB.to_string()), "{error}");
    }

    #[test]
    fn files_are_punched_and_errors_are_numbers() {
        let file = File::from(memfd_create(c"tdxlab-test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(8 * 4096).unwrap();
        file.write_all_at(&[1; 8 * 4096], 0).unwrap();
        let piece = Piece {
            offset: 4096,
            bytes: 2 * 4096,
        };
        assert_eq!(change(&file, Change::Punch, &[piece]).errno, 0);
        let mut byte = [9];
        file.read_exact_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [0]);
        let nothing = Piece {
            offset: 0,
            bytes: 0,
        };
        assert_eq!(change(&file, Change::Punch, &[nothing]).errno, libc::EINVAL);
        if let Reading::Read(pages) = populated(
            &file,
            &[Piece {
                offset: 0,
                bytes: 8 * 4096,
            }],
        ) {
            assert_eq!(pages, 6);
        }
    }
}
