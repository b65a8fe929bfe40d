//! Expansion of valid files.

use tdxlab_plan::addr::{Gpa, GpaRange};
use tdxlab_plan::{Action, Expect, Generation, HIGH_BASE, LOW_BASE, Op, Plan, Side, Size, VcpuId};

use super::plans;

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

#[test]
fn every_case_meets_every_point_of_the_matrix() {
    let plans = plans(
        "scenario: t/t\nabout: A test.\nguest: { memory: 64M }\n\
         cases: { head: { at: 1M }, tail: { at: 3M } }\n\
         matrix: { length: [4K, 2M], gap: [0] }\n\
         steps:\n  - punch: $at+$gap..+$length\n",
    );
    let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "t/t[head,length=4K,gap=0]",
            "t/t[head,length=2M,gap=0]",
            "t/t[tail,length=4K,gap=0]",
            "t/t[tail,length=2M,gap=0]"
        ]
    );
    let range = low(3 << 20, 5 << 20);
    assert_eq!(ops(&plans[3]), [&Op::Punch { range }]);
}

#[test]
fn parts_of_a_range_can_be_taken() {
    let plans = plans(
        "scenario: t/t\nabout: A test.\nguest: { memory: 64M }\n\
         matrix: { hole: [1M..11M] }\n\
         steps:\n  - fill: 0..$hole.start\n  - fill: ${hole}.end..+$hole.len\n",
    );
    let ranges: Vec<GpaRange> = ops(&plans[0])
        .into_iter()
        .map(|op| match op {
            Op::Fill { range, .. } => *range,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ranges, [low(0, 1 << 20), low(11 << 20, 21 << 20)]);
}

#[test]
fn rounds_of_a_repeat_count_and_draw() {
    let text = steps(
        "  - repeat:\n      times: 20\n      as: round\n      draw:\n        \
         at: { within: 1M..2M, align: 8K }\n        length: [4K, 8K]\n      steps:\n        \
         - punch: $at..+$length\n        - fill: $round*4K..+4K\n",
    );
    let plans = plans(&text);
    let ops = ops(one(&plans));
    assert_eq!(ops.len(), 40);
    let mut drawn = Vec::new();
    for (round, pair) in ops.chunks(2).enumerate() {
        let [
            Op::Punch { range },
            Op::Fill {
                range: filled,
                generation,
                ..
            },
        ] = pair
        else {
            panic!("{pair:?}");
        };
        assert_eq!(*filled, low(round as u64 * 4096, (round as u64 + 1) * 4096));
        assert_eq!(usize::from(generation.get()), round + 1);
        assert!(low(1 << 20, (2 << 20) + 8192).contains_range(*range));
        assert!(range.start().as_u64().is_multiple_of(8192));
        assert!([4096, 8192].contains(&range.bytes()));
        drawn.push(*range);
    }
    drawn.sort();
    drawn.dedup();
    assert!(drawn.len() > 10, "{drawn:?}");
}

#[test]
fn a_seed_decides_every_draw_and_nothing_else_does() {
    let text = |matrix: &str| {
        format!(
            "scenario: t/t\nabout: A test.\nguest: {{ memory: 64M }}\nmatrix: {{ a: {matrix} }}\n\
             draw: {{ at: {{ within: 0..32M }} }}\nsteps: [punch: $at+$a..+4K]\n"
        )
    };
    let drawn = |matrix: &str, seed| {
        let scenario = super::scenario(&text(matrix)).expect("right");
        super::expand(&scenario, seed)
            .expect("right")
            .pop()
            .expect("one")
    };
    assert_eq!(drawn("[0]", None), drawn("[0]", None));
    assert_eq!(
        drawn("[0]", Some(1)),
        drawn("[0]", None),
        "1 is the seed where none is given"
    );
    assert_ne!(drawn("[0]", Some(2)).steps, drawn("[0]", None).steps);
    assert_eq!(drawn("[0]", Some(2)).seed, 2);
    assert_eq!(
        drawn("[4K, 0]", None),
        drawn("[0]", None),
        "other points of the matrix do not matter"
    );
}

#[test]
fn branches_are_one_operation_or_a_list() {
    let plans = plans(&steps(
        "  - parallel:\n      - fill: { range: 0..4K, vcpu: 1 }\n      \
         - - punch: 2M..4M\n        - prefault: 2M..4M\n    expect: { errno: ok }\n",
    ));
    let Action::Parallel(branches) = &one(&plans).steps[0].action else {
        panic!("not parallel");
    };
    let lengths: Vec<usize> = branches.iter().map(|branch| branch.0.len()).collect();
    assert_eq!(lengths, [1, 2]);
}

#[test]
fn slots_and_image_become_addresses() {
    let plans = plans(
        "scenario: t/t\nabout: A test.\n\
         guest:\n  memory: 16M\n  vcpus: 64\n  sept_ve_disable: true\n  \
         image: [1M..2M, 0..64K]\n  slots:\n    - { range: 0..8M, gmem: 12M }\n    \
         - { range: 8M..16M, gmem: 4K }\n\
         needs: { private_leaf: 2M, hosts: [soft, sim] }\nsteps: [probe: 0..4K]\n",
    );
    let plan = one(&plans);
    let slots: Vec<_> = plan
        .guest
        .slots
        .iter()
        .map(|slot| (slot.range, slot.gmem_offset))
        .collect();
    assert_eq!(
        slots,
        [(low(0, 8 << 20), 12 << 20), (low(8 << 20, 16 << 20), 4096)]
    );
    assert_eq!(plan.guest.image, [low(0, 64 << 10), low(1 << 20, 2 << 20)]);
    assert!(plan.guest.sept_ve_disable && plan.guest.vcpus == 64);
    assert_eq!(
        plan.needs.private_leaf,
        Some(tdxlab_plan::addr::PageLevel::Size2M)
    );
    assert_eq!(plan.needs.hosts.len(), 2);
}

#[test]
fn a_hole_may_end_past_the_guest_and_be_unaligned_where_that_is_the_point() {
    let plans = plans(&steps(
        "  - punch: 62M..66M\n  - punch: 64M..66M\n  - punch: 512..1K\n    \
         expect: { errno: EINVAL }\n",
    ));
    assert_eq!(one(&plans).steps.len(), 3);
}

#[test]
fn a_plan_survives_its_replay_file() {
    let set = super::super::embedded().expect("right");
    for plan in set
        .iter()
        .flat_map(|scenario| super::expand(scenario, None).expect("right"))
    {
        let text = serde_json::to_string(&plan).expect("it is JSON");
        let back: Plan = serde_json::from_str(&text).expect("it was written");
        assert_eq!(back, plan);
    }
}
