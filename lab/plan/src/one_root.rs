//! What a rehearsal does otherwise than a TDX host: its VM is no TD.

use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::message::Side;

use crate::op::{Action, Op};
use crate::plan::Plan;

/// What a plan asks of a TD that the VM of a rehearsal does otherwise.
pub(crate) fn beyond(plan: &Plan) -> Option<String> {
    let mut root = OneRoot::default();
    let mut actions = plan.steps.iter().map(|step| &step.action);
    let found = actions.any(|action| !root.can(action));
    found.then(|| NO_ROOT_OF_ITS_OWN.to_owned())
}

const NO_ROOT_OF_ITS_OWN: &str = "needs a hole that leaves shared memory mapped; the VM of a rehearsal has one root, of which holes take it";

/// The one root of a rehearsal's VM, which serves private and shared memory.
///
/// A TD's shared memory has a root of its own, which holes in the guest_memfd leave alone
/// (`kvm_gfn_range_filter_to_root_types()`). Here a hole takes the shared leaves above it, too.
#[derive(Clone, Debug, Default)]
pub struct OneRoot {
    /// What may be mapped shared.
    shared: Vec<GpaRange>,
}

impl OneRoot {
    /// Whether the step does here what it does in a TD: none of its holes lies below memory that is
    /// shared. If so, notes what it shares.
    pub fn can(&mut self, action: &Action) -> bool {
        let before = self.shared.len();
        self.shared.extend(action.ops().filter_map(shares));
        let holes = || {
            action.ops().filter_map(|op| match op {
                Op::Punch { range } => Some(*range),
                _ => None,
            })
        };
        if holes().any(|hole| self.shared.iter().any(|one| one.overlaps(hole))) {
            self.shared.truncate(before);
            return false;
        }
        // What others do at the same time may come after it.
        if let Action::One(Op::Convert { range, to, .. }) = action
            && *to == Side::Private
        {
            self.shared.retain(|one| !range.contains_range(*one));
        }
        true
    }
}

/// What an operation shares.
fn shares(op: &Op) -> Option<GpaRange> {
    match op {
        Op::Convert { to: side, .. }
        | Op::Touch { side, .. }
        | Op::Fill { side, .. }
        | Op::Verify { side, .. }
            if *side == Side::Shared =>
        {
            op.range()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tdxlab_protocol::addr::Gpa;
    use tdxlab_protocol::message::VcpuId;
    use tdxlab_protocol::pattern::Generation;

    use super::*;
    use crate::expect::Expect;
    use crate::plan::{Guest, LOW_BASE, Needs, Step, VERSION};

    fn at(start: u64, end: u64) -> GpaRange {
        let at = |offset| Gpa::new(LOW_BASE.as_u64() + offset);
        GpaRange::new(at(start), at(end)).unwrap()
    }

    fn convert(start: u64, end: u64, to: Side) -> Op {
        Op::Convert {
            range: at(start, end),
            to,
            vcpu: VcpuId(0),
        }
    }

    fn fill_shared(start: u64, end: u64) -> Op {
        Op::Fill {
            range: at(start, end),
            generation: Generation::MAX,
            side: Side::Shared,
            vcpu: VcpuId(0),
        }
    }

    fn punch(start: u64, end: u64) -> Op {
        Op::Punch {
            range: at(start, end),
        }
    }

    const PAGE: u64 = 4096;

    #[rstest]
    #[case::nothing_shared(&[punch(0, PAGE)], true)]
    #[case::below_shared(&[convert(0, 2 * PAGE, Side::Shared), punch(PAGE, 3 * PAGE)], false)]
    #[case::below_what_an_access_shared(&[fill_shared(0, PAGE), punch(0, PAGE)], false)]
    #[case::beside_shared(&[convert(0, PAGE, Side::Shared), punch(PAGE, 2 * PAGE)], true)]
    #[case::before_it_is_shared(&[punch(0, PAGE), convert(0, PAGE, Side::Shared)], true)]
    #[case::private_again(
        &[convert(0, PAGE, Side::Shared), convert(0, PAGE, Side::Private), punch(0, PAGE)],
        true
    )]
    #[case::half_of_it_private_again(
        &[convert(0, 2 * PAGE, Side::Shared), convert(0, PAGE, Side::Private), punch(PAGE, 2 * PAGE)],
        false
    )]
    fn holes_below_shared_memory_are_beyond_a_rehearsal(#[case] ops: &[Op], #[case] within: bool) {
        let steps = ops.iter().map(|op| Step {
            line: 1,
            action: Action::One(op.clone()),
            expect: Expect::default(),
        });
        let plan = Plan {
            version: VERSION,
            name: "holes".to_owned(),
            about: String::new(),
            seed: 1,
            needs: Needs::default(),
            guest: Guest::over(at(0, 2 << 20)),
            steps: steps.collect(),
        };
        assert_eq!(beyond(&plan).is_none(), within);
    }
}
