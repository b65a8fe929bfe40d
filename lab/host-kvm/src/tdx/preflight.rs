//! Before a TD's first instruction: exactly its initial image is populated.
//!
//! Other counts mean a wrong file, or that QEMU has added pages to the TD. A count that cannot be
//! read is missing, with the reason.

use std::fmt;

use tdxlab_host::HostError;
use tdxlab_journal::Reading;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::layout as machine;
use tdxlab_qemu::fds::TakenFile;

use super::gmem::{self, Gmems};
use super::layout::{Piece, RamLayout};
use super::tdvf::Section;

const MAIN_MEMORY: &str = "main memory";
const IMAGE: &str = "the image";

/// Pages populated before the first instruction, in 4K units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// Of main memory's guest_memfd.
    pub ram: Reading<u64>,
    /// Pages of the image's file.
    pub image: Reading<u64>,
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (what, pages)) in [(MAIN_MEMORY, &self.ram), (IMAGE, &self.image)]
            .into_iter()
            .enumerate()
        {
            let comma = if index == 0 { "" } else { "; " };
            match pages {
                Reading::Read(pages) => write!(f, "{comma}{what}: {pages} pages")?,
                Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
                    write!(f, "{comma}{what}: not counted, {reason}")?;
                }
            }
        }
        Ok(())
    }
}

/// Counts, and compares with the image's metadata.
///
/// # Errors
///
/// A file does not hold exactly its part of the initial image.
pub(super) fn check(
    gmems: &Gmems,
    layout: RamLayout,
    sections: &[Section],
) -> Result<Preflight, HostError> {
    let (mut of_ram, mut of_image) = (Vec::new(), Vec::new());
    for section in sections {
        match piece_of_image(section.range) {
            Some(piece) => of_image.push(piece),
            None => of_ram.extend(layout.pieces(section.range)),
        }
    }
    let image = match &gmems.image {
        Some(file) => counted(IMAGE, file, Initial::of(&of_image, file.bytes))?,
        None => Reading::missing(format!(
            "QEMU has no guest_memfd of {} bytes, the image's size",
            machine::IMAGE_BYTES
        )),
    };
    let ram = Initial::of(&of_ram, gmems.ram.bytes);
    Ok(Preflight {
        ram: counted(MAIN_MEMORY, &gmems.ram, ram)?,
        image,
    })
}

/// The piece of the image's file, which ends at 4 GiB, for a range; `None` outside of it.
fn piece_of_image(range: GpaRange) -> Option<Piece> {
    const END: u64 = 1 << 32;
    let start = END - machine::IMAGE_BYTES;
    let image = GpaRange::new(Gpa::new(start), Gpa::new(END))?;
    image.contains_range(range).then(|| Piece {
        offset: range.start().as_u64() - start,
        bytes: range.bytes(),
    })
}

fn counted(what: &str, file: &TakenFile, initial: Initial) -> Result<Reading<u64>, HostError> {
    let all = [Piece {
        offset: 0,
        bytes: file.bytes,
    }];
    let found = gmem::populated(&file.file, &all);
    if let Reading::Read(pages) = found {
        initial.allows(pages).map_err(|found| HostError::Qemu {
            what: format!("has populated {found} of the guest_memfd of {what} before the TD runs"),
            advice: "the file may be another one, or QEMU adds pages of its own".into(),
        })?;
    }
    Ok(found)
}

/// The 4K pages that an initial image takes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Initial {
    /// Where the file is made of 4K pages.
    exact: u64,
    /// Pages if it is made of 2M folios: one page populates its whole folio.
    in_folios: u64,
}

impl Initial {
    /// `pieces` do not overlap. A folio lies whole inside the file; at its end there are 4K pages.
    fn of(pieces: &[Piece], file_bytes: u64) -> Initial {
        const PAGE: u64 = PageLevel::Size4K.bytes();
        const FOLIO: u64 = PageLevel::Size2M.bytes();
        let exact = pieces.iter().map(|piece| piece.bytes / PAGE).sum();
        let mut folios = std::collections::BTreeSet::new();
        let mut at_the_end = 0;
        let whole = file_bytes / FOLIO * FOLIO;
        for piece in pieces {
            let (start, end) = (piece.offset, piece.offset + piece.bytes);
            let inside = end.min(whole);
            if start < inside {
                folios.extend(start / FOLIO..inside.div_ceil(FOLIO));
            }
            at_the_end += end.saturating_sub(start.max(whole)) / PAGE;
        }
        Initial {
            exact,
            in_folios: folios.len() as u64 * (FOLIO / PAGE) + at_the_end,
        }
    }

    /// Why this number of pages is wrong.
    fn allows(self, pages: u64) -> Result<(), String> {
        if pages == self.exact || pages == self.in_folios {
            return Ok(());
        }
        let folios = if self.in_folios == self.exact {
            String::new()
        } else {
            format!(", or {} in folios of 2M", self.in_folios)
        };
        Err(format!(
            "{pages} pages (its initial image has {}{folios})",
            self.exact
        ))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const PAGE: u64 = 4096;
    const FOLIO: u64 = 2 << 20;

    /// Pieces in pages, the file in pages, and the counts that may be found.
    #[rstest]
    #[case::nothing(&[], 1024, 0, 0)]
    #[case::one_page(&[(3, 1)], 1024, 1, 512)]
    #[case::two_in_one_folio(&[(3, 1), (9, 4)], 1024, 5, 512)]
    #[case::across_a_boundary(&[(511, 2)], 1024, 2, 1024)]
    #[case::whole_folios(&[(0, 512)], 1024, 512, 512)]
    #[case::up_to_a_boundary(&[(500, 12)], 1024, 12, 512)]
    #[case::a_file_smaller_than_a_folio(&[(0, 16)], 16, 16, 16)]
    #[case::the_end_of_a_file_has_no_folio(&[(1024, 3)], 1030, 3, 3)]
    #[case::across_the_last_folio(&[(1020, 6)], 1030, 6, 512 + 2)]
    fn what_sections_come_to(
        #[case] pieces: &[(u64, u64)],
        #[case] file: u64,
        #[case] exact: u64,
        #[case] in_folios: u64,
    ) {
        let pieces: Vec<Piece> = pieces
            .iter()
            .map(|(offset, pages)| Piece {
                offset: offset * PAGE,
                bytes: pages * PAGE,
            })
            .collect();
        let initial = Initial::of(&pieces, file * PAGE);
        assert_eq!(initial, Initial { exact, in_folios });
        for legal in [exact, in_folios] {
            assert_eq!(initial.allows(legal), Ok(()));
        }
        for more in [exact + 1, in_folios + 1] {
            if ![exact, in_folios].contains(&more) {
                let said = initial.allows(more).unwrap_err();
                assert!(said.contains(&format!("has {exact}")), "{said}");
                assert_eq!(said.contains("folios of 2M"), exact != in_folios, "{said}");
            }
        }
        if exact > 0 {
            assert!(initial.allows(exact - 1).is_err());
        }
    }

    #[test]
    fn the_image_ends_at_4_gib() {
        let range = |start, bytes| GpaRange::with_len(Gpa::new(start), bytes).unwrap();
        let start = (1 << 32) - machine::IMAGE_BYTES;
        let piece = piece_of_image(range(start + PAGE, PAGE)).unwrap();
        assert_eq!((piece.offset, piece.bytes), (PAGE, PAGE));
        assert_eq!(piece_of_image(range(FOLIO, PAGE)), None);
    }

    #[test]
    fn what_was_not_counted_is_said() {
        let text = Preflight {
            ram: Reading::Read(5),
            image: Reading::missing("no such file"),
        }
        .to_string();
        assert_eq!(
            text,
            "main memory: 5 pages; the image: not counted, no such file"
        );
    }
}
