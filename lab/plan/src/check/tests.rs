//! Plans that no scenario could have made.

use rstest::rstest;
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::message::{Side, VcpuId};
use tdxlab_protocol::pattern::Generation;

use super::check;
use crate::expect::{Expect, ExpectErrno, ExpectStatus, ExpectTd};
use crate::op::{Action, Branch, Op, Size};
use crate::plan::{Guest, LOW_BASE, Needs, Plan, Step, VERSION};

const M: u64 = 1 << 20;

fn range(start: u64, end: u64) -> GpaRange {
    let start = LOW_BASE.checked_add(start).unwrap();
    GpaRange::new(start, LOW_BASE.checked_add(end).unwrap()).unwrap()
}

fn fill(number: u16) -> Op {
    Op::Fill {
        range: range(0, M),
        generation: Generation::new(number).unwrap(),
        side: Side::Private,
        vcpu: VcpuId(0),
    }
}

fn accept() -> Op {
    Op::Accept {
        range: range(0, 4 * M),
        size: Size::Size2M,
        vcpu: VcpuId(0),
    }
}

fn punch() -> Op {
    let range = range(M, 2 * M);
    Op::Punch { range }
}

fn convert() -> Op {
    Op::Convert {
        range: range(M, 5 * M),
        to: Side::Shared,
        vcpu: VcpuId(0),
    }
}

fn step(op: Op, expect: Expect) -> Step {
    let action = Action::One(op);
    Step {
        line: 1,
        action,
        expect,
    }
}

fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        version: VERSION,
        name: "t/t".to_owned(),
        about: "It shows something.".to_owned(),
        seed: 1,
        needs: Needs::default(),
        guest: Guest::over(range(0, 64 * M)),
        steps,
    }
}

fn of(ops: Vec<Op>) -> Plan {
    let plain = |op| step(op, Expect::default());
    plan(ops.into_iter().map(plain).collect())
}

fn splits(splits: u64) -> Expect {
    Expect {
        splits: Some(splits),
        ..Expect::default()
    }
}

fn errno() -> Expect {
    Expect {
        errno: Some(ExpectErrno::EINVAL),
        ..Expect::default()
    }
}

fn status() -> Expect {
    Expect {
        status: Some(ExpectStatus::Success),
        ..Expect::default()
    }
}

fn killed() -> Expect {
    Expect {
        td: Some(ExpectTd::Killed),
        ..Expect::default()
    }
}

#[rstest]
#[case::fills(of(vec![accept(), fill(1), fill(2)]))]
#[case::splits(plan(vec![step(accept(), splits(2)), step(punch(), splits(1)), step(convert(), splits(3))]))]
#[case::fits(plan(vec![step(accept(), status()), step(punch(), errno()), step(fill(1), killed())]))]
fn plans_that_could_be(#[case] plan: Plan) {
    assert_eq!(check(&plan), Ok(()));
}

#[rstest]
#[case::no_steps(of(vec![]), "it has no steps")]
#[case::generation_twice(of(vec![fill(1), fill(2), fill(1)]), "step 3: a fill before it has generation 1")]
#[case::errno_of_a_fill(plan(vec![step(fill(1), errno())]), "step 1: it expects `errno`")]
#[case::errno_of_a_conversion(plan(vec![step(convert(), errno())]), "step 1: it expects `errno`")]
#[case::status_of_a_hole(plan(vec![step(accept(), status()), step(punch(), status())]), "step 2: it expects `status`")]
#[case::splits(plan(vec![step(accept(), splits(99))]), "reaches 2 leaves")]
#[case::more_splits_than_leaves(plan(vec![step(punch(), splits(2))]), "reaches 1 leaves")]
#[case::killed_by_a_hole(plan(vec![step(punch(), killed())]), "nothing that kills a TD")]
#[case::killed_by_a_conversion(plan(vec![step(convert(), killed())]), "nothing that kills a TD")]
#[case::after_death(plan(vec![step(fill(1), killed()), step(fill(2), splits(0))]), "step 2: it comes after step 1")]
fn plans_that_nobody_made(#[case] plan: Plan, #[case] says: &str) {
    let said = check(&plan).unwrap_err().to_string();
    assert!(said.contains(says), "{said}");
}

#[test]
fn a_race_has_one_generation_for_each_fill() {
    let mut other = fill(1);
    other.set_vcpu(VcpuId(1));
    let mut plan = of(vec![punch()]);
    plan.guest.vcpus = 2;
    plan.steps[0].action = Action::Parallel(vec![Branch(vec![fill(1)]), Branch(vec![other])]);
    let said = check(&plan).unwrap_err().to_string();
    assert!(said.contains("every fill has its own"), "{said}");
}

#[rstest]
#[case("")]
#[case("../../x")]
#[case("a\nok 1 - b\u{1b}[31m")]
fn names_that_would_not_stay_names(#[case] name: &str) {
    let mut plan = of(vec![punch()]);
    plan.name = name.to_owned() + &"X".repeat(2000 * usize::from(!name.is_empty()));
    let said = check(&plan).unwrap_err().to_string();
    assert!(said.len() < 300, "{said}");
    assert!(said.contains("cannot be the name of a plan"), "{said}");
    assert!(!said.contains(['\n', '\u{1b}']), "{said}");
}

#[test]
fn a_description_steers_no_terminal() {
    let mut plan = of(vec![punch()]);
    plan.about = "Two\nlines.".to_owned();
    assert_eq!(check(&plan), Ok(()));
    plan.about = "\u{1b}[31mred".to_owned();
    let said = check(&plan).unwrap_err().to_string();
    assert!(said.contains("U+001B"), "{said}");
}
