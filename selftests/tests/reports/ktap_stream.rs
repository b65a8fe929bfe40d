//! KTAP during a run: the same results as afterwards, each as soon as it is known.

use std::collections::BTreeMap;
use std::fs;

use rstest::rstest;
use tdxlab::journal::Verdict;
use tdxlab::journal::journal::{Event, PlanId};
use tdxlab::journal::reader::JournalReader;
use tdxlab::report::ktap_stream::KtapStream;
use tdxlab_selftests::tdxlab;

use super::formats::{Ktap, parse_ktap};
use super::runs::run;

fn parsed(text: &str) -> Ktap {
    let mut lines = text.lines().peekable();
    let ktap = parse_ktap(&mut lines, 0);
    let rest: Vec<&str> = lines.collect();
    assert!(rest.iter().all(|line| line.starts_with('#')), "{rest:?}");
    ktap
}

/// Plans and events of a run in which some pass, some fail, some are skipped.
fn recorded() -> (Vec<(PlanId, String)>, Vec<Event>) {
    let reports = tempfile::tempdir().unwrap();
    let folder = run("punch", Some("tail-split-missing"), reports.path()).folder;
    let mut journal = JournalReader::of_run(&folder).unwrap();
    let names = journal.head().plans.clone();
    let mut events = Vec::new();
    while let Some(line) = journal.next_line().unwrap() {
        events.push(line.event);
    }
    ((0..).map(PlanId).zip(names).collect(), events)
}

#[test]
fn a_plan_is_printed_when_it_is_over() {
    let (plans, events) = recorded();
    let mut waiting = plans.len();
    let mut stream = KtapStream::default();
    stream.start(plans);
    for event in &events {
        let text = stream.take(event);
        match event {
            Event::PlanEnded { .. } | Event::PlanSkipped { .. } => {
                let results = text.lines().filter(|line| !line.starts_with([' ', '#']));
                assert_eq!(results.count(), 1, "{text}");
                waiting -= 1;
            }
            Event::RunEnded { .. } => assert!(text.starts_with("# Totals"), "{text}"),
            _ => assert_eq!(text, ""),
        }
    }
    assert_eq!(waiting, 0);
}

/// One event of every plan in turn, as with a worker for each.
#[test]
fn plans_side_by_side_are_printed_one_after_the_other() {
    let (plans, events) = recorded();
    let print = |events: &[Event]| {
        let mut stream = KtapStream::default();
        let head = stream.start(plans.clone());
        events
            .iter()
            .fold(head, |text, event| text + &stream.take(event))
    };
    let mut by_plan: BTreeMap<PlanId, Vec<Event>> = BTreeMap::new();
    let mut last = Vec::new();
    for event in &events {
        match event.plan() {
            Some(plan) => by_plan.entry(plan).or_default().push(event.clone()),
            None => last.push(event.clone()),
        }
    }
    let longest = by_plan.values().map(Vec::len).max().unwrap();
    let mut mixed: Vec<Event> = (0..longest)
        .flat_map(|turn| by_plan.values().filter_map(move |events| events.get(turn)))
        .cloned()
        .collect();
    mixed.extend(last);
    assert_ne!(mixed, events);
    assert_eq!(results(&print(&mixed)), results(&print(&events)));
}

#[test]
fn a_run_that_is_stopped_has_a_result_for_every_plan() {
    let (plans, events) = recorded();
    let names: Vec<String> = plans.iter().map(|(_, name)| name.clone()).collect();
    let third = events
        .iter()
        .enumerate()
        .filter(|(_, event)| matches!(event, Event::PlanEnded { .. }))
        .nth(2)
        .unwrap()
        .0;
    let mut stream = KtapStream::default();
    let mut text = stream.start(plans);
    for event in &events[..=third] {
        text += &stream.take(event);
    }
    text += &stream.take(&Event::RunEnded {
        verdict: Verdict::Fail,
        interrupted: true,
        stopped: false,
        facts: Vec::new(),
    });
    let tests = parsed(&text).tests;
    assert_eq!(tests.len(), names.len());
    let (_, last, directive, _) = tests.last().unwrap();
    assert_eq!(last, names.last().unwrap());
    assert!(directive.as_ref().unwrap().starts_with("SKIP not run"));
}

/// Also what is found when the guest has gone, and what a guest that dies early leaves undone.
#[rstest]
#[case("tail-split-missing")]
#[case("file-kept-at-the-end")]
#[case("remove-fails-silently")]
#[case("split-called-twice")]
#[case("table-without-pamt-pages")]
fn the_command_prints_what_the_report_says(#[case] fault: &str) {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!("run", "--host", "sim", "--jobs", "2", "--ktap", "--quiet")
        .args(["--fault", fault, "scenarios/punch", "--out"])
        .arg(out.path())
        .assert()
        .code(1);
    let live = String::from_utf8_lossy(&said.get_output().stdout).into_owned();
    let afterwards = fs::read_to_string(out.path().join("latest/results.ktap")).unwrap();
    assert_eq!(results(&live), results(&afterwards));
    let failed = live
        .lines()
        .filter(|line| line.starts_with("not ok"))
        .count();
    let totals = live.lines().last().unwrap();
    assert!(failed > 0 && totals.starts_with("# Totals:"), "{live}");
}

/// All results with their subtests, by name.
fn results(text: &str) -> Vec<(bool, String, Option<String>, Option<Ktap>)> {
    let mut tests = parsed(text).tests;
    tests.sort_by(|a, b| a.1.cmp(&b.1));
    tests
}
