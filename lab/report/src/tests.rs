//! Journals of which lines are missing, and of runs that did not come to their end.

use std::path::Path;

use rstest::rstest;
use serde_json::json;
use tdxlab_journal::journal::{Event, Line, PlanId, RunStarted, SharedGuest, VERSION};
use tdxlab_journal::reader::JournalReader;
use tdxlab_journal::verdict::{Finding, Judgement, Verdict, Witness};
use tdxlab_journal::{Ending, Reading};
use tdxlab_plan::addr::{Gpa, GpaRange};
use tdxlab_plan::{Action, Expectation, Guest, MemoryMap, Needs, Op, Plan, Step};

use crate::diff::{Diff, Weight};
use crate::ktap_stream::KtapStream;
use crate::{Report, from_recording};

/// The head of a run on `sim`, started by a command of these words.
pub(crate) fn head(words: &[&str], plans: &[&str]) -> RunStarted {
    let head = json!({
        "version": VERSION, "tdxlab": "0.1.0", "run": "r", "started": "2026-11-30T00:00:00Z",
        "command": words, "host": "sim", "host_reason": "asked for", "facts": [],
        "design": "headtail", "jobs": 1, "plans": plans,
    });
    serde_json::from_value(head).unwrap()
}

/// A plan of two holes.
pub(crate) fn started(plan: u32, name: &str) -> Event {
    let memory = GpaRange::with_len(Gpa::new(1 << 30), 64 << 20).unwrap();
    let step = Step {
        line: 7,
        action: Action::One(Op::Punch { range: memory }),
        expect: Default::default(),
    };
    Event::PlanStarted {
        plan: PlanId(plan),
        scenario: None,
        body: Plan {
            version: tdxlab_plan::VERSION,
            name: name.to_owned(),
            about: "Holes.".to_owned(),
            seed: 1,
            needs: Needs::default(),
            guest: Guest::over(memory),
            steps: vec![step.clone(), step],
        },
    }
}

fn booted(plan: u32, shared: Option<SharedGuest>) -> Event {
    Event::Booted {
        plan: PlanId(plan),
        micros: 1,
        shared,
        guests_before: 0,
    }
}

fn step(plan: u32, step: u32, verdict: Verdict) -> [Event; 2] {
    let plan = PlanId(plan);
    [
        Event::StepStarted {
            plan,
            step,
            expected: Expectation::default(),
        },
        Event::StepJudged {
            plan,
            step,
            judgement: judgement(verdict),
            map: MemoryMap::default(),
        },
    ]
}

fn judgement(verdict: Verdict) -> Judgement {
    let wrong = || Finding::wrong(Witness::Errno, "success", "EINVAL");
    Judgement {
        findings: (verdict == Verdict::Fail).then(wrong).into_iter().collect(),
        heard: vec![Witness::Errno],
        ..Judgement::bare(verdict)
    }
}

/// What was judged when the guest of a plan had gone.
fn left_behind(plan: u32) -> Event {
    let ending = Ending {
        kernel_log: Reading::Read(Vec::new()),
        taken: Vec::new(),
    };
    Event::Ended {
        plan: PlanId(plan),
        ending,
        judgement: judgement(Verdict::Fail),
    }
}

pub(crate) fn ended(plan: u32, verdict: Verdict) -> Event {
    Event::PlanEnded {
        plan: PlanId(plan),
        verdict,
        reason: None,
        micros: 1,
        evidence: None,
        fault_reached: None,
    }
}

/// A plan that came to its end.
fn whole(plan: u32, name: &str, verdict: Verdict) -> Vec<Event> {
    let steps = [step(plan, 0, Verdict::Pass), step(plan, 1, verdict)];
    let mut events = vec![started(plan, name), booted(plan, None)];
    events.extend(steps.into_iter().flatten());
    events.push(ended(plan, verdict));
    events
}

pub(crate) fn run_ended(verdict: Verdict, stopped: bool) -> Event {
    end_of_run(verdict, false, stopped)
}

fn run_interrupted() -> Event {
    end_of_run(Verdict::Pass, true, false)
}

fn end_of_run(verdict: Verdict, interrupted: bool, stopped: bool) -> Event {
    Event::RunEnded {
        verdict,
        interrupted,
        stopped,
        facts: Vec::new(),
    }
}

/// The text of a journal.
pub(crate) fn journal(head: RunStarted, events: Vec<Event>) -> String {
    let events = std::iter::once(Event::RunStarted(head)).chain(events);
    let lines = events.map(|event| serde_json::to_string(&Line { at: 1, event }).unwrap() + "\n");
    lines.collect()
}

fn report(words: &[&str], events: Vec<Event>) -> Report {
    let text = journal(head(words, &["punch/a", "punch/b"]), events);
    let path = Path::new("journal.jsonl");
    let recording = JournalReader::over(std::io::Cursor::new(text), path).unwrap();
    from_recording(recording).unwrap()
}

const RUN: [&str; 2] = ["tdxlab", "run"];
const FAIL_FAST: [&str; 3] = ["tdxlab", "run", "--fail-fast"];

fn good() -> Vec<Event> {
    let plan = |number, name| whole(number, name, Verdict::Pass);
    [plan(0, "punch/a"), plan(1, "punch/b")].concat()
}

/// A run that came to its end, and in which both scenarios passed.
fn good_report() -> Report {
    let mut events = good();
    events.push(run_ended(Verdict::Pass, false));
    report(&RUN, events)
}

/// What is said of the second scenario.
fn second(report: &Report) -> (Verdict, &str) {
    let scenario = &report.scenarios[1];
    (scenario.verdict, scenario.reason.as_deref().unwrap_or(""))
}

#[rstest]
#[case::all_of_it(&[0, 1, 2, 3, 4, 5, 6], "nothing is recorded of it")]
#[case::its_start(&[0], "it has an end and no start in the journal")]
#[case::its_start_and_end(&[0, 6], "it has no start in the journal")]
#[case::its_end(&[6], "it has no end in the journal, after 2 of 2 steps")]
fn what_is_missing_of_a_run_that_came_to_its_end_is_an_error(
    #[case] lost: &[usize],
    #[case] reason: &str,
) {
    for words in [&RUN[..], &FAIL_FAST[..]] {
        let mut events = good();
        for place in lost.iter().rev() {
            events.remove(7 + place);
        }
        events.push(run_ended(Verdict::Pass, false));
        let report = report(words, events);
        assert_eq!(second(&report), (Verdict::Error, reason));
        assert_eq!(report.verdict, Verdict::Error);
        assert_eq!(report.counts.skip, 0);
        // It is worse than the run that has it.
        let diff = Diff::between(&good_report(), &report);
        assert!(diff.is_worse(), "{diff}");
        let said = diff.to_string();
        assert!(!said.contains("interrupted"), "{said}");
    }
}

#[test]
fn a_run_of_which_only_its_first_and_last_line_are_left_is_an_error() {
    let report = report(&RUN, vec![run_ended(Verdict::Pass, false)]);
    assert_eq!(report.verdict, Verdict::Error);
    assert_eq!(report.counts.error, 2);
}

#[rstest]
#[case::as_it_was_written_down(&RUN, true, Verdict::Fail, Verdict::Skip)]
#[case::in_an_older_journal(&FAIL_FAST, false, Verdict::Fail, Verdict::Skip)]
#[case::but_not_asked_for(&RUN, false, Verdict::Fail, Verdict::Error)]
#[case::but_nothing_failed(&FAIL_FAST, true, Verdict::Pass, Verdict::Error)]
fn scenarios_are_left_out_by_fail_fast(
    #[case] words: &[&str],
    #[case] stopped: bool,
    #[case] first: Verdict,
    #[case] verdict: Verdict,
) {
    let mut events = whole(0, "punch/a", first);
    events.push(run_ended(first, stopped));
    let report = report(words, events);
    assert_eq!(second(&report).0, verdict);
    let said = Diff::between(&report, &report).to_string();
    if verdict == Verdict::Skip {
        assert!(second(&report).1.contains("--fail-fast"), "{report:?}");
        assert!(said.contains("which stopped at a scenario"), "{said}");
    }
    assert!(!said.contains("interrupted"), "{said}");
}

/// The words of an option count as the command line takes them: the last one.
#[test]
fn of_two_options_that_exclude_each_other_the_last_counts() {
    let words = ["tdxlab", "run", "--fail-fast", "--keep-going"];
    assert!(!head(&words, &[]).is_fail_fast());
    assert!(head(&FAIL_FAST, &[]).is_fail_fast());
}

#[test]
fn a_failure_that_was_judged_outlives_a_runner_that_was_killed() {
    let mut events = whole(0, "punch/a", Verdict::Pass);
    events.extend([started(1, "punch/b"), booted(1, None)]);
    events.extend(step(1, 0, Verdict::Fail));
    let killed = report(&RUN, events);
    let reason = "the run ended in the middle of it, after 1 of 2 steps";
    assert_eq!(second(&killed), (Verdict::Fail, reason));
    assert!(!killed.scenarios[1].unfinished);
    assert_eq!(killed.verdict, Verdict::Fail);
    let lines = crate::terminal::failures(&killed, Path::new("reports/r"));
    let step = lines.contains("step 1 of 2");
    assert!(step && lines.contains("EINVAL"), "{lines}");
    let diff = Diff::between(&good_report(), &killed);
    assert!(diff.is_worse(), "{diff}");
    assert!(diff.to_string().contains("punch/b: pass -> fail"), "{diff}");
}

/// A suspect is run again before it is believed, unless nobody is left to do that.
#[rstest]
#[case::interrupted(true, Verdict::Skip)]
#[case::killed(false, Verdict::Fail)]
fn a_failure_in_a_shared_guest_says_so(#[case] interrupted: bool, #[case] verdict: Verdict) {
    let (guest, before, at) = (0, 1, 0);
    let shared = SharedGuest { guest, before, at };
    let mut events = whole(0, "punch/a", Verdict::Pass);
    events.extend([started(1, "punch/b"), booted(1, Some(shared))]);
    events.extend(step(1, 0, Verdict::Fail));
    if interrupted {
        events.push(run_interrupted());
    }
    let report = report(&RUN, events);
    assert_eq!(second(&report).0, verdict);
    let reason = second(&report).1;
    assert!(reason.contains("was not run again in its own"), "{reason}");
}

/// A run that did not come to its end is no better than one that did, whatever it had come to.
#[rstest]
#[case::killed_before_the_second(Vec::new(), false, "")]
#[case::killed_in_the_second(vec![started(1, "punch/b")], false, "punch/b: pass -> error")]
#[case::interrupted_before_the_second(Vec::new(), true, "")]
#[case::interrupted_in_the_second(vec![started(1, "punch/b")], true, "")]
fn a_run_that_lost_results_is_not_as_good_as_the_one_before(
    #[case] second: Vec<Event>,
    #[case] interrupted: bool,
    #[case] change: &str,
) {
    let mut events = whole(0, "punch/a", Verdict::Pass);
    events.extend(second);
    events.extend(interrupted.then(run_interrupted));
    let cut = report(&RUN, events);
    let diff = Diff::between(&good_report(), &cut);
    assert!(diff.is_worse(), "{diff}");
    assert_eq!((diff.unfinished, diff.lost), (1, 1));
    let said = diff.to_string();
    assert!(said.contains("1 of them had a result before"), "{said}");
    assert!(said.contains(change), "{said}");
    assert_eq!(diff.verdicts.is_empty(), change.is_empty(), "{said}");
    // Where both were cut off at the same place, nothing got worse.
    let same = Diff::between(&cut, &cut);
    assert!(!same.is_worse() && same.unfinished == 1, "{same}");
}

#[rstest]
#[case::no_rerun_was_judged(0, 0, Weight::Suspect, "no run of it again came to a verdict")]
#[case::one_passed(1, 0, Weight::Flaky, "failed 0 of 1 times")]
#[case::one_failed(3, 1, Weight::Regression, "failed 1 of 3 times")]
fn only_a_rerun_that_passed_excuses_a_failure(
    #[case] times: u32,
    #[case] failed: u32,
    #[case] weight: Weight,
    #[case] words: &str,
) {
    let mut events = whole(0, "punch/a", Verdict::Pass);
    events.extend(whole(1, "punch/b", Verdict::Fail));
    let plan = PlanId(1);
    events.push(Event::Confirmed {
        plan,
        times,
        failed,
    });
    events.push(run_ended(Verdict::Fail, false));
    let diff = Diff::between(&good_report(), &report(&RUN, events));
    assert_eq!(diff.verdicts[0].weight(), weight);
    assert_eq!(diff.is_worse(), weight != Weight::Flaky);
    assert!(diff.to_string().contains(words), "{diff}");
}

/// What is printed during a run is what its report says, also of guests that left something behind, of plans
/// that were run again, and of such as have no end.
#[rstest]
#[case::finding_at_the_end(vec![left_behind(1)], Some(Verdict::Fail))]
#[case::run_again(vec![started(1, "punch/b"), booted(1, None)], Some(Verdict::Pass))]
#[case::cut_off(Vec::new(), None)]
#[case::cut_off_in_a_second_run(vec![started(1, "punch/b")], None)]
fn ktap_during_a_run_is_that_of_its_report(#[case] more: Vec<Event>, #[case] end: Option<Verdict>) {
    let mut events = vec![started(1, "punch/b"), booted(1, None)];
    events.extend(step(1, 0, Verdict::Fail));
    events.extend(more);
    events.extend(whole(0, "punch/a", Verdict::Pass));
    match end {
        Some(verdict) => events.extend([ended(1, verdict), run_ended(verdict, false)]),
        None => events.push(run_interrupted()),
    }
    let names = ["punch/a", "punch/b"].map(str::to_owned);
    let mut stream = KtapStream::default();
    let head = stream.start((0..).map(PlanId).zip(names).collect());
    let live = events
        .iter()
        .fold(head, |text, event| text + &stream.take(event));
    let afterwards = crate::ktap::render(&report(&RUN, events));
    let results = |text: &str| {
        let results = text.lines().filter(|line| !line.starts_with('#'));
        results.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut afterwards = results(&afterwards);
    if end.is_none() {
        // Whether the run is cut off is not known when its plan line is printed.
        let run = afterwards.pop().unwrap();
        assert!(run.starts_with("not ok 3 the run # ERROR"), "{run}");
        afterwards[1] = "1..2".to_owned();
    }
    assert_eq!(results(&live), afterwards);
}
