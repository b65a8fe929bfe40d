//! KTAP during a run: the same results as afterwards, each as soon as it is known.

use std::collections::BTreeMap;
use std::fs;

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
fn a_step_is_printed_when_it_is_judged() {
    let (plans, events) = recorded();
    let mut stream = KtapStream::default();
    stream.start(plans);
    let mut judged = 0;
    for event in &events {
        let text = stream.take(event);
        match event {
            Event::StepJudged { step, .. } => {
                let number = format!("ok {} ", step + 1);
                assert!(text.contains(&number), "{number} not in {text:?}");
                judged += 1;
            }
            Event::StepStarted { .. } | Event::StepObserved { .. } => assert_eq!(text, ""),
            _ => {}
        }
    }
    assert!(judged > 20, "only {judged} steps");
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
    assert_eq!(print(&mixed), print(&events));
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
    text += &stream.take(events.last().unwrap());
    let tests = parsed(&text).tests;
    assert_eq!(tests.len(), names.len());
    let (_, last, directive, _) = tests.last().unwrap();
    assert_eq!(last, names.last().unwrap());
    assert!(directive.as_ref().unwrap().starts_with("SKIP not run"));
}

#[test]
fn the_command_prints_what_the_report_says() {
    let out = tempfile::tempdir().unwrap();
    let said = tdxlab!(
        "run",
        "--host",
        "sim",
        "--jobs",
        "2",
        "--ktap",
        "--fault",
        "tail-split-missing",
        "--out",
        out.path(),
        "scenarios/punch"
    )
    .assert()
    .code(1);
    let live = String::from_utf8_lossy(&said.get_output().stdout).into_owned();
    let afterwards = fs::read_to_string(out.path().join("latest/results.ktap")).unwrap();
    let results = |text: &str| {
        let mut tests: Vec<_> = parsed(text)
            .tests
            .into_iter()
            .map(|(ok, name, directive, steps)| {
                // Afterwards, steps that were never begun are not named.
                let steps: Vec<_> = steps
                    .into_iter()
                    .flat_map(|steps| steps.tests)
                    .filter(|(.., directive, _)| {
                        directive.as_deref() != Some("SKIP the scenario had ended")
                    })
                    .collect();
                (name, ok, directive, steps)
            })
            .collect();
        tests.sort_by(|a, b| a.0.cmp(&b.0));
        tests
    };
    assert_eq!(results(&live), results(&afterwards));
    let failed = live
        .lines()
        .filter(|line| line.starts_with("not ok"))
        .count();
    assert!(
        failed > 0 && live.contains(&format!(" fail:{failed} ")),
        "{live}"
    );
}
