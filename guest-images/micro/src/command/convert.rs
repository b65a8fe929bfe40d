//! MapGPA over a range.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{Run, Side};
use tdxlab_protocol::tdcall::vmcall;

use super::results::Results;
use crate::td;

/// How often the VMM may say "retry" without getting ahead. It may when an interrupt is pending.
const STANDSTILLS: u32 = 1000;

pub(super) fn run(range: GpaRange, to: Side, results: &mut Results) {
    let mut left = range;
    let mut calls = 0;
    let mut standstills = 0;
    let (status, stopped_at) = loop {
        let (status, address) = td::map_gpa(left, to);
        calls += 1;
        if status == vmcall::SUCCESS {
            break (status, range.end());
        }
        let stopped_at = Gpa::new(address & !td::side_bit(Side::Shared));
        let inside = left.contains(stopped_at) && stopped_at.is_aligned(PageLevel::Size4K);
        let rest = GpaRange::new(stopped_at, range.end()).filter(|_| inside);
        match rest {
            Some(rest) if status == vmcall::RETRY => {
                standstills = if rest == left { standstills + 1 } else { 0 };
                left = rest;
            }
            _ => break (status, stopped_at),
        }
        if standstills > STANDSTILLS {
            break (status, stopped_at);
        }
    };
    let run = Run::MapGpa {
        status,
        stopped_at,
        calls,
    };
    results.push(run, PageLevel::Size4K);
}
