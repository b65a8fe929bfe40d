//! A stretch of a shared guest's memory, in which a plan finds itself at its own addresses.
//!
//! Operations go down to the guest at the addresses of the stretch, and what comes back is moved to
//! those of the plan: judge and journal see what they would of a guest of the plan's own.

use tdxlab_host::{HostError, Session};
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::{Ending, Observed, Reading, Sample};
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{CONTROL_PAGE, Op};

/// A shared guest, and the stretch of the plan that runs in it.
pub(super) struct Windowed {
    guest: Box<dyn Session>,
    place: Place,
    /// Populated pages of the whole guest before the plan's first step.
    populated_before: u64,
    /// Whether that is yet to be seen: the positive control is not over.
    settling: bool,
}

/// Where a plan's memory lies in a guest: one page for the positive control at the start of 2M, and what
/// the plan works on after them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Address of the control page.
    pub(super) control: Gpa,
    /// How far all addresses of the plan are moved up.
    pub(super) up: u64,
}

impl Windowed {
    pub(super) fn new(guest: Box<dyn Session>) -> Windowed {
        Windowed {
            guest,
            place: Place::default(),
            populated_before: 0,
            settling: true,
        }
    }

    /// Another plan begins, in a stretch that was never touched.
    pub(super) fn enter(&mut self, place: Place, seed: u64) {
        self.place = place;
        self.settling = true;
        self.guest.next_plan(seed);
    }

    /// How far an operation is moved up.
    fn up(&self, range: GpaRange) -> u64 {
        match is_control(range) {
            true => self.place.control.as_u64() - CONTROL_PAGE.as_u64(),
            false => self.place.up,
        }
    }

    fn placed(&self, range: GpaRange) -> Result<GpaRange, HostError> {
        let up = self.up(range);
        let moved = |gpa: Gpa| gpa.checked_add(up);
        moved(range.start())
            .zip(moved(range.end()))
            .and_then(|(start, end)| GpaRange::new(start, end))
            .ok_or_else(|| HostError::GuestRefused {
                reason: format!("{range} does not fit into the guest that the plan shares"),
            })
    }

    fn placed_op(&self, op: &Op) -> Result<(Op, u64), HostError> {
        let mut op = op.clone();
        let Some(range) = op.range() else {
            return Ok((op, 0));
        };
        op.set_range(self.placed(range)?);
        Ok((op, self.up(range)))
    }
}

fn is_control(range: GpaRange) -> bool {
    range == CONTROL_PAGE.page(PageLevel::Size4K)
}

impl Session for Windowed {
    fn perform(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError> {
        // After the positive control, what is populated is the plan's.
        self.settling &= op.range().is_some_and(is_control);
        let (op, up) = self.placed_op(op)?;
        let reads: Vec<GpaRange> = reads
            .iter()
            .map(|range| self.placed(*range))
            .collect::<Result<_, _>>()?;
        Ok(self.guest.perform(&op, &reads)?.moved_down(up))
    }

    fn perform_parallel(
        &mut self,
        branches: &[&[Op]],
        seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        self.settling = false;
        let mut placed: Vec<Vec<Op>> = Vec::new();
        for ops in branches {
            let ops = ops.iter().map(|op| Ok(self.placed_op(op)?.0));
            placed.push(ops.collect::<Result<_, HostError>>()?);
        }
        let placed: Vec<&[Op]> = placed.iter().map(Vec::as_slice).collect();
        let done = self.guest.perform_parallel(&placed, seed)?.into_iter();
        let up = self.place.up;
        let back = |branch: Vec<Observed>| branch.into_iter().map(|seen| seen.moved_down(up));
        Ok(done.map(|branch| back(branch).collect()).collect())
    }

    fn follow(&mut self, order: &Interleaving) {
        self.guest.follow(order);
    }

    fn take_interleaving(&mut self) -> Option<Interleaving> {
        self.guest.take_interleaving()
    }

    fn attach(&mut self) -> Vec<(String, String)> {
        self.guest.attach()
    }

    fn fault_reached(&self) -> Option<bool> {
        self.guest.fault_reached()
    }

    fn guests_before(&self) -> u32 {
        self.guest.guests_before()
    }

    /// Populated are the pages of the stretch: what the guest has more than before. The positive control
    /// has its page beside them, as it has in a guest of the plan's own.
    fn sample(&mut self) -> Sample {
        let mut sample = self.guest.sample();
        if let Reading::Read(splits) = &mut sample.splits {
            for split in splits {
                *split = split.moved_down(self.place.up);
            }
        }
        if let Reading::Read(populated) = sample.populated {
            if self.settling {
                self.populated_before = populated;
            }
            sample.populated = match populated.checked_sub(self.populated_before) {
                Some(own) => Reading::Read(own),
                None => Reading::incomplete(
                    "memory of the shared guest has gone that is not this plan's",
                ),
            };
        }
        sample
    }

    fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        self.guest.evidence()
    }

    fn end(self: Box<Self>) -> Result<Ending, HostError> {
        self.guest.end()
    }
}
