//! How runs and their plans end.

use tdxlab_journal::replay::Replay;
use tdxlab_journal::{JournalReader, Verdict};
use tdxlab_run::TestCase;

use super::*;

#[test]
fn a_run_in_which_all_is_right_passes_and_leaves_no_evidence() {
    let finished = Setup::of(Script::Right).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Pass);
    assert!(finished.report.complete);
    assert_eq!(finished.report.counts.pass, 1);
    assert_eq!(finished.report.scenarios[0].steps.len(), 2);
    assert_eq!(finished.report.scenarios[0].evidence, None);
    let left = fs::read_dir(finished.folder.join("scenarios")).unwrap();
    assert_eq!(left.count(), 0);
}

/// A module that was updated under a run is written down, and warned of wherever people look.
#[test]
fn a_module_that_changes_under_a_run_is_warned_of() {
    let changed = Setup::of(Script::ModuleUpdated).run(&[plan("punch/a", vec![punch()])]);
    let still = Setup::of(Script::Right).run(&[plan("punch/a", vec![punch()])]);
    let said = "TDX module changed under this run: 1.5.28 when it started, 1.5.34 when it ended";
    for (finished, warned) in [(&changed, true), (&still, false)] {
        let report = &finished.report;
        assert_eq!(report.facts_at_end[0].name, "TDX module");
        report::write_all(report, &finished.folder).unwrap();
        let texts = [
            report::terminal::failures(report, &finished.folder),
            report::github::summary(report),
            report::ktap::render(report),
            fs::read_to_string(finished.folder.join("report.html")).unwrap(),
        ];
        for text in texts {
            assert_eq!(text.contains(said), warned, "{text}");
        }
    }
    // What was seen of it stays as it was.
    assert_eq!(changed.verdict.unwrap(), Verdict::Pass);
}

#[test]
fn a_failing_step_leaves_evidence_and_the_plan_goes_on() {
    let finished = Setup::of(Script::PunchFails).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.as_ref().unwrap(), &Verdict::Fail);
    let scenario = &finished.report.scenarios[0];
    assert_eq!(scenario.steps.len(), 2);
    assert_eq!(scenario.steps[0].findings[0].found, "EINVAL");
    let evidence = scenario.evidence.as_deref().unwrap();
    for name in ["serial.log", "replay.json", "samples.txt", "escape"] {
        assert!(exists(&finished, &format!("{evidence}/{name}")), "{name}");
    }
    let replay = fs::read(finished.folder.join(evidence).join("replay.json")).unwrap();
    let replay = Replay::from_text(&replay, "replay.json".as_ref()).unwrap();
    assert_eq!(replay.plan.name, "punch/a");
    let ended = replay.recorded.unwrap().ended.unwrap();
    assert_eq!(ended.to_string(), "fail in step 1 by errno");
}

#[rstest::rstest]
#[case::counters_missing(Script::NoCounters, "no counter counts. debugfs: no debugfs")]
#[case::counters_stuck(Script::CounterStuck, "pages_4k stayed at 3")]
#[case::no_boot(
    Script::BootFails,
    "QEMU ended with status 1: no such machine; install"
)]
#[case::silence(Script::SilentInStepTwo, "guest did not answer within 5s while punch")]
#[case::a_defect_of_the_lab(Script::Panics, "the lab has a defect")]
#[case::killed_for_memory(
    Script::KilledForMemory,
    "the kernel said: Out of memory: Killed process 812"
)]
#[case::a_guest_that_does_not_end(Script::EndFails, "QEMU did not end")]
fn what_cannot_be_judged_is_an_error_with_its_reason(#[case] script: Script, #[case] reason: &str) {
    let finished = Setup::of(script).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Error);
    let scenario = &finished.report.scenarios[0];
    assert_eq!(scenario.verdict, Verdict::Error);
    let said = scenario.reason.as_deref().unwrap();
    assert!(said.contains(reason), "{said}");
}

/// All steps pass, and KVM complains while the guest is taken apart.
#[test]
fn what_the_kernel_says_at_the_end_is_a_finding_of_the_scenario() {
    let plans = [plan("punch/a", vec![punch(), punch()])];
    let finished = Setup::of(Script::ComplaintAtTheEnd).run(&plans);
    let scenario = &finished.report.scenarios[0];
    assert_eq!(scenario.verdict, Verdict::Fail);
    let verdicts: Vec<_> = scenario.steps.iter().map(|step| step.verdict).collect();
    let (pass, fail) = (Some(Verdict::Pass), Some(Verdict::Fail));
    assert_eq!(verdicts, [pass, pass, fail]);
    let end = scenario.first_bad_step().unwrap();
    assert_eq!(scenario.place(end), "end");
    let [finding] = end.findings.as_slice() else {
        panic!("{:?}", end.findings);
    };
    assert_eq!(finding.witness, tdxlab_journal::Witness::KernelLog);
    assert!(
        finding
            .found
            .contains("TDH_MNG_VPFLUSHDONE: FLUSHVP_NOT_DONE"),
        "{}",
        finding.found
    );
    let lines = report::terminal::failure(scenario, None).join("\n");
    assert!(lines.contains("end: end of the guest"), "{lines}");
    let evidence = scenario.evidence.as_deref().unwrap();
    let samples = fs::read_to_string(finished.folder.join(evidence).join("samples.txt")).unwrap();
    assert!(samples.contains("# after the end"), "{samples}");
    // Judged again it is the same, until the line is known and let pass.
    let judged_again = |allowed: &str| {
        let reports = tempfile::tempdir().unwrap();
        let recording = JournalReader::of_run(&finished.folder).unwrap();
        let allowed = AllowList::parse(allowed).unwrap();
        let again = tdxlab_judge::rejudge(recording, None, None, allowed, reports.path()).unwrap();
        let journal = again.path().join(journal::FILE);
        let scenario = report::from_journal(&journal).unwrap().scenarios.remove(0);
        let places = scenario.steps.iter().map(|step| scenario.place(step));
        places.collect::<Vec<_>>()
    };
    assert_eq!(judged_again("").last().unwrap(), "end");
    assert_ne!(
        judged_again("SEAMCALL TDH_MNG_VPFLUSHDONE").last().unwrap(),
        "end"
    );
}

/// A log that lost records proves nothing; one that cannot be read was missing before.
#[test]
fn a_kernel_log_that_lost_records_at_the_end_cannot_be_judged() {
    for (script, verdict) in [
        (Script::LogOverwritten, Verdict::Error),
        (Script::Right, Verdict::Pass),
    ] {
        let finished = Setup::of(script).run(&[plan("punch/a", vec![punch()])]);
        assert_eq!(finished.verdict.unwrap(), verdict);
    }
}

#[test]
fn a_step_nobody_can_foresee_is_an_error() {
    let unforeseen = Op::Prefault { range: memory() };
    let finished = Setup::of(Script::Right).run(&[plan("punch/a", vec![punch(), unforeseen])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Error);
    let reason = finished.report.scenarios[0].reason.as_deref().unwrap();
    assert!(
        reason.contains("step 2") && reason.contains("nobody knows"),
        "{reason}"
    );
}

#[test]
fn a_failure_that_was_seen_outlives_an_error_after_it() {
    let wrong = Op::Allocate { range: memory() };
    let finished = Setup::of(Script::SilentInStepTwo).run(&[plan("punch/a", vec![wrong, punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Fail);
    assert!(finished.report.scenarios[0].reason.is_some());
}

#[test]
fn a_dead_td_does_no_further_steps() {
    let finished = Setup::of(Script::DiesInStepOne).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Fail);
    assert_eq!(finished.report.scenarios[0].steps.len(), 1);
}

#[test]
fn a_need_that_is_not_met_skips_by_name() {
    let mut item = plan("punch/a", vec![punch()]);
    item.plan.needs.hosts = vec![HostKind::Tdx];
    let finished = Setup::of(Script::Right).run(&[item]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Skip);
    let reason = finished.report.scenarios[0].reason.as_deref().unwrap();
    assert_eq!(reason, "needs host tdx; this is sim");
}

#[test]
fn fail_fast_starts_nothing_more_and_says_so() {
    let items = [
        plan("punch/a", vec![punch()]),
        plan("punch/b", vec![punch()]),
    ];
    let mut setup = Setup::of(Script::PunchFails);
    setup.fail_fast = true;
    let finished = setup.run(&items);
    assert_eq!(finished.ended, ["punch/a"]);
    let second = &finished.report.scenarios[1];
    assert_eq!(second.verdict, Verdict::Skip);
    assert!(second.reason.as_deref().unwrap().contains("not run"));
}

#[test]
fn an_interrupted_run_ends_in_good_order() {
    let mut setup = Setup::of(Script::Right);
    setup.interrupted = true;
    let finished = setup.run(&[plan("punch/a", vec![punch()])]);
    assert_eq!(finished.ended, [""; 0]);
    assert!(finished.report.interrupted && finished.report.complete);
}

#[test]
fn many_workers_run_every_plan_once() {
    let items: Vec<TestCase> = (0..40)
        .map(|index| plan(&format!("punch/{index:02}"), vec![punch()]))
        .collect();
    let mut setup = Setup::of(Script::Right);
    setup.jobs = 8;
    setup.keep = true;
    let finished = setup.run(&items);
    let mut ended = finished.ended.clone();
    ended.sort();
    let names: Vec<String> = items.iter().map(|item| item.plan.name.clone()).collect();
    assert_eq!(ended, names);
    assert_eq!(finished.report.counts.pass, 40);
    assert!(exists(&finished, "scenarios/0017-punch-17/replay.json"));
}
