//! A vCPU's translation lookaside buffer.
//!
//! It caches page walks until the host kicks the vCPUs. A host that changes a table without a kick
//! leaves the guest with the old page.

use tdxlab_plan::Side;
use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_softkvm::Pfn;
use tdxlab_softkvm::memory::{SimMachine, Translation};

const SMALL: usize = 1024;
const HUGE: usize = 128;

/// Direct-mapped; takes no room until the first translation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tlb {
    small: Vec<Entry>,
    huge: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Page number, shifted left by one, plus the side.
    tag: u64,
    frame: Pfn,
    epoch: u64,
}

const NOTHING: Entry = Entry {
    tag: u64::MAX,
    frame: Pfn(0),
    epoch: u64::MAX,
};

impl Tlb {
    /// The translation of `gpa`: cached, or from a page walk.
    pub(crate) fn translate(
        &mut self,
        machine: &SimMachine,
        side: Side,
        gpa: Gpa,
    ) -> Option<Translation> {
        let epoch = machine.epoch();
        for level in [PageLevel::Size2M, PageLevel::Size4K] {
            let tag = tag(side, gpa, level);
            let entries = self.entries(level);
            if let Some(entry) = entries.get(place(tag, level))
                && entry.tag == tag
                && entry.epoch == epoch
            {
                return Some(Translation {
                    frame: entry.frame,
                    level,
                });
            }
        }
        let found = machine.translate(side, gpa)?;
        if found.level <= PageLevel::Size2M {
            let tag = tag(side, gpa, found.level);
            let at = place(tag, found.level);
            let entries = self.entries(found.level);
            if entries.is_empty() {
                let size = match found.level {
                    PageLevel::Size4K => SMALL,
                    PageLevel::Size2M | PageLevel::Size1G => HUGE,
                };
                entries.resize(size, NOTHING);
            }
            entries[at] = Entry {
                tag,
                frame: found.frame,
                epoch,
            };
        }
        Some(found)
    }

    fn entries(&mut self, level: PageLevel) -> &mut Vec<Entry> {
        match level {
            PageLevel::Size4K => &mut self.small,
            PageLevel::Size2M | PageLevel::Size1G => &mut self.huge,
        }
    }
}

fn tag(side: Side, gpa: Gpa, level: PageLevel) -> u64 {
    (gpa.as_u64() / level.bytes()) << 1 | side as u64
}

fn place(tag: u64, level: PageLevel) -> usize {
    let size = match level {
        PageLevel::Size4K => SMALL,
        PageLevel::Size2M | PageLevel::Size1G => HUGE,
    };
    (tag >> 1) as usize % size
}

#[cfg(test)]
mod tests {
    use tdxlab_softkvm::PhysicalMemory;

    use super::*;

    #[test]
    fn a_translation_outlives_its_entry_until_the_kick() {
        let mut machine = SimMachine::new(64 << 20);
        let gpa = Gpa::new(0x20_0000);
        machine.set_root_entry(Side::Private, 0, 0x201 << 12 | 1);
        machine.write_entry(Pfn(0x201), 0, 0x202 << 12 | 1);
        machine.write_entry(Pfn(0x202), 1, 0x400 << 12 | 0x81);
        let mut tlb = Tlb::default();
        let found = tlb.translate(&machine, Side::Private, gpa).unwrap();
        machine.write_entry(Pfn(0x202), 1, 0);
        assert_eq!(tlb.translate(&machine, Side::Private, gpa), Some(found));
        assert_eq!(tlb.translate(&machine, Side::Shared, gpa), None);
        machine.kick();
        assert_eq!(tlb.translate(&machine, Side::Private, gpa), None);
    }
}
