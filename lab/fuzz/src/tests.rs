//! Drawing, counting, shrinking.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::num::NonZero;
use std::path::Path;
use std::thread;

use parking_lot::Mutex;
use tdxlab_faults as faults;
use tdxlab_faults::Fault;
use tdxlab_host_soft::SoftwareHost;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::needs::{self, HostAndDesign};
use tdxlab_plan::{Action, Backing, Design, Guest, HostKind, HostProfile, Op, Plan};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_run::in_parallel;
use tdxlab_scenario as scenario;

use super::*;

fn hunt(fault: Option<&'static Fault>, design: &str, seed: u64, plans: u64) -> Outcome {
    hunt_of(fault, design, seed, plans, CANDIDATES)
}

fn hunt_of(
    fault: Option<&'static Fault>,
    design: &str,
    seed: u64,
    plans: u64,
    candidates: usize,
) -> Outcome {
    let host = match fault {
        Some(fault) => SimHost::in_memory().with_fault(fault.seeded()),
        None => SimHost::in_memory(),
    };
    let interrupt = Interrupt::new();
    Fuzz {
        host: &host,
        design: Design::named(design).unwrap(),
        seed,
        budget: Budget::Plans(plans),
        jobs: 1,
        candidates,
        interrupt: &interrupt,
        folder: Path::new("/tmp"),
        progress: &FuzzProgress::default(),
    }
    .run()
    .unwrap()
}

#[rstest::rstest]
#[case::stock("stock")]
#[case::v3("v3")]
#[case::v5("v5")]
#[case::headtail("headtail")]
#[case::holes_of_2m_for_conversions("v5-attributes")]
#[case::holes_of_4k_for_conversions("headtail-attributes")]
fn a_sound_host_fails_nothing(#[case] design: &str) {
    let outcome = hunt(None, design, 7, 3000);
    if let Some(found) = &outcome.found {
        fails(found, design);
    }
    assert_eq!(outcome.plans, 3000);
    assert!(outcome.steps > 15_000, "{}", outcome.steps);
}

/// Panics with the failure that was found.
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

/// Without preference, as many steps reach fewer combinations.
#[test]
fn what_is_rare_is_favoured() {
    for seed in [1, 2, 3] {
        let favoured = hunt(None, "headtail", seed, 1000).coverage.reached();
        let plain = hunt_of(None, "headtail", seed, 1000, 1).coverage.reached();
        // Seen: 1274 and more of 1730 against 1114 and less.
        assert!(favoured > plain + 50, "{favoured} against {plain}");
    }
}

/// Combinations that did not occur are possible: few are left after a long hunt.
#[rstest::rstest]
#[case::stock("stock")]
#[case::headtail("headtail")]
fn holes_are_holes(#[case] design: &str) {
    let outcome = hunt(None, design, 1, 7000);
    if let Some(found) = &outcome.found {
        fails(found, design);
    }
    let target = Target {
        host: HostProfile::of(HostKind::Sim),
        design: Design::named(design).unwrap(),
    };
    let table = markdown(&outcome.coverage, target);
    let model = target.chart();
    for name in model.operations().iter().chain(model.states()) {
        assert!(table.contains(name), "{name} is not in\n{table}");
    }
    // Every operation met every possible state, and no combination marked as impossible occurred.
    let mut impossible = 0;
    for (row, operation) in model.operations().iter().enumerate() {
        for (state, name) in model.states().iter().enumerate() {
            let count = |one| outcome.coverage.count(row, state, one);
            let can = target.alignments(row, state).count();
            let came = (0..ALIGNMENTS).filter(|one| count(*one) > 0);
            let (came, wrong): (Vec<_>, Vec<_>) =
                came.partition(|one| target.possible(row, state, *one));
            assert!(wrong.is_empty(), "{operation} in {name}: {wrong:?}");
            // Few guests have the gigabyte that an ACCEPT at 1G takes.
            let rare = *operation == "accept 1G";
            assert!(
                can == 0 || rare || !came.is_empty(),
                "{operation} never met {name}\n{table}"
            );
            impossible += ALIGNMENTS - can;
        }
    }
    assert_eq!(impossible + target.combinations(), 21 * 10 * ALIGNMENTS);
    let (reached, all) = (outcome.coverage.reached(), target.combinations());
    assert!(reached * 100 > all * 93, "{reached} of {all}\n{table}");
}

/// Steps are interesting: conversions cut leaves that were split already, and memory is used again
/// after it was taken away.
#[test]
fn drawn_steps_come_back_to_what_was_there() {
    let design = Design::named("headtail").unwrap();
    let (mut over_split, mut again) = (0, 0);
    for seed in 0..300 {
        let (mut draw, guest) = Draw::with_guest(seed, HostProfile::of(HostKind::Sim));
        let mut coverage = Coverage::new(CoverageModel::Td);
        let mut predictor = tdxlab_predict::Predictor::new(design, &guest);
        let mut split: Vec<GpaRange> = Vec::new();
        let mut zapped: Vec<GpaRange> = Vec::new();
        for _ in 0..draw.steps() {
            let action = draw.step(&predictor, &mut coverage);
            let mut next = predictor.clone();
            let Ok(expected) = next.step(&action) else {
                continue;
            };
            predictor = next;
            let meets = |ranges: &[GpaRange], op: &Op| {
                let range = op.range().unwrap_or_default();
                ranges.iter().any(|one| one.overlaps(range))
            };
            if let Action::One(op) = &action {
                match op {
                    Op::Convert { .. } => over_split += u32::from(meets(&split, op)),
                    Op::Accept { .. } | Op::Fill { .. } | Op::Touch { .. } => {
                        again += u32::from(meets(&zapped, op));
                    }
                    Op::Punch { range } => zapped.push(*range),
                    _ => {}
                }
            }
            let leaves = expected.split_leaves.iter();
            split.extend(leaves.map(|leaf| leaf.gpa.page(leaf.level)));
            if !expected.td_alive {
                break;
            }
        }
    }
    assert!(
        over_split > 50,
        "{over_split} conversions over split leaves"
    );
    assert!(again > 300, "{again} uses of memory after a hole");
}

/// Plans drawn for a TDX host use only what it supports, and can be written as scenario files.
#[test]
fn plans_for_tdx_are_within_its_reach() {
    let design = Design::named("stock").unwrap();
    let mut races = 0;
    for seed in 0..200 {
        let (draw, guest) = Draw::with_guest(seed, HostProfile::of(HostKind::Tdx));
        let plan = drawn_plan(draw, guest, design, seed);
        races += plan
            .steps
            .iter()
            .filter(|step| matches!(step.action, Action::Parallel(_)))
            .count();
        let offer = HostAndDesign {
            host: HostProfile::of(HostKind::Tdx),
            design,
        };
        assert_eq!(needs::unmet(&plan, &offer), None, "{plan:#?}");
        assert!(plan.guest.memory.bytes().is_multiple_of(2 << 20));
    }
    assert!(races > 50, "{races}");
}

/// The plans that a real kernel gets, judged by the predictor alone: they can be foreseen, a scenario
/// file can say them, and the map of their states fills up.
#[test]
fn plans_of_plain_vms_are_plans_a_scenario_could_have_made() {
    let design = Design::named("plain").unwrap();
    let mut coverage = Coverage::new(CoverageModel::Plain);
    let backings = [Backing::Small, Backing::Hugetlb2M];
    for seed in 0..400 {
        let guest = plain::PlainDraw::guest(seed, &backings);
        let mut draw = plain::PlainDraw::new(seed, &guest);
        let mut predictor = tdxlab_predict::Predictor::new(design, &guest);
        let mut actions = Vec::new();
        for _ in 0..draw.steps() {
            actions.push(draw.step(&predictor, &mut coverage));
            predictor.step(actions.last().unwrap()).unwrap();
        }
        for action in draw.last_look() {
            predictor.step(&action).unwrap();
            actions.push(action);
        }
        let step = |action| tdxlab_plan::Step {
            line: 0,
            action,
            expect: Default::default(),
        };
        let plan = steps::plan(guest, seed, actions.into_iter().map(step).collect());
        tdxlab_plan::check(&plan).unwrap();
        let text = scenario(&plan, design, "fuzz/drawn", "Drawn at random.");
        assert!(!text.contains("needs"), "{text}");
        let again = read(&text);
        assert_eq!(again.guest, plan.guest, "{text}");
        for (one, other) in again.steps.iter().zip(&plan.steps) {
            assert_eq!(one.action, other.action, "{text}");
        }
    }
    let target = Target {
        host: HostProfile::of(HostKind::Kvm),
        design,
    };
    let (reached, all) = (coverage.reached(), target.combinations());
    let table = markdown(&coverage, target);
    assert!(reached * 10 > all * 8, "{reached} of {all}\n{table}");
    for (row, state) in (0..10).flat_map(|row| (0..7).map(move |state| (row, state))) {
        for one in (0..ALIGNMENTS).filter(|one| coverage.count(row, state, *one) > 0) {
            assert!(
                target.possible(row, state, one),
                "{row} {state} {one}\n{table}"
            );
        }
    }
}

/// Draws a plan of steps that can be foreseen and that the TD survives.
fn drawn_plan(mut draw: Draw, guest: Guest, design: &Design, seed: u64) -> Plan {
    let mut coverage = Coverage::new(CoverageModel::Td);
    let mut predictor = tdxlab_predict::Predictor::new(design, &guest);
    let mut steps = Vec::new();
    for _ in 0..draw.steps() {
        let action = draw.step(&predictor, &mut coverage);
        let mut next = predictor.clone();
        if !next.step(&action).is_ok_and(|expected| expected.td_alive) {
            continue;
        }
        predictor = next;
        steps.push(tdxlab_plan::Step {
            line: 0,
            action,
            expect: Default::default(),
        });
    }
    steps::plan(guest, seed, steps)
}

#[test]
fn drawn_plans_are_plans_a_scenario_could_have_made() {
    let design = Design::named("headtail").unwrap();
    for seed in 0..300 {
        let (draw, guest) = Draw::with_guest(seed, HostProfile::of(HostKind::Sim));
        let plan = drawn_plan(draw, guest, design, seed);
        if plan.steps.is_empty() {
            continue;
        }
        tdxlab_plan::check(&plan).unwrap();
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

/// A failing plan of the default set, for faults that no drawn plan finds.
fn of_the_default_set(fault: &'static Fault) -> Option<(Plan, Failure)> {
    let design = Design::named(fault.design).unwrap();
    let host = SimHost::in_memory().with_fault(fault.seeded());
    let sound = SimHost::in_memory();
    let plans = scenario::embedded()
        .unwrap()
        .into_iter()
        .flat_map(|file| scenario::expand(&file, None).unwrap())
        .filter(|plan| plan.guest.backing.is_none() && design.meets(&plan.needs).is_ok());
    plans
        .filter(|plan| {
            let hosts = &plan.needs.hosts;
            hosts.is_empty() || hosts.contains(&HostKind::Sim)
        })
        .find_map(|plan| {
            let failure = attempt(&host, design, &plan, &Orders::new(), Path::new("/tmp"))?;
            let fails_anyway =
                attempt(&sound, design, &plan, &Orders::new(), Path::new("/tmp")).is_some();
            (!fails_anyway).then_some((plan, failure))
        })
}

/// Whether a fault is caught before the first step: no counter counts.
fn stops_at_the_control(fault: &'static Fault) -> bool {
    let host = SimHost::in_memory().with_fault(fault.seeded());
    let design = Design::named(fault.design).unwrap();
    let (_, guest) = Draw::with_guest(1, HostProfile::of(HostKind::Sim));
    Harness::boot(&host, design, &guest, 1, Path::new("/tmp")).is_err()
}

/// Every seeded fault is caught by a plan that is no larger than it must be: at most three steps
/// beyond those that bring memory into its state (see [`setup`]).
#[test]
fn every_fault_shrinks_to_a_few_steps() {
    let faults: Vec<&'static Fault> = faults::all().collect();
    let results: Mutex<Vec<Result<String, String>>> = Mutex::default();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let Ok(()) = in_parallel(processors, &faults, |_, fault| {
        let result = shrinks_to_a_few_steps(fault);
        results.lock().push(result);
        Ok::<_, Infallible>(true)
    });
    let results = results.into_inner();
    assert_eq!(results.len(), faults.len());
    let (short, too_long): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    for line in short.into_iter().flatten() {
        println!("{line}");
    }
    let too_long: Vec<String> = too_long.into_iter().filter_map(Result::err).collect();
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
}

/// What catches a fault, in how many steps; or why those are too many.
fn shrinks_to_a_few_steps(fault: &'static Fault) -> Result<String, String> {
    if stops_at_the_control(fault) {
        return Ok(format!("{:<44} positive control", fault.name));
    }
    let design = Design::named(fault.design).unwrap();
    let host = SimHost::in_memory().with_fault(fault.seeded());
    let (shrunk, from) = drawn(fault)
        .map(|shrunk| (shrunk, "drawn"))
        .or_else(|| {
            let (plan, failure) = of_the_default_set(fault)?;
            let shrunk = shrink(
                &plan,
                &failure,
                // Plans of the default set are short as they are, and some of them are long to run.
                100,
                || false,
                |simpler, orders| attempt(&host, design, simpler, orders, Path::new("/tmp")),
            );
            Some((shrunk, "default set"))
        })
        .ok_or_else(|| format!("{}: nothing catches it", fault.name))?;
    let (all, setup) = (shrunk.plan.steps.len(), setup(&shrunk.plan));
    if !is_short(&shrunk) {
        let text = scenario(&shrunk.plan, design, "fuzz/long", "Too long.");
        return Err(format!("{}: {all} - {setup}\n{text}", fault.name));
    }
    // Unused vCPUs are removed, except one that must be kicked.
    let ops = shrunk.plan.steps.iter().flat_map(|step| step.action.ops());
    let used: BTreeSet<_> = ops.filter_map(Op::vcpu).collect();
    let vcpus = usize::from(shrunk.plan.guest.vcpus);
    assert!(vcpus <= used.len() + 1, "{}: {used:?}", fault.name);
    // The shrunk plan fails alone and from a file, in the same way.
    let text = scenario(&shrunk.plan, design, "fuzz/shrunk", "Shrunk.");
    let plan = read(&text);
    let again = attempt(&host, design, &plan, &Orders::new(), Path::new("/tmp"));
    assert!(
        again
            .as_ref()
            .is_some_and(|again| again.is_like(&shrunk.failure)),
        "{}: {again:?} is not like {}\n{text}",
        fault.name,
        shrunk.failure
    );
    Ok(format!(
        "{:<44} {from:<12} {all} steps, {setup} of them set-up, {}",
        fault.name, shrunk.failure
    ))
}
