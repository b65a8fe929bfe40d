//! Plans that were started must be the same when the run goes on.

use tdxlab_journal::folder::RunFolder;
use tdxlab_plan::addr::{Gpa, GpaRange};
use tdxlab_plan::{Action, Guest, HostKind, HostProfile, Needs, Op};

use super::*;

fn memory() -> GpaRange {
    GpaRange::with_len(Gpa::new(1 << 30), 64 << 20).unwrap()
}

fn plan(name: &str) -> Plan {
    let step = Step {
        line: 7,
        action: Action::One(Op::Punch { range: memory() }),
        expect: Default::default(),
    };
    Plan {
        version: tdxlab_plan::VERSION,
        name: name.to_owned(),
        about: "Holes.".to_owned(),
        seed: 1,
        needs: Needs::default(),
        guest: Guest::over(memory()),
        steps: vec![step.clone(), step],
    }
}

/// Of two plans, the first was started and the run killed. What is said of them as they are now.
fn resumed(now: Vec<Plan>) -> Result<usize, String> {
    let reports = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(reports.path()).unwrap();
    let journal = folder.journal().unwrap();
    let host = HostKind::Sim;
    let head = RunStarted {
        plans: vec!["punch/a".to_owned(), "punch/b".to_owned()],
        ..folder.head(host, HostProfile::of(host))
    };
    journal.write(&Event::RunStarted(head)).unwrap();
    let started = Event::PlanStarted {
        plan: PlanId(0),
        scenario: None,
        body: plan("punch/a"),
    };
    journal.write(&started).unwrap();
    let progress = Resumable::of(folder.path()).unwrap();
    let left = progress.left(now, |plan| AnyPlan::from(plan));
    left.map(|left| left.len())
        .map_err(|error| error.to_string())
}

/// What a step does may stay where it is while all around it moves.
#[test]
fn a_plan_that_does_the_same_is_the_same() {
    let mut first = plan("punch/a");
    first.about = "Holes, in better words.".to_owned();
    first.steps[1].line = 70;
    assert_eq!(resumed(vec![first, plan("punch/b")]), Ok(2));
}

#[test]
fn a_plan_that_was_started_and_changed_is_refused_by_its_name() {
    let half = GpaRange::with_len(memory().start(), 32 << 20).unwrap();
    type Change = fn(&mut Plan, GpaRange);
    let changes: [(&str, Change); 5] = [
        ("step 2 was: punch 0..64M", |plan, half| {
            plan.steps[1].action = Action::One(Op::Punch { range: half });
        }),
        ("step 1 has another `expect`", |plan, _| {
            plan.steps[0].expect.splits = Some(9);
        }),
        ("there were 2 steps, now there are 1", |plan, _| {
            plan.steps.pop();
        }),
        ("the guest changed", |plan, _| plan.guest.vcpus = 2),
        ("the seed changed", |plan, _| plan.seed = 2),
    ];
    for (what, change) in changes {
        let mut first = plan("punch/a");
        change(&mut first, half);
        let said = resumed(vec![first, plan("punch/b")]).unwrap_err();
        assert!(said.contains(&format!("of punch/a, {what}")), "{said}");
    }
}
