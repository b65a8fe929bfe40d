//! What a report says of a scenario whose end the journal does not have: because of how the run ended, or
//! because lines are missing from the journal. What nobody recorded is an error, and never a skip.

use tdxlab_journal::verdict::Verdict;

use super::model::{Report, ScenarioReport};

/// Why a scenario was not begun.
const INTERRUPTED: &str = "not run: interrupted";
const FAIL_FAST: &str = "not run: an earlier scenario did not pass (--fail-fast)";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunEnd {
    /// By force: the journal has no end.
    Killed,
    /// In good order, before all scenarios were run.
    Interrupted,
    /// At a scenario that did not pass, because of `--fail-fast`.
    Stopped,
    /// With all scenarios run.
    Done,
}

impl RunEnd {
    /// Of a run in whose journal is an end. `--fail-fast` leaves scenarios out only once one did not pass.
    pub(super) fn of(interrupted: bool, stopped: bool, bad: impl FnOnce() -> bool) -> RunEnd {
        match interrupted {
            true => RunEnd::Interrupted,
            false if stopped && bad() => RunEnd::Stopped,
            false => RunEnd::Done,
        }
    }
}

/// A scenario of which the journal has nothing.
pub(super) fn not_run(mut scenario: ScenarioReport, how: RunEnd) -> ScenarioReport {
    let (verdict, reason) = match how {
        RunEnd::Killed | RunEnd::Interrupted => (Verdict::Skip, INTERRUPTED),
        RunEnd::Stopped => (Verdict::Skip, FAIL_FAST),
        RunEnd::Done => (Verdict::Error, "nothing is recorded of it"),
    };
    scenario.verdict = verdict;
    scenario.reason = Some(reason.to_owned());
    scenario.unfinished = verdict == Verdict::Skip;
    scenario
}

/// A scenario of which the journal has lost the start, and with it what had to be done. One at which the
/// lab panicked has none and says so.
pub(super) fn no_start(mut scenario: ScenarioReport, ended: bool) -> ScenarioReport {
    let reason = match ended {
        true => "it has an end and no start in the journal",
        false => "it has no start in the journal",
    };
    scenario.verdict = scenario.verdict.and(Verdict::Error);
    scenario.reason.get_or_insert_with(|| reason.to_owned());
    scenario
}

/// A scenario that was begun and has no end. A runner that was killed may have been killed by the scenario,
/// so that is an error; a failure that was judged by then stays one.
pub(super) fn cut_off(mut scenario: ScenarioReport, how: RunEnd) -> ScenarioReport {
    let (verdict, what) = match how {
        RunEnd::Interrupted => (Verdict::Skip, "interrupted"),
        RunEnd::Stopped => (
            Verdict::Skip,
            "interrupted and not run again (--fail-fast),",
        ),
        RunEnd::Killed => (Verdict::Error, "the run ended in the middle of it,"),
        RunEnd::Done => (Verdict::Error, "it has no end in the journal,"),
    };
    let done = scenario.steps_of_plan().filter_map(|step| step.verdict);
    let done = done.count();
    let mut reason = format!("{what} after {done} of {} steps", scenario.steps_planned);
    let failed = has_failed(&scenario);
    if failed && shared(&scenario) {
        reason += "; it failed in a guest or QEMU that it shared, and was not run again in its own";
    }
    // Only a runner that goes on can run a suspect again, before it is believed.
    let believed = match how {
        RunEnd::Interrupted | RunEnd::Stopped => failed && !shared(&scenario),
        RunEnd::Killed | RunEnd::Done => failed,
    };
    scenario.verdict = if believed { Verdict::Fail } else { verdict };
    scenario.unfinished = !believed && how != RunEnd::Done;
    scenario.reason = Some(reason);
    scenario
}

/// Whether its positive control, a step or the end of its guest was judged a failure.
fn has_failed(scenario: &ScenarioReport) -> bool {
    let control = scenario.control.as_ref().map(|control| control.verdict);
    let steps = scenario.steps.iter().filter_map(|step| step.verdict);
    steps.chain(control).any(|verdict| verdict == Verdict::Fail)
}

/// Whether what failed may come from others in its guest or QEMU.
fn shared(scenario: &ScenarioReport) -> bool {
    scenario.shared_guest.is_some() || scenario.guests_before > 0
}

/// The run as a scenario, for formats whose readers look at nothing else: where it is no success for a reason
/// that none of its scenarios shows.
pub(super) fn run_itself(report: &Report) -> Option<ScenarioReport> {
    let verdicts = report.scenarios.iter().map(|scenario| scenario.verdict);
    let shown = verdicts.fold(Verdict::Skip, Verdict::and);
    let (verdict, reason) = match report.verdict {
        _ if report.interrupted || !report.complete => {
            let what = format!("the run {} before it was done", what_cut(report));
            (Verdict::Error, what)
        }
        verdict @ (Verdict::Fail | Verdict::Error) if shown.and(verdict) != shown => {
            let what = format!("the verdict of the run is {verdict}, and no scenario says why");
            (verdict, what)
        }
        _ => return None,
    };
    Some(ScenarioReport {
        name: "the run".to_owned(),
        verdict,
        reason: Some(reason),
        ..ScenarioReport::unknown(String::new())
    })
}

/// What left scenarios of a run without a result, in words that follow `which`.
pub(super) fn what_cut(report: &Report) -> &'static str {
    match (report.interrupted, report.complete) {
        (true, _) => "was interrupted",
        (false, false) => "was killed",
        (false, true) => "stopped at a scenario that did not pass (--fail-fast)",
    }
}
