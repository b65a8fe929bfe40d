//! KVM_SET_MEMORY_ATTRIBUTES2 on the guest_memfd: the host makes memory private or shared by itself.
//!
//! Source: virt/kvm/guest_memfd.c of the series that converts in place, `kvm_gmem_set_attributes()`.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel, Side};
use tdxlab_tdxmodule::PhysicalMemory;
use tdxlab_tdxmodule::policy::{Failure, FileId};

use super::Kvm;
use super::design::Conversion;

impl<M: PhysicalMemory> Kvm<M> {
    /// The errno; where it stopped is left in `error_at`.
    pub(super) fn set_attributes(&mut self, offset: u64, len: u64, to: Side) -> i32 {
        self.error_at = None;
        // The file has no such call unless attributes are its own.
        if self.rules.conversion != Conversion::InPlace {
            return libc::ENOTTY;
        }
        let page_mask = PageLevel::Size4K.bytes() - 1;
        let size = self.files[FileId::Test as usize].size();
        let end = offset.checked_add(len).filter(|end| *end <= size);
        let Some(end) = end.filter(|_| len > 0 && (offset | len) & page_mask == 0) else {
            return libc::EINVAL;
        };
        let slots = self.slots.of_file(FileId::Test);
        let mut ranges: Vec<(u64, GpaRange)> = slots
            .filter_map(|slot| {
                let range = slot.covered_by(offset..end)?;
                Some((slot.offset_of(range.start()), range))
            })
            .collect();
        ranges.sort_by_key(|(offset, _)| *offset);
        let is_so = |(_, range): &(u64, GpaRange)| match to {
            Side::Shared => self.shared.covers(*range),
            Side::Private => !self.shared.overlaps(*range),
        };
        let nothing_to_do = ranges.iter().all(is_so);
        if self.hardware.policy.skips_equal_attributes(nothing_to_do) {
            return 0;
        }
        if to == Side::Private
            && let Some(held) = self.first_held(&ranges)
        {
            self.refuse(&ranges, held);
            return libc::EAGAIN;
        }
        for (_, range) in ranges {
            // What is private already has its mappings zapped, too, where the call was not skipped.
            if to == Side::Private && nothing_to_do && self.zap_all_private(range).is_err() {
                return Failure::Bugged.errno();
            }
            if let Err(failure) = self.convert(range, to) {
                return failure.errno();
            }
        }
        0
    }

    /// The first page, in the order of the file, to which someone has a reference.
    fn first_held(&mut self, ranges: &[(u64, GpaRange)]) -> Option<Gpa> {
        for &(_, range) in ranges {
            let first = self.held.iter().find_map(|held| held.intersect(range));
            let first = first.map(GpaRange::start);
            if first.is_some() && self.hardware.policy.heeds_references(range) {
                return first;
            }
        }
        None
    }

    /// The call is refused as a whole, and says where it met the page.
    fn refuse(&mut self, ranges: &[(u64, GpaRange)], held: Gpa) {
        let start = ranges.first().map_or(held, |(_, range)| range.start());
        self.error_at = Some(self.hardware.policy.error_at(start, held));
        if self.hardware.policy.refuses_as_a_whole() {
            return;
        }
        for &(_, range) in ranges {
            let before = GpaRange::new(range.start(), held.min(range.end()));
            if let Some(before) = before.filter(|_| range.start() < held) {
                // Nothing in it is held, so this cannot fail.
                let _ = self.convert(before, Side::Private);
            }
        }
    }
}
