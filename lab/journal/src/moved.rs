//! What was seen at other addresses than a plan has: a guest that several plans share gives each a
//! stretch of its memory.

use tdxlab_protocol::addr::{Gpa, GpaRange};
use tdxlab_protocol::message::{Access, Run};

use crate::{Observed, Reading, SplitEvent};

impl Observed {
    /// The same with every address so many bytes further down. What is further down than that stays
    /// where it is: it belongs to nothing that was moved.
    #[must_use]
    pub fn moved_down(mut self, bytes: u64) -> Observed {
        if let Some(at) = &mut self.error_at {
            move_down(at, bytes);
        }
        if let Some(Reading::Read(ranges)) = &mut self.logged {
            for range in ranges {
                let moved = range.start().as_u64().checked_sub(bytes).map(Gpa::new);
                let moved = moved.and_then(|start| GpaRange::with_len(start, range.bytes()));
                *range = moved.unwrap_or(*range);
            }
        }
        for run in &mut self.runs {
            match run {
                Run::Accept { start, .. }
                | Run::Content { start, .. }
                | Run::Probe { start, .. } => move_down(start, bytes),
                Run::Access { start, outcome, .. } => {
                    move_down(start, bytes);
                    if let Access::StrangeVe { gpa, .. } = outcome {
                        move_down(gpa, bytes);
                    }
                }
                Run::MapGpa {
                    status, stopped_at, ..
                } => {
                    if *status != 0 {
                        move_down(stopped_at, bytes);
                    }
                }
            }
        }
        self
    }
}

impl SplitEvent {
    /// The same so many bytes further down.
    #[must_use]
    pub fn moved_down(mut self, bytes: u64) -> SplitEvent {
        move_down(&mut self.gpa, bytes);
        self
    }
}

fn move_down(gpa: &mut Gpa, bytes: u64) {
    if let Some(lower) = gpa.as_u64().checked_sub(bytes) {
        *gpa = Gpa::new(lower);
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_protocol::addr::PageLevel;

    use super::*;

    #[test]
    fn all_addresses_move_and_distances_stay() {
        let observed = Observed {
            runs: vec![
                Run::Accept {
                    start: Gpa::new(0x5000_0000),
                    level: PageLevel::Size4K,
                    count: 3,
                    status: 0,
                },
                Run::MapGpa {
                    status: 0,
                    stopped_at: Gpa::new(7),
                    calls: 1,
                },
                Run::Access {
                    start: Gpa::new(0x5000_1000),
                    count: 1,
                    outcome: Access::StrangeVe {
                        reason: 1,
                        gpa: Gpa::new(0x1000),
                    },
                },
            ],
            ..Observed::default()
        };
        let moved = observed.moved_down(0x1000_0000).runs;
        assert!(
            matches!(moved[0], Run::Accept { start, count: 3, .. } if start == Gpa::new(0x4000_0000))
        );
        assert!(matches!(moved[1], Run::MapGpa { stopped_at, .. } if stopped_at == Gpa::new(7)));
        let Run::Access {
            start,
            outcome: Access::StrangeVe { gpa, .. },
            ..
        } = moved[2]
        else {
            panic!("{moved:?}");
        };
        assert_eq!((start, gpa), (Gpa::new(0x4000_1000), Gpa::new(0x1000)));
    }
}
