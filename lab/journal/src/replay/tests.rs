//! Replay files of every version, as they were written: old files stay readable, or are rejected
//! with a reason.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tdxlab_plan::{Action, Backing, Design, HostKind, HostProfile, MemoryMap, Op};

use super::*;
use crate::folder::RunFolder;
use crate::journal::Event;
use crate::{Judgement, PlanId, Verdict};

const VERSION_1: &str = include_str!("fixtures/version-1.json");
const VERSION_2: &str = include_str!("fixtures/version-2.json");
const VERSION_3: &str = include_str!("fixtures/version-3.json");

fn read(text: &str) -> Result<Replay, ReplayError> {
    Replay::from_text(text.as_bytes(), Path::new("replay.json"))
}

fn refusal(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn a_bare_plan_of_version_1_is_a_replay() {
    let replay = read(VERSION_1).unwrap();
    assert_eq!(replay.recorded, None);
    assert!(replay.orders.is_empty());
    assert_eq!(replay.plan.name, "race/split-once[seed=1]");
    assert_eq!(replay.plan.steps.len(), 4);
    assert_eq!(replay.plan.guest.backing, None::<Backing>);
    // It equals the plan of version 2, and is not rewritten.
    assert_eq!(replay.plan, read(VERSION_2).unwrap().plan);
}

#[test]
fn a_touch_of_before_same_rip_is_read_and_written_as_it_was() {
    let old = r#"{"touch":{"range":{"start":1073741824,"end":1073745920},"stride":"4K","access":"write","side":"private","on_ve":"skip","vcpu":0}}"#;
    let op: Op = serde_json::from_str(old).unwrap();
    assert!(matches!(
        op,
        Op::Touch {
            same_rip: false,
            ..
        }
    ));
    assert_eq!(serde_json::to_string(&op).unwrap(), old);
}

#[test]
fn version_2_knew_turns() {
    let replay = read(VERSION_2).unwrap();
    let recorded = replay.recorded.unwrap();
    assert_eq!(recorded.host, HostKind::Soft);
    assert_eq!(recorded.design, "headtail");
    assert_eq!(recorded.fault.as_deref(), Some("head-split-missing"));
    assert_eq!(recorded.allowed_log, [""; 0]);
    assert_eq!(recorded.ended.unwrap().verdict, Verdict::Pass);
    let order = &replay.orders[&1];
    let branches = order.rounds.iter().flat_map(|round| &round.branches);
    let branches: BTreeSet<u16> = branches.copied().collect();
    assert_eq!(branches, BTreeSet::from([0, 1, 2, 3]));
    assert!(!order.rounds[0].turns.is_empty());
    assert!(order.starts.is_empty());
}

#[test]
fn version_3_knows_starts_and_lines_that_may_appear() {
    let replay = read(VERSION_3).unwrap();
    let recorded = replay.recorded.as_ref().unwrap();
    assert_eq!(recorded.host, HostKind::Tdx);

    assert_eq!(recorded.allowed_log, ["x86/split lock detection"]);
    assert!(matches!(replay.plan.steps[1].action, Action::Parallel(_)));
    let order = &replay.orders[&1];
    assert!(order.rounds.is_empty());
    assert_eq!(order.starts_of(1), [Duration::ZERO]);
    assert_eq!(order.starts_of(2), [Duration::from_micros(57)]);
    assert!(Design::named(&recorded.design).is_some());
}

/// The current format equals the fixture of the current version; a change of the format needs a new
/// version and a new fixture.
#[test]
fn todays_version_is_written_as_its_fixture_says() {
    let replay = read(VERSION_3).unwrap();
    assert!(VERSION_3.contains(&format!("\"tdxlab_replay\": {VERSION}")));
    assert_eq!(String::from_utf8(replay.to_text()).unwrap(), VERSION_3);
}

#[test]
fn an_older_version_is_written_as_todays_and_stays_the_same() {
    for text in [VERSION_1, VERSION_2] {
        let replay = read(text).unwrap();
        let again = String::from_utf8(replay.to_text()).unwrap();
        assert_eq!(read(&again).unwrap(), replay);
    }
}

#[test]
fn a_later_version_is_refused_by_name() {
    let later = VERSION_3.replace("\"tdxlab_replay\": 3", "\"tdxlab_replay\": 4");
    assert!(refusal(&later).contains("version 4"), "{}", refusal(&later));
    let later = VERSION_1.replacen("\"version\": 1", "\"version\": 7", 1);
    assert!(refusal(&later).contains("version 7"), "{}", refusal(&later));
}

#[test]
fn an_order_of_a_step_that_does_not_race_is_refused() {
    let wrong = VERSION_3.replace(
        "\"step\": 2,\n      \"rounds\"",
        "\"step\": 1,\n      \"rounds\"",
    );
    assert_ne!(wrong, VERSION_3);
    let said = refusal(&wrong);
    assert!(said.contains("in which nothing races"), "{said}");
    let wrong = VERSION_3.replace("@57: 2", "@57 2");
    assert!(refusal(&wrong).contains("`@57: 2`"), "{}", refusal(&wrong));
}

/// A plan that was running when its run was killed has not passed.
#[test]
fn a_plan_without_an_end_has_none_unless_it_had_failed() {
    let reports = tempfile::tempdir().unwrap();
    let judged = |verdict| Event::StepJudged {
        plan: PlanId(0),
        step: 1,
        judgement: Judgement::bare(verdict),
        map: MemoryMap::default(),
    };
    let end = |verdict| Event::PlanEnded {
        plan: PlanId(0),
        verdict,
        reason: None,
        micros: 0,
        evidence: None,
        fault_reached: None,
    };
    let ended = |events: &[Event]| {
        let folder = RunFolder::create(reports.path()).unwrap();
        let host = HostKind::Sim;
        let head = folder.head(host, HostProfile::of(host));
        let journal = folder.begin(head).unwrap();
        let started = Event::PlanStarted {
            plan: PlanId(0),
            scenario: None,
            body: read(VERSION_3).unwrap().plan,
        };
        for event in [&started].into_iter().chain(events) {
            journal.write(event).unwrap();
        }
        let found = all(journal.path()).unwrap().swap_remove(0);
        found.recorded.unwrap().ended
    };
    let passed = judged(Verdict::Pass);
    assert_eq!(ended(std::slice::from_ref(&passed)), None);
    assert_eq!(
        ended(&[passed, end(Verdict::Pass)]),
        Some(Signature::passing())
    );
    let failed = ended(&[judged(Verdict::Fail)]).unwrap();
    assert_eq!((failed.verdict, failed.step), (Verdict::Fail, Some(2)));
}
