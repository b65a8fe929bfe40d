//! Touching and filling memory, and handling a #VE meanwhile.

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{Access, OnVe, Run, Side};
use tdxlab_protocol::pattern::{self, Generation};
use tdxlab_protocol::tdcall::{EXIT_REASON_EPT_VIOLATION, status};

use super::results::Results;
use crate::td::{self, VeInfo};
use crate::window;

/// Bound on ACCEPTs of a page that becomes pending again before it is accessed. A racing host could
/// otherwise keep the guest here forever.
const ACCEPTS: u32 = 8;

pub(super) fn touch(
    range: GpaRange,
    stride: PageLevel,
    side: Side,
    on_ve: OnVe,
    access: impl Fn(Gpa) -> Result<(), VeInfo>,
    results: &mut Results,
) {
    for position in (range.start().as_u64()..range.end().as_u64()).step_by(stride.bytes() as usize)
    {
        let start = Gpa::new(position);
        let outcome = outcome(start, side, on_ve, || access(start));
        let run = Run::Access {
            start,
            count: 1,
            outcome,
        };
        results.push(run, stride);
    }
}

pub(super) fn fill(range: GpaRange, generation: Generation, side: Side, results: &mut Results) {
    for start in range.pages(PageLevel::Size4K) {
        let first = pattern::word(start, 0, generation);
        let outcome = outcome(start, side, OnVe::Skip, || window::fill(start, side, first));
        let run = Run::Access {
            start,
            count: 1,
            outcome,
        };
        results.push(run, PageLevel::Size4K);
    }
}

/// Makes an access to the page of `gpa`, and again after each #VE that could be helped.
fn outcome(
    gpa: Gpa,
    side: Side,
    on_ve: OnVe,
    mut access: impl FnMut() -> Result<(), VeInfo>,
) -> Access {
    let mut done = Access::Done;
    for _ in 0..ACCEPTS {
        let Err(ve) = access() else {
            return done;
        };
        if !fits(&ve, gpa, side) {
            return Access::StrangeVe {
                reason: ve.reason,
                gpa: ve.gpa,
            };
        }
        if on_ve == OnVe::Skip {
            return Access::Ve;
        }
        match td::accept(gpa.align_down(PageLevel::Size4K), PageLevel::Size4K) {
            status::SUCCESS => done = Access::Accepted,
            status => return Access::AcceptFailed { status },
        }
    }
    Access::Ve
}

/// Whether a #VE matches an access to a pending page at `gpa`.
pub(super) fn fits(ve: &VeInfo, gpa: Gpa, side: Side) -> bool {
    let page = Gpa::new(ve.gpa.as_u64() & !td::side_bit(Side::Shared)).gfn();
    ve.reason == EXIT_REASON_EPT_VIOLATION && side == Side::Private && page == gpa.gfn()
}
