//! KVM_SET_MEMORY_ATTRIBUTES2 on the guest_memfd: docs/semantics.md, section 6.

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel, Side};

use super::entries::entries;
use super::hole::pages_around;
use super::others::no_slot;
use super::runs::Pages;
use super::state::{SharedPage, State};
use super::tally::Tally;
use super::unjudgeable::Unjudgeable;

/// Try again.
const EAGAIN: i32 = 11;
/// Invalid argument.
const EINVAL: i32 = 22;
/// Not that kind of file.
const ENOTTY: i32 = 25;

impl State {
    /// The host makes a range private or shared, one call for each piece of it that is contiguous in the
    /// file. A call is made as a whole or not at all.
    pub(super) fn set_attributes(
        &mut self,
        tally: &mut Tally,
        range: GpaRange,
        to: Side,
    ) -> Result<(), Unjudgeable> {
        tally.entries_at_most = Some(0);
        if !self.design.in_place() {
            tally.errnos.push(ENOTTY);
            return Ok(());
        }
        let around = pages_around(range);
        self.must_be_certain(&around)?;
        if self.others.count(around.clone(), |page| page.no_slot) > 0 {
            return Err(no_slot(range));
        }
        let torn = !range.is_aligned(PageLevel::Size4K);
        for (pages, file) in self.file_pieces(&around) {
            if torn || file.is_empty() || file.end > self.slots.file_pages() {
                tally.errnos.push(EINVAL);
                return Ok(());
            }
            if let Some(held) = self.first_held(&pages, to) {
                tally.errnos.push(EAGAIN);
                tally.error_at = Some(Gpa::from_gfn(held));
                return Ok(());
            }
            self.set_piece(tally, &pages, to);
        }
        tally.errnos.push(0);
        Ok(())
    }

    /// The first page that keeps the others from becoming private. One that is private already is held by
    /// nothing.
    fn first_held(&self, pages: &Pages, to: Side) -> Option<u64> {
        let is_so = |page: SharedPage| page.attribute == (to == Side::Shared);
        if to == Side::Shared || self.shared.all(pages.clone(), is_so) {
            return None;
        }
        let mut stretches = self.others.stretches(pages.clone());
        stretches
            .find(|(_, page)| page.held)
            .map(|(stretch, _)| stretch.start)
    }

    fn set_piece(&mut self, tally: &mut Tally, pages: &Pages, to: Side) {
        match to {
            Side::Private => self.unshare(tally, pages.clone()),
            // Nothing is looked at where all is shared already.
            Side::Shared if self.shared.all(pages.clone(), |page| page.attribute) => {}
            Side::Shared => {
                for (part, _) in self.slots.pieces(pages) {
                    let more = entries(&self.design, &part);
                    let sum = tally.entries_at_most.zip(more);
                    tally.entries_at_most = sum.map(|(sum, more)| sum + more);
                }
                self.split_ends(tally, pages);
                self.share(tally, pages.clone());
            }
        }
    }
}
