//! Extracts what caught a fault: the first failed step of a plan, and its witnesses.

use tdxlab_journal::{Finding, FindingKind, Judgement, Verdict, Witness};
use tdxlab_plan::{Guest, op_words};
use tdxlab_run::{PlanResult, TestCase};

use super::matrix::Catch;

/// The catch of a failed plan. Later steps may fail as a consequence, so only the first counts;
/// their witnesses are recorded separately.
pub fn caught(plan: usize, item: &TestCase, tried: &PlanResult) -> Option<Catch> {
    let control = tried
        .control
        .iter()
        .map(|judgement| (None, judgement))
        .find(|(_, judgement)| judgement.verdict == Verdict::Fail);
    let steps = tried
        .steps
        .iter()
        .enumerate()
        .map(|(index, judgement)| (Some(index), judgement))
        .chain(
            tried
                .end
                .iter()
                .map(|end| (Some(item.plan.steps.len()), end)),
        )
        .find(|(_, judgement)| judgement.verdict == Verdict::Fail);
    let (step, judgement) = control.or(steps)?;
    let after = step.map_or(0, |index| index + 1);
    let later = tried.steps.get(after..).unwrap_or_default().iter();
    let later = later.chain(tried.end.iter().filter(|_| after <= item.plan.steps.len()));
    let (action, line) = said(item, step, &item.plan.guest);
    Some(Catch {
        plan,
        name: item.plan.name.clone(),
        file: item.scenario.clone(),
        line,
        seed: item.plan.seed,
        step: step.map(|index| index + 1),
        action,
        witnesses: witnesses(std::iter::once(judgement)),
        later: witnesses(later),
        findings: judgement.findings.iter().map(Finding::to_string).collect(),
    })
}

/// The catch of a plan that ended at the positive control because no counter moved. No step is
/// judged then, so the witnesses are the counters that should have moved.
pub(super) fn stuck(plan: usize, item: &TestCase, tried: &PlanResult) -> Option<Catch> {
    let control = tried.control.as_ref()?;
    if control.verdict != Verdict::Error || tried.distrusted.is_empty() {
        return None;
    }
    let (action, line) = said(item, None, &item.plan.guest);
    let mut witnesses: Vec<Witness> = tried.distrusted.iter().map(|one| one.witness).collect();
    witnesses.sort_unstable();
    Some(Catch {
        plan,
        name: item.plan.name.clone(),
        file: item.scenario.clone(),
        line,
        seed: item.plan.seed,
        step: None,
        action,
        witnesses,
        later: Vec::new(),
        findings: tried
            .distrusted
            .iter()
            .map(|one| format!("{}: {}", one.witness, one.reason))
            .collect(),
    })
}

fn said(item: &TestCase, step: Option<usize>, guest: &Guest) -> (String, u32) {
    match step.map(|index| item.plan.steps.get(index)) {
        Some(Some(step)) => (op_words::action(&step.action, guest), step.line),
        Some(None) => ("the end of the guest".to_owned(), 0),
        None => ("the positive control".to_owned(), 0),
    }
}

/// Witnesses that contradicted the prediction, without duplicates, in the order of witnesses.
fn witnesses<'a>(judgements: impl Iterator<Item = &'a Judgement>) -> Vec<Witness> {
    let mut witnesses: Vec<Witness> = judgements
        .flat_map(|judgement| &judgement.findings)
        .filter(|finding| finding.kind != FindingKind::Impossible)
        .map(|finding| finding.witness)
        .collect();
    witnesses.sort_unstable();
    witnesses.dedup();
    witnesses
}
