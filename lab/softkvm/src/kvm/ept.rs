//! The EPT for shared memory: ordinary tables that KVM writes itself, with 4K leaves.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel, Side};
use tdxlab_tdxmodule::policy::{Allocation, AtTheEnd, Failure};
use tdxlab_tdxmodule::{Level, Pfn, PhysicalMemory, Platform, SeptEntry, State};

/// The root; all other tables are frames of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedEpt {
    root: Vec<SeptEntry>,
    tables: Vec<Pfn>,
    leaves: u64,
}

impl SharedEpt {
    /// Whether `gpa` is mapped.
    pub(crate) fn is_mapped<M: PhysicalMemory>(&self, gpa: Gpa, machine: &M) -> bool {
        let mut level = Level::Pgd;
        let mut entry = self.root_entry(Level::Pgd.index(gpa));
        while entry.state(level) == State::NonLeaf
            && let Some(below) = level.below()
        {
            level = below;
            entry = SeptEntry::from_bits(machine.read_entry(entry.frame(), level.index(gpa)));
        }
        entry.state(level) == State::Mapped
    }

    /// Maps one page.
    pub(crate) fn map<M: PhysicalMemory>(
        &mut self,
        gpa: Gpa,
        frame: Pfn,
        hardware: &mut Platform<M>,
    ) -> Result<(), Failure> {
        let index = Level::Pgd.index(gpa);
        let mut entry = self.root_entry(index);
        if entry.state(Level::Pgd) != State::NonLeaf {
            entry = self.new_table(hardware)?;
            if self.root.len() <= index {
                self.root.resize(index + 1, SeptEntry::FREE);
            }
            self.root[index] = entry;
            hardware
                .machine
                .set_root_entry(Side::Shared, index, entry.bits());
        }
        for level in [Level::Pud, Level::Pmd] {
            let table = entry.frame();
            let index = level.index(gpa);
            entry = SeptEntry::from_bits(hardware.machine.read_entry(table, index));
            if entry.state(level) != State::NonLeaf {
                entry = self.new_table(hardware)?;
                hardware.machine.write_entry(table, index, entry.bits());
            }
        }
        let leaf = SeptEntry::leaf(State::Mapped, PageLevel::Size4K, frame);
        hardware
            .machine
            .write_entry(entry.frame(), Level::Pte.index(gpa), leaf.bits());
        self.leaves += 1;
        Ok(())
    }

    /// Takes out every leaf in `range` for which `wanted` holds. Returns how many.
    pub(crate) fn zap<M: PhysicalMemory>(
        &mut self,
        range: GpaRange,
        hardware: &mut Platform<M>,
        wanted: &mut dyn FnMut(&mut Platform<M>, Gpa) -> bool,
    ) -> u64 {
        if self.leaves == 0 || range.is_empty() {
            return 0;
        }
        let mut zapped = 0;
        for index in Level::Pgd.index(range.start())..self.root.len() {
            let base = Gpa::new(index as u64 * Level::Pgd.bytes());
            let entry = self.root[index];
            if base >= range.end() {
                break;
            }
            if entry.state(Level::Pgd) == State::NonLeaf {
                zapped += zap_table(entry.frame(), Level::Pud, base, range, hardware, wanted);
            }
        }
        // A guest that a faulty host let at the tables may have made leaves of its own.
        self.leaves = self.leaves.saturating_sub(zapped);
        zapped
    }

    /// Gives all tables back; how many leaves they held. The tables themselves are not read: a guest
    /// that a faulty host let at them may have written anything there.
    pub(crate) fn free<M: PhysicalMemory>(&mut self, hardware: &mut Platform<M>) -> u64 {
        self.root.clear();
        for table in std::mem::take(&mut self.tables) {
            if hardware.policy.frees_at_the_end(AtTheEnd::Table) {
                hardware.pool.give_frame(table);
            }
        }
        std::mem::take(&mut self.leaves)
    }

    fn new_table<M: PhysicalMemory>(
        &mut self,
        hardware: &mut Platform<M>,
    ) -> Result<SeptEntry, Failure> {
        if !hardware.policy.allocates(Allocation::EptTable) {
            return Err(Failure::NoMemory);
        }
        let table = hardware.pool.take_frame().ok_or(Failure::NoMemory)?;
        hardware.machine.zero_frames(table, 1);
        self.tables.push(table);
        Ok(SeptEntry::table(table))
    }

    fn root_entry(&self, index: usize) -> SeptEntry {
        self.root.get(index).copied().unwrap_or(SeptEntry::FREE)
    }
}

fn zap_table<M: PhysicalMemory>(
    table: Pfn,
    level: Level,
    base: Gpa,
    range: GpaRange,
    hardware: &mut Platform<M>,
    wanted: &mut dyn FnMut(&mut Platform<M>, Gpa) -> bool,
) -> u64 {
    let first = if base < range.start() {
        level.index(range.start())
    } else {
        0
    };
    let mut zapped = 0;
    for index in first..512 {
        let gpa = Gpa::new(base.as_u64() + index as u64 * level.bytes());
        if gpa >= range.end() {
            break;
        }
        let entry = SeptEntry::from_bits(hardware.machine.read_entry(table, index));
        match (entry.state(level), level.below()) {
            (State::NonLeaf, Some(below)) => {
                zapped += zap_table(entry.frame(), below, gpa, range, hardware, wanted);
            }
            (State::Mapped, _) if wanted(hardware, gpa) => {
                hardware
                    .machine
                    .write_entry(table, index, SeptEntry::FREE.bits());
                zapped += 1;
            }
            _ => {}
        }
    }
    zapped
}
