//! Populated pages of the guest_memfd, and their folios.
//!
//! A design with 2M folios allocates one when a page is populated in an empty 2M stretch that lies
//! wholly in the file. A hole in part of a folio leaves 4K pieces, which are never joined again;
//! pages populated there later are pieces, too.

use tdxlab_plan::addr::PageLevel;

use super::pages::REGION;
use super::runs::{Pages, Runs};

/// How a page of the file is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Folio {
    /// Not populated.
    #[default]
    Hole,
    /// As part of a whole 2M folio.
    Whole,
    /// As a 4K piece.
    Piece,
}

/// The folios of a guest_memfd, by page of the file.
#[derive(Clone, Debug)]
pub(super) struct Folios {
    runs: Runs<Folio>,
    huge: bool,
    file_pages: u64,
    /// Pages that no slot shows.
    unseen: Vec<Pages>,
    populated: u64,
}

impl Folios {
    pub(super) fn new(folio: PageLevel, file_pages: u64, unseen: Vec<Pages>) -> Folios {
        Folios {
            runs: Runs::default(),
            huge: folio >= PageLevel::Size2M,
            file_pages,
            unseen,
            populated: 0,
        }
    }

    /// Pages held that a slot shows.
    pub(super) fn populated(&self) -> u64 {
        let unseen = self.unseen.iter().cloned().map(|pages| self.held(pages));
        self.populated - unseen.sum::<u64>()
    }

    /// Whether the 2M from `file` on are, or would be on demand, one folio; and for how many 2M the
    /// answer is the same.
    pub(super) fn can_be_whole(&self, file: u64) -> (bool, u64) {
        let (folio, end) = self.runs.at(file);
        let span = (end - file) / REGION;
        if !self.huge || span == 0 {
            return (false, 1);
        }
        match folio {
            Folio::Whole => (true, span),
            Folio::Piece => (false, span),
            Folio::Hole => {
                let inside = self.file_pages.saturating_sub(file) / REGION;
                (inside > 0, span.min(inside).max(1))
            }
        }
    }

    /// Makes sure that these pages are held.
    pub(super) fn populate(&mut self, pages: Pages) {
        let holes: Vec<Pages> = self
            .runs
            .stretches(pages)
            .filter(|(_, folio)| *folio == Folio::Hole)
            .map(|(stretch, _)| stretch)
            .collect();
        for hole in holes {
            self.fill_hole(hole);
        }
    }

    /// Lets these pages go.
    pub(super) fn free(&mut self, pages: Pages) {
        if pages.is_empty() {
            return;
        }
        for end in [pages.start, pages.end] {
            if !end.is_multiple_of(REGION) {
                let folio = end - end % REGION;
                self.runs.update(folio..folio + REGION, |old| match old {
                    Folio::Whole => Folio::Piece,
                    other => other,
                });
            }
        }
        self.populated -= self.runs.count(pages.clone(), |folio| folio != Folio::Hole);
        self.runs.set(pages, Folio::Hole);
    }

    /// How many of these pages are held.
    pub(super) fn held(&self, pages: Pages) -> u64 {
        self.runs.count(pages, |folio| folio != Folio::Hole)
    }

    /// Fills an empty stretch: its first and last folio may extend beyond it.
    fn fill_hole(&mut self, hole: Pages) {
        let mut at = hole.start;
        while at < hole.end {
            let folio = at - at % REGION;
            let (whole, _) = self.can_be_whole(folio);
            // Only a folio that starts at the cursor can begin a row of them.
            let row = if whole && folio == at {
                let (_, span) = self.can_be_whole(at);
                let wanted = (hole.end - at).div_ceil(REGION);
                at..at + span.min(wanted) * REGION
            } else if whole {
                folio..folio + REGION
            } else {
                at..hole.end.min(folio + REGION)
            };
            self.populated += row.end - row.start;
            at = row.end;
            self.runs
                .set(row, if whole { Folio::Whole } else { Folio::Piece });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folios(pages: u64) -> Folios {
        Folios::new(PageLevel::Size2M, pages, Vec::new())
    }

    #[test]
    fn one_page_wanted_brings_a_whole_folio() {
        let mut folios = folios(4 * REGION);
        folios.populate(REGION + 7..REGION + 8);
        assert_eq!(folios.populated(), REGION);
        assert_eq!(folios.can_be_whole(REGION), (true, 1));
    }

    #[test]
    fn a_hole_in_a_folio_leaves_pieces_until_all_of_it_is_gone() {
        let mut folios = folios(2 * REGION);
        folios.populate(0..1);
        folios.free(0..1);
        folios.populate(0..1);
        assert_eq!(folios.populated(), REGION);
        assert!(!folios.can_be_whole(0).0);
        folios.free(0..REGION);
        assert!(folios.can_be_whole(0).0);
    }

    #[test]
    fn a_hole_of_no_pages_leaves_folios_whole() {
        let mut folios = folios(2 * REGION);
        folios.populate(0..1);
        folios.free(3..3);
        assert_eq!(folios.can_be_whole(0), (true, 1));
    }

    #[test]
    fn a_folio_does_not_reach_past_the_end_of_the_file() {
        let mut folios = folios(REGION + 3);
        folios.populate(REGION..REGION + 2);
        assert_eq!(folios.populated(), 2);
    }

    #[test]
    fn a_long_stretch_is_one_run() {
        let mut folios = folios(1 << 30);
        folios.populate(0..1 << 30);
        assert_eq!(folios.populated(), 1 << 30);
        assert_eq!(folios.can_be_whole(0), (true, (1 << 30) / REGION));
    }
}
