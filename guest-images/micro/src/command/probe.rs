//! TDG.MEM.PAGE.ATTR.RD over a range.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::Run;

use super::results::Results;
use crate::td;

pub(super) fn run(range: GpaRange, stride: PageLevel, results: &mut Results) {
    for position in (range.start().as_u64()..range.end().as_u64()).step_by(stride.bytes() as usize)
    {
        let start = Gpa::new(position);
        let found = td::page_attributes(start);
        let run = Run::Probe {
            start,
            count: 1,
            status: found.status,
            level: found.level,
            pending: found.pending,
            attributes: found.attributes,
        };
        results.push(run, stride);
    }
}
