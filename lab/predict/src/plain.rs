//! A plain VM: ordinary memory behind ordinary EPT leaves, on any KVM.
//!
//! | backing | a touch maps | a hole zaps | and leaves |
//! |---|---|---|---|
//! | 4K | the page | its pages | zeros |
//! | hugetlb | the whole huge page | huge pages that lie in it as a whole | zeros, also in the parts of huge pages at its ends, which stay mapped |
//! | thp | the 2M folio | every 2M region it touches | zeros; a region it touched in part is in 4K pieces until all of it is gone |
//!
//! Logging dirty pages splits every leaf of the slot once, down to 4K (`kvm_mmu_slot_apply_flags()`
//! and `kvm_mmu_try_split_huge_pages()` in arch/x86/kvm); while it lasts, faults map 4K. When it
//! ends, tables over huge pages go: since 6.13 they become leaves again
//! (`kvm_tdp_mmu_recover_huge_pages()`), before that they are zapped
//! (`kvm_tdp_mmu_zap_collapsible_sptes()`). While the vCPUs are stopped, QEMU defers the end until
//! they continue (`memory_global_dirty_log_stop()`).

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{
    AccessKind, AccessOutcome, Action, Backing, Content, Design, Expectation, Generation, Guest,
    Interval, LoggedPages, Op, PageDelta, ReadPlan, RegionState, Side, SplitLeaf,
};

use super::pages::{count, pages_of, range_of};
use super::runs::{Pages, Runs};
use crate::unjudgeable::Unjudgeable;

/// 4K pages of a transparent huge page.
const FOLIO: u64 = PageLevel::Size2M.pages_4k();

/// How a page is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mapped {
    /// Unmapped.
    #[default]
    Absent,
    /// By a 4K leaf.
    Page,
    /// By a leaf as large as the pages behind it.
    Leaf,
}

/// State of one plain VM.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    memory: GpaRange,
    backing: Backing,
    recovers: bool,
    mapped: Runs<Mapped>,
    populated: Runs<bool>,
    filled: Runs<Option<Generation>>,
    /// Transparent huge pages that are in 4K pieces, keyed by gfn / 512.
    pieces: Runs<bool>,
    logging: bool,
    /// Pages that a fault has mapped, or a write has made writable, since logging began: the log
    /// may name them again, and need not.
    named: Runs<bool>,
    stopped: bool,
    /// Logging ends when the vCPUs go on.
    ends_later: bool,
}

/// Changes of one step.
#[derive(Debug, Default)]
struct Changes {
    pages: [i64; 3],
    splits: i64,
    split_leaves: Vec<SplitLeaf>,
}

impl Changes {
    fn add(&mut self, level: PageLevel, number: i64) {
        self.pages[usize::from(level.tdx())] += number;
    }
}

impl Plain {
    /// A VM with untouched test memory.
    pub(super) fn new(design: &Design, guest: &Guest, backing: Backing) -> Plain {
        Plain {
            memory: guest.memory,
            backing,
            recovers: design.recovers_leaves,
            mapped: Runs::default(),
            populated: Runs::default(),
            filled: Runs::default(),
            pieces: Runs::default(),
            logging: false,
            named: Runs::default(),
            stopped: false,
            ends_later: false,
        }
    }

    /// 4K pages in a page of the backing.
    fn unit(&self) -> u64 {
        self.backing.leaf().pages_4k()
    }

    /// Predicts the next step.
    pub(super) fn step(&mut self, action: &Action) -> Result<Expectation, Unjudgeable> {
        let Action::One(op) = action else {
            return Err(Unjudgeable {
                why: "steps of a plain VM do not race".to_owned(),
                advice: "do one after the other, or leave `backing` away".to_owned(),
            });
        };
        if op.accesses() == Some(Side::Shared) {
            return Err(Unjudgeable {
                why: "the memory of a plain VM has no shared side".to_owned(),
                advice: "leave `side` away".to_owned(),
            });
        }
        let mut changes = Changes::default();
        let mut expected = Expectation {
            td_alive: true,
            ..Expectation::default()
        };
        let range = op.range().unwrap_or_default();
        match *op {
            Op::Touch { stride, access, .. } => {
                self.must_run()?;
                expected.logged = self.log_access(range, stride, access == AccessKind::Write);
                self.access(&mut changes, range, stride);
                expected.accesses = Some(vec![(range, AccessOutcome::Done)]);
            }
            Op::Fill { generation, .. } => {
                self.must_run()?;
                expected.logged = self.log_access(range, PageLevel::Size4K, true);
                self.access(&mut changes, range, PageLevel::Size4K);
                self.filled.set(pages_of(range), Some(generation));
                expected.accesses = Some(vec![(range, AccessOutcome::Done)]);
            }
            Op::Verify { .. } => {
                self.must_run()?;
                expected.reads = self.reads(pages_of(range));
                expected.logged = self.log_access(range, PageLevel::Size4K, false);
                self.access(&mut changes, range, PageLevel::Size4K);
            }
            Op::Punch { .. } => {
                self.hole(&mut changes, range);
                expected.errnos.push(0);
            }
            Op::Allocate { .. } => {
                self.allocate(range)?;
                expected.errnos.push(0);
            }
            Op::DirtyLog { on } => {
                self.ends_later = !on && self.stopped;
                match on {
                    true => self.log(&mut changes),
                    false if self.stopped => {}
                    false => self.stop_log(&mut changes),
                }
                expected.errnos.push(0);
            }
            Op::Stop | Op::Cont => {
                self.stopped = *op == Op::Stop;
                if !self.stopped && std::mem::take(&mut self.ends_later) {
                    self.stop_log(&mut changes);
                }
                expected.errnos.push(0);
            }
            _ => {
                return Err(Unjudgeable {
                    why: "a plain VM has no private memory".to_owned(),
                    advice: "leave `backing` away, or touch memory in place of this".to_owned(),
                });
            }
        }
        if self.logs() {
            expected.logged.get_or_insert_default();
        }
        let [pages_4k, pages_2m, pages_1g] = changes.pages.map(Interval::exactly);
        let memory = pages_of(self.memory);
        Ok(Expectation {
            splits: Interval::exactly(changes.splits),
            split_leaves: changes.split_leaves,
            pages: PageDelta {
                pages_4k,
                pages_2m,
                pages_1g,
            },
            populated: Interval::exactly(self.populated.count(memory, |page| page) as i64),
            ..expected
        })
    }

    fn must_run(&self) -> Result<(), Unjudgeable> {
        match self.stopped {
            false => Ok(()),
            true => Err(Unjudgeable {
                why: "its vCPUs are stopped".to_owned(),
                advice: "let them go on first: `vm: cont`".to_owned(),
            }),
        }
    }

    /// Whether pages are logged for somebody who asked for it.
    fn logs(&self) -> bool {
        self.logging && !self.ends_later
    }

    /// What the dirty log says of the accesses that follow. A write-protected page is named when it
    /// is written, an unmapped one when a fault maps it writable: `make_spte()` and
    /// `fast_page_fault()` in arch/x86/kvm/mmu.
    fn log_access(
        &mut self,
        range: GpaRange,
        stride: PageLevel,
        write: bool,
    ) -> Option<LoggedPages> {
        if !self.logs() {
            return None;
        }
        let mut logged = LoggedPages::default();
        let pages = pages_of(range);
        let mut at = pages.start;
        while at < pages.end {
            let (mapped, until) = self.mapped.at(at);
            let (named, same_until) = self.named.at(at);
            let end = match stride {
                PageLevel::Size4K => until.min(same_until).min(pages.end),
                _ => at + 1,
            };
            let absent = mapped == Mapped::Absent;
            let part = range_of(&(at..end));
            match (write, named) {
                (true, _) if absent => logged.must.push(part),
                (true, false) => logged.must.push(part),
                (true, true) => logged.may.push(part),
                (false, _) if absent => logged.may.push(part),
                (false, _) => {}
            }
            if write || absent {
                self.named.set(at..end, true);
            }
            at += (end - at).next_multiple_of(stride.pages_4k());
        }
        Some(logged)
    }

    /// One access at every stride of a range.
    fn access(&mut self, changes: &mut Changes, range: GpaRange, stride: PageLevel) {
        let pages = pages_of(range);
        let step = stride.pages_4k();
        let mut at = pages.start;
        while at < pages.end {
            let (mapped, until) = self.mapped.at(at);
            let next = match mapped {
                Mapped::Absent if stride == PageLevel::Size4K => {
                    self.fault(changes, at..until.min(pages.end))
                }
                Mapped::Absent => self.fault(changes, at..at + 1),
                Mapped::Page | Mapped::Leaf => until,
            };
            at += (next - at).next_multiple_of(step);
        }
    }

    /// Touches the first of `absent` pages, then the others as far as they behave the same; returns
    /// the page after those.
    fn fault(&mut self, changes: &mut Changes, absent: Pages) -> u64 {
        let unit = self.page_of(absent.start);
        if self.backing == Backing::Small {
            self.populated.set(absent.clone(), true);
        } else if self.in_pieces(absent.start) {
            let pages = absent.start..absent.end.min(unit.end);
            self.populated.set(pages.clone(), true);
            return self.map_pages(changes, pages);
        } else {
            self.populated.set(unit.clone(), true);
            if !self.logging {
                changes.add(self.backing.leaf(), 1);
                self.mapped.set(unit.clone(), Mapped::Leaf);
                return unit.end;
            }
        }
        let end = match self.backing {
            Backing::Small => absent.end,
            _ => absent.end.min(unit.end),
        };
        self.map_pages(changes, absent.start..end)
    }

    fn map_pages(&mut self, changes: &mut Changes, pages: Pages) -> u64 {
        changes.add(PageLevel::Size4K, count(&pages));
        self.mapped.set(pages.clone(), Mapped::Page);
        pages.end
    }

    /// The page of the backing that holds a 4K page.
    fn page_of(&self, page: u64) -> Pages {
        let start = page / self.unit() * self.unit();
        start..start + self.unit()
    }

    fn in_pieces(&self, page: u64) -> bool {
        self.backing == Backing::Transparent && self.pieces.at(page / FOLIO).0
    }

    /// fallocate(PUNCH_HOLE). Parts past the end of the file are ignored.
    fn hole(&mut self, changes: &mut Changes, range: GpaRange) {
        let Some(range) = range.intersect(self.memory) else {
            return;
        };
        let hole = pages_of(range);
        self.filled.set(hole.clone(), None);
        match self.backing {
            Backing::Small => self.remove(changes, hole),
            Backing::Hugetlb2M | Backing::Hugetlb1G => {
                let start = hole.start.next_multiple_of(self.unit());
                let end = hole.end / self.unit() * self.unit();
                if start < end {
                    self.remove(changes, start..end);
                }
            }
            Backing::Transparent => {
                let mut at = hole.start;
                while at < hole.end {
                    let folio = self.page_of(at);
                    let part = at..hole.end.min(folio.end);
                    at = part.end;
                    self.remove_from_folio(changes, folio, part);
                }
            }
        }
    }

    /// A hole in one transparent huge page, or in the rest of one.
    fn remove_from_folio(&mut self, changes: &mut Changes, folio: Pages, part: Pages) {
        let whole = part == folio;
        if !whole && !self.in_pieces(folio.start) && self.populated.at(folio.start).0 {
            // To split the folio, the kernel takes it out of every page table first.
            self.unmap(changes, folio.clone());
            self.pieces
                .set(folio.start / FOLIO..folio.end / FOLIO, true);
        }
        self.remove(changes, part);
        if !self
            .populated
            .stretches(folio.clone())
            .any(|(_, page)| page)
        {
            self.pieces
                .set(folio.start / FOLIO..folio.end / FOLIO, false);
        }
    }

    /// Pages leave the file and every page table.
    fn remove(&mut self, changes: &mut Changes, pages: Pages) {
        self.unmap(changes, pages.clone());
        self.populated.set(pages, false);
    }

    fn unmap(&mut self, changes: &mut Changes, pages: Pages) {
        let small = self
            .mapped
            .count(pages.clone(), |mapped| mapped == Mapped::Page);
        let large = self
            .mapped
            .count(pages.clone(), |mapped| mapped == Mapped::Leaf);
        changes.add(PageLevel::Size4K, -(small as i64));
        changes.add(self.backing.leaf(), -((large / self.unit()) as i64));
        self.mapped.set(pages, Mapped::Absent);
    }

    /// fallocate: whole pages of the backing are populated, none is mapped.
    fn allocate(&mut self, range: GpaRange) -> Result<(), Unjudgeable> {
        if self.backing == Backing::Transparent {
            return Err(Unjudgeable {
                why: "how large the folios are that fallocate makes is up to the kernel".to_owned(),
                advice: "touch the memory in place of it".to_owned(),
            });
        }
        let pages = pages_of(range);
        let start = self.page_of(pages.start).start;
        let end = pages.end.next_multiple_of(self.unit());
        self.populated.set(start..end, true);
        Ok(())
    }

    /// Dirty logging begins: every leaf is split down to 4K.
    fn log(&mut self, changes: &mut Changes) {
        if std::mem::replace(&mut self.logging, true) {
            return;
        }
        self.named = Runs::default();
        if self.backing == Backing::Small {
            return;
        }
        let is_leaf = |mapped| mapped == Mapped::Leaf;
        for pages in self.mapped.those(pages_of(self.memory), is_leaf) {
            changes.add(self.backing.leaf(), -count(&pages) / self.unit() as i64);
            changes.add(PageLevel::Size4K, count(&pages));
            for level in [PageLevel::Size1G, PageLevel::Size2M] {
                if level <= self.backing.leaf() {
                    split(changes, &pages, level);
                }
            }
            self.mapped.set(pages, Mapped::Page);
        }
        changes
            .split_leaves
            .sort_by_key(|leaf| (leaf.gpa, leaf.level));
    }

    /// Dirty logging ends: huge pages get their leaves back, now or at the next touch.
    fn stop_log(&mut self, changes: &mut Changes) {
        if !std::mem::replace(&mut self.logging, false) || self.backing == Backing::Small {
            return;
        }
        let memory = pages_of(self.memory);
        let mut at = memory.start;
        while at < memory.end {
            let (mapped, until) = self.mapped.at(at);
            if mapped != Mapped::Page {
                at = until;
                continue;
            }
            let unit = self.page_of(at);
            at = unit.end;
            if self.in_pieces(unit.start) {
                continue;
            }
            self.unmap(changes, unit.clone());
            if self.recovers {
                changes.add(self.backing.leaf(), 1);
                self.mapped.set(unit, Mapped::Leaf);
            }
        }
    }

    /// Expected content for the guest.
    fn reads(&self, pages: Pages) -> Vec<ReadPlan> {
        self.filled
            .stretches(pages)
            .map(|(pages, filled)| ReadPlan {
                range: range_of(&pages),
                content: filled.map_or(Content::Zero, Content::Filled),
            })
            .collect()
    }

    /// State of `window`, at most `most` runs.
    pub(super) fn map(&self, window: GpaRange, most: usize) -> Vec<(GpaRange, RegionState)> {
        self.mapped
            .stretches(pages_of(window))
            .filter(|(_, mapped)| *mapped != Mapped::Absent)
            .map(|(pages, mapped)| (range_of(&pages), mapped.state()))
            .take(most)
            .collect()
    }

    /// State of `window`, if it is uniform.
    pub(super) fn mapped_all_over(&self, window: GpaRange) -> Option<RegionState> {
        let mut stretches = self.mapped.stretches(pages_of(window));
        let first = stretches
            .next()
            .map_or(Mapped::Absent, |(_, mapped)| mapped);
        let same = stretches.all(|(_, mapped)| mapped == first);
        same.then(|| first.state())
    }
}

impl Mapped {
    fn state(self) -> RegionState {
        match self {
            Mapped::Absent => RegionState::Empty,
            Mapped::Page => RegionState::PageAccepted,
            Mapped::Leaf => RegionState::LeafAccepted,
        }
    }
}

/// Every leaf of `level` in `pages` splits once.
fn split(changes: &mut Changes, pages: &Pages, level: PageLevel) {
    changes.splits += count(pages) / level.pages_4k() as i64;
    let room = Expectation::MAX_SPLIT_LEAVES - changes.split_leaves.len();
    let starts = pages.clone().step_by(level.pages_4k() as usize).take(room);
    changes.split_leaves.extend(starts.map(|gfn| SplitLeaf {
        gpa: Gpa::from_gfn(gfn),
        level,
    }));
}

#[cfg(test)]
mod tests;
