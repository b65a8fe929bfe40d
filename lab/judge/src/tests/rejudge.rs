//! Recorded runs of which lines are missing.

use rstest::rstest;
use tdxlab_journal::journal::{self, Event, PlanId, RunStarted};
use tdxlab_journal::{Death, Ending, Killer, REJUDGED_FACT, Verdict};
use tdxlab_plan::needs::HostAndDesign;
use tdxlab_plan::{Design, Guest, HostKind, HostProfile, MemoryMap, Needs, Plan, Step};

use super::*;
use crate::rejudge::Bench;

const PLAN: PlanId = PlanId(0);

fn head(words: &[&str]) -> RunStarted {
    RunStarted {
        version: journal::VERSION,
        tdxlab: "0.1.0".to_owned(),
        run: "r".to_owned(),
        started: "2026-11-30T00:00:00Z".to_owned(),
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        host: HostKind::Sim,
        profile: None,
        host_reason: "asked for".to_owned(),
        facts: Vec::new(),
        fault: None,
        design: "headtail".to_owned(),
        seed: None,
        jobs: 1,
        plans: vec!["punch/a".to_owned()],
        paths: Vec::new(),
        allowed_log: Vec::new(),
        part: None,
        repeat: None,
        merged: Vec::new(),
    }
}

fn bench(head: &RunStarted) -> Bench {
    let offer = HostAndDesign {
        host: HostProfile::of(HostKind::Sim),
        design: Design::named("headtail").unwrap(),
    };
    Bench::new(head, offer, AllowList::default())
}

/// Page counters alone, of which one suffices.
fn counted(pages_4k: u64) -> Sample {
    Sample {
        debugfs: sample(pages_4k, 0).debugfs,
        ..quiet()
    }
}

/// A judgement as recorded, which is not looked at.
fn recorded() -> Judgement {
    Judgement::bare(Verdict::Pass)
}

fn plan_started() -> Event {
    let memory = at(0, 64 << 20);
    let step = Step {
        line: 7,
        action: Action::One(Op::Punch { range: memory }),
        expect: Default::default(),
    };
    Event::PlanStarted {
        plan: PLAN,
        scenario: None,
        body: Plan {
            version: tdxlab_plan::VERSION,
            name: "punch/a".to_owned(),
            about: "Holes in empty memory.".to_owned(),
            seed: 1,
            needs: Needs::default(),
            guest: Guest::over(memory),
            steps: vec![step.clone(), step.clone(), step],
        },
    }
}

fn controlled() -> Event {
    let run = Run::Accept {
        start: tdxlab_plan::CONTROL_PAGE,
        level: PageLevel::Size4K,
        count: 1,
        status: 0,
    };
    Event::Controlled {
        plan: PLAN,
        before: counted(3),
        after: counted(4),
        observed: Observed {
            runs: vec![run],
            ..Observed::default()
        },
        judgement: recorded(),
        distrusted: Vec::new(),
        map: MemoryMap::default(),
    }
}

fn step(step: u32, observed: Observed) -> [Event; 3] {
    let started = Event::StepStarted {
        plan: PLAN,
        step,
        expected: Expectation::default(),
    };
    let observed = Event::StepObserved {
        plan: PLAN,
        step,
        observed: vec![vec![observed]],
        sample: counted(4),
        interleaving: None,
    };
    let judged = Event::StepJudged {
        plan: PLAN,
        step,
        judgement: recorded(),
        map: MemoryMap::default(),
    };
    [started, observed, judged]
}

fn done() -> Observed {
    Observed {
        errno: Some(0),
        ..Observed::default()
    }
}

fn guest_ended() -> Event {
    Event::Ended {
        plan: PLAN,
        ending: Ending {
            kernel_log: missing(),
            taken: Vec::new(),
        },
        judgement: recorded(),
    }
}

fn plan_ended(verdict: Verdict, reason: Option<&str>) -> Event {
    Event::PlanEnded {
        plan: PLAN,
        verdict,
        reason: reason.map(str::to_owned),
        micros: 1,
        evidence: None,
        fault_reached: None,
    }
}

/// A plan of three steps that passed: its start is line 0, its control line 1, and its steps start in
/// lines 2, 5 and 8.
fn passed() -> Vec<Event> {
    let mut events = vec![plan_started(), controlled()];
    events.extend((0..3).flat_map(|number| step(number, done())));
    events.extend([guest_ended(), plan_ended(Verdict::Pass, None)]);
    events
}

/// How the plan ended that was judged again.
fn again(events: Vec<Event>) -> (Verdict, Option<String>) {
    let mut bench = bench(&head(&["tdxlab", "run"]));
    let judged = events
        .into_iter()
        .flat_map(|event| bench.take(event).unwrap());
    let end = judged.filter_map(|event| match event {
        Event::PlanEnded {
            verdict, reason, ..
        } => Some((verdict, reason)),
        _ => None,
    });
    let ends: Vec<_> = end.collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    ends[0].clone()
}

#[test]
fn a_recording_that_is_whole_passes_as_it_did() {
    assert_eq!(again(passed()), (Verdict::Pass, None));
}

#[rstest]
#[case::an_observation(&[6], "step 2 was not observed, so it cannot be judged again")]
#[case::the_last_observation(&[9], "step 3 was not observed, so it cannot be judged again")]
#[case::a_start(&[5], "the start of step 2 is not recorded, so it cannot be judged again")]
#[case::a_step(&[5, 6, 7], "step 2 was not observed, so it cannot be judged again")]
#[case::the_last_step(&[8, 9, 10], "step 3 was not observed, so it cannot be judged again")]
#[case::all_steps(
    &[2, 3, 4, 5, 6, 7, 8, 9, 10],
    "step 1 was not observed, so it cannot be judged again"
)]
#[case::the_control(&[1], "the positive control is not recorded")]
#[case::the_end_of_the_guest(&[11], "what was left when its guest had gone is not recorded")]
#[case::the_start_of_the_plan(&[0], "it has an end and no start in the journal")]
fn what_nobody_recorded_is_not_judged(#[case] lost: &[usize], #[case] why: &str) {
    let mut events = passed();
    for place in lost.iter().rev() {
        events.remove(*place);
    }
    let (verdict, reason) = again(events);
    assert_eq!(verdict, Verdict::Error);
    let reason = reason.unwrap();
    assert!(reason.contains(why), "{reason}");
}

/// What was judged before it is not needed: it is judged anew.
#[test]
fn a_judgement_that_is_missing_is_made_again() {
    let mut events = passed();
    events.remove(7);
    assert_eq!(again(events), (Verdict::Pass, None));
}

#[test]
fn a_step_that_is_there_twice_is_not_judged() {
    let mut events = passed();
    events.splice(5..5, step(0, done()));
    let (verdict, reason) = again(events);
    assert_eq!(verdict, Verdict::Error);
    assert!(reason.unwrap().contains("step 1 is recorded twice"));
}

#[test]
fn a_plan_that_was_given_up_has_its_recorded_reason() {
    let silent = "the guest did not answer";
    let mut events = passed();
    events.truncate(6);
    events.extend([guest_ended(), plan_ended(Verdict::Error, Some(silent))]);
    assert_eq!(again(events), (Verdict::Error, Some(silent.to_owned())));
}

#[test]
fn a_failing_step_and_the_steps_after_a_death_need_no_more() {
    let refused = Observed {
        errno: Some(22),
        ..Observed::default()
    };
    let mut events = passed();
    events.splice(5..8, step(1, refused));
    assert_eq!(again(events), (Verdict::Fail, None));
    let died = Observed {
        death: Some(Death {
            by: Killer::KvmBug,
            text: "bugged".to_owned(),
        }),
        ..done()
    };
    let mut events = passed();
    events.splice(5..11, step(1, died));
    assert_eq!(again(events), (Verdict::Fail, None));
}

/// Whether a run that is judged again says that it was stopped.
fn stopped(head: &RunStarted, recorded: bool, plans: Vec<Event>) -> bool {
    let mut bench = bench(head);
    for event in plans {
        bench.take(event).unwrap();
    }
    let end = Event::RunEnded {
        verdict: Verdict::Pass,
        interrupted: false,
        stopped: recorded,
        facts: Vec::new(),
    };
    match bench.take(end).unwrap().as_slice() {
        [Event::RunEnded { stopped, .. }] => *stopped,
        events => panic!("{events:?}"),
    }
}

#[test]
fn a_run_was_stopped_only_by_a_plan_that_did_not_pass() {
    let failed = || vec![plan_started(), plan_ended(Verdict::Fail, None)];
    let run = head(&["tdxlab", "run"]);
    let fail_fast = head(&["tdxlab", "run", "--fail-fast"]);
    assert!(stopped(&run, true, failed()));
    assert!(stopped(&fail_fast, false, failed()));
    assert!(!stopped(&run, false, failed()));
    assert!(!stopped(&fail_fast, true, passed()));
    let rejudged = RunStarted {
        facts: vec![(REJUDGED_FACT.to_owned(), "run r".to_owned())],
        ..run
    };
    assert!(stopped(&rejudged, true, passed()));
}
