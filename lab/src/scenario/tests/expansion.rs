//! What right files become.

use super::plans;
use crate::addr::{Gpa, GpaRange};
use crate::plan::{Action, Expect, Generation, HIGH_BASE, LOW_BASE, Op, Plan, Side, Size, VcpuId};

/// A file with these steps, in a guest of 64M with two vCPUs.
fn steps(steps: &str) -> String {
    format!("scenario: t/t\nabout: A test.\nguest: {{ memory: 64M, vcpus: 2 }}\nsteps:\n{steps}")
}

fn one(plans: &[Plan]) -> &Plan {
    let [plan] = plans else {
        panic!("{} plans", plans.len());
    };
    plan
}

fn ops(plan: &Plan) -> Vec<&Op> {
    plan.steps
        .iter()
        .map(|step| match &step.action {
            Action::One(op) => op,
            Action::Parallel(_) => panic!("a parallel step"),
        })
        .collect()
}

fn low(start: u64, end: u64) -> GpaRange {
    let base = LOW_BASE.as_u64();
    GpaRange::new(Gpa::new(base + start), Gpa::new(base + end)).expect("not reversed")
}

#[test]
fn ranges_become_addresses_and_fills_get_generations() {
    let plans = plans(&steps(
        "  - accept: { range: 0..4M, level: 2M, vcpu: 1 }\n    expect: { pages_2m: +2 }\n  \
         - fill: 0..4K\n  - fill: { range: 4K..+8K, side: shared }\n",
    ));
    let plan = one(&plans);
    assert_eq!(plan.guest.memory, low(0, 64 << 20));
    let fill = |range, number, side| Op::Fill {
        range,
        generation: Generation::new(number).expect("small"),
        side,
        vcpu: VcpuId(0),
    };
    let accept = Op::Accept {
        range: low(0, 4 << 20),
        size: Size::Size2M,
        vcpu: VcpuId(1),
    };
    assert_eq!(
        ops(plan),
        [
            &accept,
            &fill(low(0, 4096), 1, Side::Private),
            &fill(low(4096, 3 * 4096), 2, Side::Shared)
        ]
    );
    let expect = Expect {
        pages_2m: Some(2),
        ..Expect::default()
    };
    assert_eq!(plan.steps[0].expect, expect);
    let lines: Vec<u32> = plan.steps.iter().map(|step| step.line).collect();
    assert_eq!(lines, [5, 7, 8]);
}

#[test]
fn memory_that_does_not_fit_below_the_pci_hole_starts_at_4g() {
    let text = |memory: &str| {
        format!("scenario: t\nabout: T.\nguest: {{ memory: {memory} }}\nsteps: [probe: 0..4K]")
    };
    let start = |memory| one(&plans(&text(memory))).guest.memory.start();
    assert_eq!(start("1G"), LOW_BASE);
    assert_eq!(start("0x40001000"), HIGH_BASE);
    assert_eq!(start("16T"), HIGH_BASE);
}
