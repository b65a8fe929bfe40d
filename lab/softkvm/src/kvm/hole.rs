//! Host calls: punch a hole, allocate, pre-fault. In stages, so that vCPUs can run in between.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::PhysicalMemory;
use tdxlab_tdxmodule::policy::{Failure, FileId, HoleStage, HostCallKind};

use super::Kvm;
use super::design::Conversion;
use crate::api::HostCall;

/// Leaves zapped in one stage, after which KVM would let others have mmu_lock.
const ZAP_BATCH: usize = 32;

/// A host call that is under way.
#[derive(Clone, Debug)]
pub(crate) enum Running {
    /// A hole.
    Punch(Punch),
    /// Pages from the first address to the second are yet to be mapped.
    Prefault(Gpa, Gpa),
    /// File offsets yet to be populated.
    Allocate(Range<u64>),
    /// Over, with this errno.
    Over(i32),
}

/// A hole that is being punched.
#[derive(Clone, Debug)]
pub(crate) struct Punch {
    file: FileId,
    hole: Range<u64>,
    /// The part of it in each slot.
    ranges: Vec<GpaRange>,
    /// Stages yet to come, the next one first.
    stages: &'static [HoleStage],
    /// Parts of the ranges yet to be zapped, the next one last; `None` before the first zap.
    unzapped: Option<Vec<GpaRange>>,
    failure: Option<Failure>,
}

impl<M: PhysicalMemory> Kvm<M> {
    /// Starts a host call.
    pub(crate) fn start(&mut self, call: HostCall) -> Running {
        let file = FileId::Test;
        let size = self.files[file as usize].size();
        match call {
            HostCall::Punch { offset, len } => {
                let alignment = self.rules.hole_alignment;
                if len == 0 || !self.hardware.policy.hole_is_aligned(offset, len, alignment) {
                    return self.over(HostCallKind::Punch, libc::EINVAL);
                }
                // Parts past the end of the file are ignored silently.
                let hole = offset.min(size)..offset.saturating_add(len).min(size);
                if hole.is_empty() {
                    return self.over(HostCallKind::Punch, 0);
                }
                let file = self.hardware.policy.hole_file(file);
                let policy = &mut self.hardware.policy;
                let ranges = self
                    .slots
                    .of_file(file)
                    .filter_map(|slot| policy.hole_in_slot(slot, hole.clone()))
                    .collect();
                Running::Punch(Punch {
                    file,
                    hole,
                    ranges,
                    stages: policy.hole_stages(),
                    unzapped: None,
                    failure: None,
                })
            }
            HostCall::Prefault { range } => {
                if range.is_empty() || !range.is_aligned(PageLevel::Size4K) {
                    return self.over(HostCallKind::Prefault, libc::EINVAL);
                }
                Running::Prefault(range.start(), range.end())
            }
            HostCall::Allocate { offset, len } => {
                let unaligned = (offset | len) & (PageLevel::Size4K.bytes() - 1) != 0;
                match offset.checked_add(len) {
                    Some(end) if len > 0 && !unaligned && end <= size => {
                        Running::Allocate(offset..end)
                    }
                    _ => self.over(HostCallKind::Allocate, libc::EINVAL),
                }
            }
            HostCall::SetAttributes { offset, len, to } => {
                Running::Over(self.set_attributes(offset, len, to))
            }
            HostCall::Pin { range } => Running::Over(self.pin(range)),
            HostCall::Unpin { range } => Running::Over(self.unpin(range)),
            HostCall::DeleteSlot { range } => Running::Over(self.delete_slot(range)),
            HostCall::AddSlot { range } => Running::Over(self.add_slot(range)),
            HostCall::LogDirtyPages { on } => Running::Over(self.log_dirty_pages(on)),
            HostCall::Conversions { range, answer } => Running::Over(self.answer(range, answer)),
        }
    }

    /// Does one stage.
    pub(crate) fn advance_call(&mut self, running: Running) -> Running {
        match running {
            Running::Punch(punch) => self.advance_punch(punch),
            Running::Prefault(next, end) => self.advance_prefault(next, end),
            Running::Allocate(rest) => self.advance_allocate(rest),
            Running::Over(errno) => Running::Over(errno),
        }
    }

    fn over(&mut self, kind: HostCallKind, errno: i32) -> Running {
        Running::Over(self.hardware.policy.host_errno(kind, errno))
    }

    fn fail(&mut self, kind: HostCallKind, failure: Failure) -> Running {
        self.over(kind, failure.errno())
    }

    fn advance_punch(&mut self, mut punch: Punch) -> Running {
        let Some((stage, later)) = punch.stages.split_first() else {
            return match punch.failure {
                Some(failure) => self.fail(HostCallKind::Punch, failure),
                None => self.over(HostCallKind::Punch, 0),
            };
        };
        let mut done = true;
        match stage {
            HoleStage::InvalidateBegin => {
                self.invalidation.ranges.clone_from(&punch.ranges);
            }
            HoleStage::InvalidateEnd => {
                self.invalidation.ranges.clear();
                self.invalidation.sequence += 1;
            }
            // After a failed split, no page is zapped or freed.
            _ if punch.failure.is_some() => {}
            HoleStage::Split => {
                let result = punch
                    .ranges
                    .iter()
                    .try_for_each(|&range| self.split_for_range(range));
                punch.failure = result.err();
            }
            HoleStage::Zap => done = self.advance_zap(&mut punch),
            HoleStage::Truncate => {
                let hole = self.hardware.policy.hole_truncate_range(punch.hole.clone());
                self.files[punch.file as usize].truncate(hole, &mut self.hardware);
            }
        }
        if done {
            punch.stages = later;
        }
        Running::Punch(punch)
    }

    /// Zaps one batch; whether all is zapped.
    fn advance_zap(&mut self, punch: &mut Punch) -> bool {
        let policy = &mut self.hardware.policy;
        let unzapped = punch.unzapped.get_or_insert_with(|| {
            punch
                .ranges
                .iter()
                .rev()
                .map(|&range| policy.hole_zap_range(range))
                .collect()
        });
        let Some(range) = unzapped.pop() else {
            return true;
        };
        // The zap cannot be refused: where it failed the VM is dead, and the pages go.
        let end = match self.zap_private(range, ZAP_BATCH) {
            Ok(Some(next)) => next,
            Ok(None) | Err(_) => range.end(),
        };
        // Pages that both sides share lie in the same file.
        if self.rules.conversion == Conversion::InPlace
            && let Some(zapped) = GpaRange::new(range.start(), end)
        {
            self.zap_shared(zapped);
        }
        unzapped_after(punch, GpaRange::new(end, range.end()))
    }

    fn advance_prefault(&mut self, next: Gpa, end: Gpa) -> Running {
        if next >= end {
            return self.over(HostCallKind::Prefault, 0);
        }
        if self.slots.find(next).is_none() {
            return self.over(HostCallKind::Prefault, libc::ENOENT);
        }
        match self.prefault_page(next) {
            Ok(level) => Running::Prefault(next.page(level).end(), end),
            Err(failure) => self.fail(HostCallKind::Prefault, failure),
        }
    }

    /// Populates the rest of one 2M region.
    fn advance_allocate(&mut self, rest: Range<u64>) -> Running {
        if rest.is_empty() {
            return self.over(HostCallKind::Allocate, 0);
        }
        let region = PageLevel::Size2M.bytes();
        let end = rest.end.min((rest.start / region + 1) * region);
        let file = &mut self.files[FileId::Test as usize];
        for offset in (rest.start..end).step_by(PageLevel::Size4K.bytes() as usize) {
            match file.populate(offset, &mut self.hardware) {
                Some(page) if page.folio.is_some() => break,
                Some(_) => {}
                None => return self.fail(HostCallKind::Allocate, Failure::NoMemory),
            }
        }
        Running::Allocate(end..rest.end)
    }
}

/// Puts back the rest of a partly zapped range; whether the whole hole is done.
fn unzapped_after(punch: &mut Punch, rest: Option<GpaRange>) -> bool {
    let unzapped = punch.unzapped.get_or_insert_default();
    unzapped.extend(rest.filter(|rest| !rest.is_empty()));
    unzapped.is_empty()
}
