//! Costs of runs that were made up.

use tdxlab_journal::REJUDGED_FACT;
use tdxlab_journal::journal::SeededFault;

use super::*;
use crate::model::{Fact, ScenarioReport, StepReport, VERSION, VerdictCounts};
use tdxlab_journal::verdict::Verdict;

fn step(number: u32, vcpus: u32, exits: Option<u64>, micros: u64) -> StepReport {
    let mut step = StepReport::begun(number, "accept".to_owned());
    step.work = Some(StepWork {
        operation: "accept".to_owned(),
        level: Some("4K".to_owned()),
        vcpus,
        bytes: 4 << 20,
        micros: Some(micros),
    });
    step.numbers.exits = exits;
    step
}

fn scenario(name: &str, steps: Vec<StepReport>) -> ScenarioReport {
    ScenarioReport {
        name: name.to_owned(),
        verdict: Verdict::Pass,
        steps_planned: steps.len(),
        steps,
        ..ScenarioReport::unknown(String::new())
    }
}

fn report(run: &str, host: HostKind, scenarios: Vec<ScenarioReport>) -> Report {
    Report {
        version: VERSION,
        tdxlab: String::new(),
        run: run.to_owned(),
        started: String::new(),
        command: Vec::new(),
        host,
        host_reason: String::new(),
        facts: Vec::new(),
        facts_at_end: Vec::new(),
        fault: None,
        design: "headtail".to_owned(),
        seed: None,
        jobs: 1,
        verdict: Verdict::Pass,
        complete: true,
        interrupted: false,
        micros: 0,
        counts: VerdictCounts::default(),
        scenarios,
    }
}

fn ladder(name: &str, factor: u64) -> ScenarioReport {
    let steps = [1, 2, 4, 8];
    let step = |(place, vcpus): (u32, u32)| {
        step(
            place + 1,
            vcpus,
            Some(1024),
            100 * factor * u64::from(vcpus),
        )
    };
    scenario(name, (0..).zip(steps).map(step).collect())
}

#[test]
fn repeats_are_one_row_and_growth_is_fitted() {
    let run = report(
        "r1",
        HostKind::Sim,
        vec![
            ladder("cost/one", 1),
            ladder("cost/one@2", 3),
            ladder("punch/other", 1),
        ],
    );
    let costs = Costs::over(&[run], None).unwrap();
    // What is not there to measure is left out as soon as something is.
    assert_eq!(costs.rows.len(), 4);
    let first = costs.rows[0].per_mib(Metric::Micros).unwrap();
    assert_eq!(
        (first.min, first.median, first.max, first.repeats),
        (25.0, 50.0, 75.0, 2)
    );
    assert_eq!(costs.rows[0].per_mib(Metric::Exits).unwrap().median, 256.0);
    // Nobody has counted AUGs.
    assert_eq!(costs.rows[0].per_mib(Metric::Auged), None);
    let growth = costs.growth(&[Metric::Exits, Metric::Micros, Metric::Kicks]);
    let [exits, micros, kicks] = growth[0].fits[..] else {
        panic!("{growth:?}");
    };
    assert_eq!(exits.unwrap().to_string(), "+0.00 ±0.00");
    assert!((micros.unwrap().exponent - 1.0).abs() < 1e-9);
    assert_eq!(kicks, None);
    let text = tables::render(&costs);
    assert!(
        text.contains("not seen") && text.contains("emulated"),
        "{text}"
    );
    let csv = csv::render(&costs);
    let mut lines = csv.lines();
    let columns = lines.next().unwrap().split(',').count();
    assert!(
        lines.all(|line| line.split(',').count() == columns),
        "{csv}"
    );
}

#[test]
fn a_count_that_one_repeat_lacks_is_not_seen() {
    let one = scenario("cost/a", vec![step(1, 1, Some(5), 1)]);
    let two = scenario("cost/a@2", vec![step(1, 1, None, 1)]);
    let costs = Costs::over(&[report("r", HostKind::Tdx, vec![one, two])], None).unwrap();
    assert_eq!(costs.rows[0].spread(Metric::Exits), None);
}

#[test]
fn runs_that_cannot_be_compared_are_refused_in_a_line() {
    let run = |name: &str, host| report(name, host, vec![ladder("cost/one", 1)]);
    let refused = |reports: &[Report], part| {
        let said = Costs::over(reports, part).unwrap_err().to_string();
        assert!(!said.contains('\n'));
        said
    };
    assert_eq!(
        refused(&[run("a", HostKind::Sim), run("b", HostKind::Soft)], None),
        "runs cannot be compared: a (on sim) and b (on soft)"
    );
    let other = report("b", HostKind::Sim, vec![ladder("cost/two", 1)]);
    assert_eq!(
        refused(&[run("a", HostKind::Sim), other], None),
        "runs cannot be compared: a and b have no step in common"
    );
    let mut seeded = run("a", HostKind::Sim);
    seeded.fault = Some(SeededFault {
        name: "x".into(),
        wrong: "y".into(),
    });
    assert_eq!(
        refused(&[seeded], None),
        "run a cannot be compared: a fault was seeded into it"
    );
    let mut again = run("a", HostKind::Sim);
    again.facts.push(Fact {
        name: REJUDGED_FACT.to_owned(),
        value: "b".into(),
    });
    assert!(refused(&[again], None).contains("judges another run again"));
    assert!(refused(&[run("a", HostKind::Sim)], Some("holes")).contains("`holes`"));
    assert!(refused(&[report("a", HostKind::Sim, Vec::new())], None).starts_with("no run has"));
}
