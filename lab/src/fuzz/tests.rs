//! Drawing, counting, shrinking.

use std::path::Path;

use super::coverage::{OPERATIONS, STATES};
use super::*;
use crate::faults::{self, Fault};
use crate::host::interrupt::Interrupt;
use crate::host::sim::SimHost;
use crate::plan::Plan;
use crate::predict::Design;
use crate::replay;
use crate::scenario;

fn hunt(fault: Option<&'static Fault>, design: &str, seed: u64, plans: u64) -> Outcome {
    let host = match fault {
        Some(fault) => SimHost::in_memory().with_fault(fault),
        None => SimHost::in_memory(),
    };
    let interrupt = Interrupt::new();
    Fuzz {
        host: &host,
        design: Design::named(design).unwrap(),
        seed,
        budget: Budget::Plans(plans),
        jobs: 1,
        interrupt: &interrupt,
        folder: Path::new("/tmp"),
    }
    .run()
    .unwrap()
}

#[rstest::rstest]
#[case::stock("stock")]
#[case::v3("v3")]
#[case::v5("v5")]
#[case::headtail("headtail")]
fn a_sound_host_fails_nothing(#[case] design: &str) {
    let outcome = hunt(None, design, 7, 3000);
    if let Some(found) = &outcome.found {
        fails(found, design);
    }
    assert_eq!(outcome.plans, 3000);
    assert!(outcome.steps > 15_000, "{}", outcome.steps);
}

/// Shows what was found.
fn fails(found: &Found, design: &str) -> ! {
    let design = Design::named(design).unwrap();
    panic!(
        "{}\n{}",
        found.shrunk.failure,
        scenario(&found.shrunk.plan, design, "fuzz/found", "found")
    );
}

#[test]
fn with_one_job_the_seed_fixes_everything() {
    let one = hunt(None, "headtail", 3, 200);
    let other = hunt(None, "headtail", 3, 200);
    assert_eq!(one.coverage, other.coverage);
    assert_ne!(one.coverage, hunt(None, "headtail", 4, 200).coverage);
}

#[test]
fn what_is_rare_is_favoured() {
    let outcome = hunt(None, "headtail", 1, 3000);
    if let Some(found) = &outcome.found {
        fails(found, "headtail");
    }
    let table = table(&outcome.coverage).to_string();
    for name in OPERATIONS.iter().chain(&STATES) {
        assert!(table.contains(name), "{name} is not in\n{table}");
    }
    // Every operation met every state, and most ways of lying across boundaries.
    for (row, operation) in OPERATIONS.iter().enumerate() {
        for (state, name) in STATES.iter().enumerate() {
            let classes = (0..coverage::ALIGNMENTS)
                .filter(|one| outcome.coverage.count(row, state, *one) > 0)
                .count();
            assert!(classes > 0, "{operation} never met {name}\n{table}");
        }
    }
    assert!(outcome.coverage.reached() > 1200, "{table}");
}

#[test]
fn drawn_plans_are_plans_a_scenario_could_have_made() {
    let design = Design::named("headtail").unwrap();
    for seed in 0..300 {
        let (mut draw, guest) = Draw::with_guest(seed);
        let mut coverage = Coverage::default();
        let mut predictor = crate::predict::Predictor::new(design, &guest);
        let mut steps = Vec::new();
        for _ in 0..draw.steps() {
            let action = draw.step(&predictor, &mut coverage);
            let mut next = predictor.clone();
            if !next.step(&action).is_ok_and(|expected| expected.td_alive) {
                continue;
            }
            predictor = next;
            steps.push(crate::plan::Step {
                line: 0,
                action,
                expect: Default::default(),
            });
        }
        if steps.is_empty() {
            continue;
        }
        let plan = window::plan(guest, seed, steps);
        replay::check(&plan).unwrap();
        // And a scenario file makes the very plan again.
        let text = scenario(&plan, design, "fuzz/drawn", "Drawn at random.");
        let again = read(&text);
        assert_eq!(again.guest, plan.guest, "{text}");
        assert_eq!(again.seed, plan.seed, "{text}");
        let actions =
            |plan: &Plan| -> Vec<_> { plan.steps.iter().map(|step| step.action.clone()).collect() };
        assert_eq!(actions(&again), actions(&plan), "{text}");
    }
}

fn read(text: &str) -> Plan {
    let file = scenario::parse(Path::new("drawn.yaml"), text)
        .unwrap_or_else(|error| panic!("{:?}\n{text}", miette::Report::new(error)));
    scenario::expand(&file, None).unwrap().swap_remove(0)
}

/// The first plan that catches a fault and is short; where that of no seed is, the last that catches
/// it. A plan shrinks to the shortest for its witness, and some witnesses need a longer story.
fn drawn(fault: &'static Fault) -> Option<Shrunk> {
    let mut last = None;
    for seed in [11, 12, 13, 14] {
        let found = hunt(Some(fault), fault.design, seed, 4000).found;
        last = found.map(|found| found.shrunk).or(last);
        if last.as_ref().is_some_and(is_short) {
            break;
        }
    }
    last
}

/// At most three steps beyond the set-up.
fn is_short(shrunk: &Shrunk) -> bool {
    shrunk.plan.steps.len() - setup(&shrunk.plan) <= 3
}

/// A failing plan of the default set, for faults that no drawn plan comes across.
fn of_the_default_set(fault: &'static Fault) -> Option<(Plan, Failure)> {
    let design = Design::named(fault.design).unwrap();
    let host = SimHost::in_memory().with_fault(fault);
    let sound = SimHost::in_memory();
    let plans = scenario::embedded()
        .unwrap()
        .into_iter()
        .flat_map(|file| scenario::expand(&file, None).unwrap())
        .filter(|plan| plan.guest.backing.is_none() && design.meets(&plan.needs).is_ok());
    plans
        .filter(|plan| plan.needs.hosts.is_empty())
        .find_map(|plan| {
            let failure = attempt(&host, design, &plan, Path::new("/tmp"))?;
            let fails_anyway = attempt(&sound, design, &plan, Path::new("/tmp")).is_some();
            (!fails_anyway).then_some((plan, failure))
        })
}

/// Every seeded fault is caught by a plan that is no larger than it must be: at most three steps
/// beyond those that bring memory into its state (see [`setup`]).
#[test]
fn every_fault_shrinks_to_a_few_steps() {
    let mut lines = Vec::new();
    let mut too_long = Vec::new();
    for fault in faults::all() {
        let found = drawn(fault).map(|shrunk| (shrunk, "drawn")).or_else(|| {
            let (plan, failure) = of_the_default_set(fault)?;
            let design = Design::named(fault.design).unwrap();
            let host = SimHost::in_memory().with_fault(fault);
            let shrunk = shrink(
                &plan,
                &failure,
                20_000,
                || false,
                |simpler| attempt(&host, design, simpler, Path::new("/tmp")),
            );
            Some((shrunk, "default set"))
        });
        let Some((shrunk, from)) = found else {
            too_long.push(format!("{}: nothing catches it", fault.name));
            continue;
        };
        let (all, setup) = (shrunk.plan.steps.len(), setup(&shrunk.plan));
        lines.push(format!(
            "{:<44} {from:<12} {all} steps, {setup} of them set-up, {}",
            fault.name, shrunk.failure
        ));
        if !is_short(&shrunk) {
            let design = Design::named(fault.design).unwrap();
            let text = scenario(&shrunk.plan, design, "fuzz/long", "Too long.");
            too_long.push(format!("{}: {all} - {setup}\n{text}", fault.name));
        }
        // What is left fails by itself and from a file, in the same way.
        let design = Design::named(fault.design).unwrap();
        let text = scenario(&shrunk.plan, design, "fuzz/shrunk", "Shrunk.");
        let host = SimHost::in_memory().with_fault(fault);
        let again = attempt(&host, design, &read(&text), Path::new("/tmp"));
        assert!(
            again
                .as_ref()
                .is_some_and(|again| again.is_like(&shrunk.failure)),
            "{}: {again:?} is not like {}\n{text}",
            fault.name,
            shrunk.failure
        );
    }
    println!("{}", lines.join("\n"));
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
}
