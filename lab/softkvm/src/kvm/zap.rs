//! Zapping: removing the mappings of a range.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::PhysicalMemory;
use tdxlab_tdxmodule::policy::{Counted, Failure, Why};

use super::Kvm;

impl<M: PhysicalMemory> Kvm<M> {
    /// Zaps up to `most` private leaves that overlap `range`. Returns where to continue, or `None`
    /// when the range is done. Empty parts of the range cost nothing.
    pub(super) fn zap_private(
        &mut self,
        range: GpaRange,
        most: usize,
    ) -> Result<Option<Gpa>, Failure> {
        let mut rest = range;
        for _ in 0..most {
            let Some(leaf) = self.mirror.next_leaf(rest) else {
                return Ok(None);
            };
            let page = leaf.range();
            if self.hardware.policy.zaps(page, range) {
                self.remove_from_sept(&leaf)?;
                self.mirror.clear(&leaf);
                self.count(Counted::Zap, leaf.level, -1);
                self.leaves_zapped += 1;
            }
            match GpaRange::new(page.end().max(rest.start()), rest.end()) {
                Some(next) if !next.is_empty() => rest = next,
                _ => return Ok(None),
            }
        }
        Ok(Some(rest.start()))
    }

    /// Zaps all private leaves that map something of `range`.
    pub(super) fn zap_all_private(&mut self, range: GpaRange) -> Result<(), Failure> {
        self.zap_private(range, usize::MAX).map(|_| ())
    }

    /// Zaps all shared leaves in `range`.
    pub(super) fn zap_shared(&mut self, range: GpaRange) {
        let zapped = self
            .ept
            .zap(range, &mut self.hardware, &mut |hardware, gpa| {
                hardware.policy.zaps(gpa.page(PageLevel::Size4K), range)
            });
        if zapped > 0 {
            self.count(Counted::SharedZap, PageLevel::Size4K, -(zapped as i64));
            self.leaves_zapped += zapped;
            self.kick(Why::SharedZap);
        }
    }
}
