//! TDG.MEM.PAGE.ACCEPT over a range, and TDG.MEM.PAGE.RELEASE.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{AcceptSize, Run};
use tdxlab_protocol::tdcall::status;

use super::results::Results;
use crate::td;

pub(super) fn run(range: GpaRange, size: AcceptSize, results: &mut Results) {
    let end = range.end().as_u64();
    let mut position = range.start().as_u64();
    while position < end {
        let start = Gpa::new(position);
        let level = match size {
            AcceptSize::Exactly(level) => {
                accept(start, level, results);
                level
            }
            AcceptSize::Linux => match accept_largest(start, end - position, results) {
                Some(level) => level,
                None => return,
            },
        };
        position += level.bytes();
    }
}

/// Tries the sizes that fit at `start`, largest first, until one is accepted.
fn accept_largest(start: Gpa, left: u64, results: &mut Results) -> Option<PageLevel> {
    let fits = |level: &PageLevel| start.is_aligned(*level) && level.bytes() <= left;
    let levels = PageLevel::ALL.into_iter().rev().filter(fits);
    levels
        .into_iter()
        .find(|level| accept(start, *level, results) == status::SUCCESS)
}

/// TDG.MEM.PAGE.RELEASE over a range.
pub(super) fn release(range: GpaRange, level: PageLevel, results: &mut Results) {
    let mut position = range.start().as_u64();
    while position < range.end().as_u64() {
        let start = Gpa::new(position);
        push(start, level, td::release(start, level), results);
        position += level.bytes();
    }
}

fn accept(start: Gpa, level: PageLevel, results: &mut Results) -> u64 {
    let status = td::accept(start, level);
    push(start, level, status, results);
    status
}

fn push(start: Gpa, level: PageLevel, status: u64, results: &mut Results) {
    let run = Run::Accept {
        start,
        level,
        count: 1,
        status,
    };
    results.push(run, level);
}
