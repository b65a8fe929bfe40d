//! Splitting leaves: one leaf, or those that a range cuts.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::PhysicalMemory;
use tdxlab_tdxmodule::policy::{Allocation, Counted, Failure, SplitStage, SplitTrace, Why};

use super::Kvm;
use super::design::RangeSplit;
use super::mirror::Leaf;

impl<M: PhysicalMemory> Kvm<M> {
    /// Splits the 2M leaf over `gpa` into 4K leaves; no effect if there is none.
    pub(super) fn split_at(&mut self, gpa: Gpa, why: Why) -> Result<(), Failure> {
        let result = match self.mirror.leaf(gpa) {
            Some(leaf) if leaf.level == PageLevel::Size2M => self.split_leaf(&leaf, why),
            _ => Ok(()),
        };
        self.hardware.policy.split_result(why, result)
    }

    /// Splits the leaves that stick out of `range`, as the design finds them.
    pub(super) fn split_for_range(&mut self, range: GpaRange) -> Result<(), Failure> {
        match self.rules.range_split {
            RangeSplit::Never => Ok(()),
            RangeSplit::Walk => self.split_by_walk(range),
            RangeSplit::HeadAndTail => self.split_head_and_tail(range),
        }
    }

    /// v3: looks at every entry of the range.
    fn split_by_walk(&mut self, range: GpaRange) -> Result<(), Failure> {
        let mut cut = Vec::new();
        let mut looked = 0;
        let policy = &mut self.hardware.policy;
        self.mirror.walk_range(range, &mut |leaf| {
            looked += 1;
            if let Some(leaf) = leaf
                && policy.walk_splits(leaf.range(), range)
            {
                cut.push(leaf.gpa);
            }
        });
        self.entries_looked_at += looked;
        cut.into_iter()
            .try_for_each(|gpa| self.split_at(gpa, Why::RangeSplit))
    }

    /// v5, headtail: looks at the entry over the first and over the last byte, if the range cuts
    /// the 2M page there.
    fn split_head_and_tail(&mut self, range: GpaRange) -> Result<(), Failure> {
        let mut rest = range;
        while let Some((slot, part)) = self.slots.first_part(rest) {
            rest = GpaRange::new(part.end(), range.end()).unwrap_or_default();
            let offset = self.hardware.policy.file_offset(&slot, part.start());
            let ends = self.hardware.policy.head_and_tail(part, offset);
            for gpa in [ends.head, ends.tail].into_iter().flatten() {
                self.entries_looked_at += 1;
                self.split_at(gpa, Why::RangeSplit)?;
            }
        }
        Ok(())
    }

    fn split_leaf(&mut self, leaf: &Leaf, why: Why) -> Result<(), Failure> {
        let table = match self.take_sept_table(Allocation::SplitTable) {
            Ok(table) => table,
            Err(failure) => {
                self.trace_split(leaf, -failure.errno());
                return Err(failure);
            }
        };
        for stage in self.hardware.policy.split_stages(why) {
            match stage {
                SplitStage::Sept => {
                    if let Err(failure) = self.split_in_sept(leaf, table, why) {
                        self.give_sept_table(table);
                        return Err(failure);
                    }
                    self.sept_tables.push(table);
                }
                SplitStage::Mirror => self.mirror.split(leaf),
                SplitStage::Count => {
                    self.count(Counted::SplitParent, leaf.level, -1);
                    self.count(Counted::SplitChildren, PageLevel::Size4K, 512);
                }
                SplitStage::Trace => self.trace_split(leaf, 0),
            }
        }
        if let Some(line) = self.hardware.policy.remark_on_split() {
            self.log(line);
        }
        Ok(())
    }

    fn trace_split(&mut self, leaf: &Leaf, errno: i32) {
        let event = SplitTrace {
            gfn: leaf.gpa.gfn(),
            spte: leaf.spte.bits(),
            level: leaf.level.kvm(),
            errno,
        };
        if let Some(event) = self.hardware.policy.traced(event) {
            self.trace.split(&event);
        }
    }
}
