//! Run-length coding of results, so that 512 equal codes are one entry.

use crate::addr::{Gpa, PageLevel};
use crate::message::{Content, Run};

impl Run {
    /// Merges `next` into this run if it is contiguous and has the same result. `stride` is the
    /// distance between two results of a touch or a probe; ACCEPTs are their own level apart,
    /// contents and fills 4K. Returns `next` if it is a separate run.
    pub fn absorb(&mut self, next: Run, stride: PageLevel) -> Option<Run> {
        match self.try_absorb(&next, stride) {
            Some(()) => None,
            None => Some(next),
        }
    }

    fn try_absorb(&mut self, next: &Run, stride: PageLevel) -> Option<()> {
        match (self, next) {
            (
                Run::Accept {
                    start,
                    level,
                    count,
                    status,
                },
                Run::Accept {
                    start: next_start,
                    level: next_level,
                    count: next_count,
                    status: next_status,
                },
            ) if level == next_level && status == next_status => {
                join(*start, count, *level, *next_start, *next_count)
            }
            (
                Run::Access {
                    start,
                    count,
                    outcome,
                },
                Run::Access {
                    start: next_start,
                    count: next_count,
                    outcome: next_outcome,
                },
            ) if outcome == next_outcome => join(*start, count, stride, *next_start, *next_count),
            (
                Run::Content {
                    start,
                    count,
                    content,
                },
                Run::Content {
                    start: next_start,
                    count: next_count,
                    content: next_content,
                },
            ) if content == next_content && !matches!(content, Content::Torn { .. }) => {
                join(*start, count, PageLevel::Size4K, *next_start, *next_count)
            }
            (
                Run::Probe {
                    start,
                    count,
                    status,
                    level,
                    pending,
                    attributes,
                },
                Run::Probe {
                    start: next_start,
                    count: next_count,
                    status: next_status,
                    level: next_level,
                    pending: next_pending,
                    attributes: next_attributes,
                },
            ) if (*status, *level, *pending, *attributes)
                == (*next_status, *next_level, *next_pending, *next_attributes) =>
            {
                join(*start, count, stride, *next_start, *next_count)
            }
            _ => None,
        }
    }
}

/// Adds `next_count` to `count` where `next` is the first address after the run.
fn join(start: Gpa, count: &mut u32, step: PageLevel, next: Gpa, next_count: u32) -> Option<()> {
    let end = start.checked_add(u64::from(*count).checked_mul(step.bytes())?)?;
    let sum = count.checked_add(next_count)?;
    (end == next).then(|| *count = sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Access;
    use crate::pattern::Generation;

    fn accept(start: u64, count: u32, status: u64) -> Run {
        Run::Accept {
            start: Gpa::new(start),
            level: PageLevel::Size4K,
            count,
            status,
        }
    }

    fn touched(start: u64) -> Run {
        Run::Access {
            start: Gpa::new(start),
            count: 1,
            outcome: Access::Done,
        }
    }

    #[test]
    fn five_hundred_and_twelve_equal_codes_are_one_entry() {
        let mut run = accept(0x20_0000, 1, 0);
        for page in 1..512 {
            assert_eq!(
                run.absorb(accept(0x20_0000 + page * 0x1000, 1, 0), PageLevel::Size4K),
                None
            );
        }
        assert_eq!(run, accept(0x20_0000, 512, 0));
    }

    #[test]
    fn another_code_a_gap_and_another_kind_are_runs_of_their_own() {
        let mut run = accept(0, 1, 0);
        for next in [accept(0x1000, 1, 1), accept(0x2000, 1, 0), touched(0x1000)] {
            assert_eq!(run.absorb(next.clone(), PageLevel::Size4K), Some(next));
        }
        assert_eq!(run, accept(0, 1, 0));
    }

    #[test]
    fn touches_follow_each_other_at_their_stride() {
        let mut run = touched(0);
        assert_eq!(run.absorb(touched(0x20_0000), PageLevel::Size2M), None);
        let next = touched(0x40_1000);
        assert_eq!(run.absorb(next.clone(), PageLevel::Size2M), Some(next));
    }

    #[test]
    fn a_full_count_starts_a_new_run() {
        let mut run = accept(0, u32::MAX, 0);
        let next = accept(u64::from(u32::MAX) << 12, 1, 0);
        assert_eq!(run.absorb(next.clone(), PageLevel::Size4K), Some(next));
    }

    #[test]
    fn torn_pages_stay_single() {
        let torn = |start| Run::Content {
            start: Gpa::new(start),
            count: 1,
            content: Content::Torn {
                like_first: 512,
                words: heapless::Vec::from_slice(&[(0, 7)]).unwrap(),
            },
        };
        let mut run = torn(0);
        assert_eq!(
            run.absorb(torn(0x1000), PageLevel::Size4K),
            Some(torn(0x1000))
        );
        let own = |start| Run::Content {
            start: Gpa::new(start),
            count: 1,
            content: Content::Own(Generation::MAX),
        };
        let mut run = own(0);
        assert_eq!(run.absorb(own(0x1000), PageLevel::Size2M), None);
    }
}
