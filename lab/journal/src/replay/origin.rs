//! Extracts replays from the journal of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tdxlab_plan::Plan;

use super::error::ReplayError;
use super::model::{Replay, ReplayOrigin};
use super::signature::Signature;
use crate::journal::{Event, RunStarted};
use crate::reader::JournalReader;
use crate::{PlanId, Verdict};

/// Every plan of a run that was started, in the order of the run; `name` picks one, or all points
/// of one scenario. Without a name, those that did not pass, or all where all did.
pub fn from_journal(path: &Path, name: Option<&str>) -> Result<Vec<Replay>, ReplayError> {
    let found = started(path)?;
    if found.is_empty() {
        return Err(ReplayError::Nothing {
            path: path.to_owned(),
        });
    }
    let chosen = match name {
        Some(name) => named(found, name, path)?,
        None => worth_it(found),
    };
    for replay in &chosen {
        replay.check(path)?;
    }
    Ok(chosen)
}

/// All plans of a run that were started, in the order of the run.
pub fn all(path: &Path) -> Result<Vec<Replay>, ReplayError> {
    Ok(started(path)?.into_values().collect())
}

fn started(path: &Path) -> Result<BTreeMap<PlanId, Replay>, ReplayError> {
    let mut recording = JournalReader::open(path)?;
    let head = recording.head().clone();
    let mut found: BTreeMap<PlanId, Replay> = BTreeMap::new();
    let mut over = BTreeSet::new();
    while let Some(line) = recording.next_line()? {
        match line.event {
            Event::PlanStarted { plan, body, .. } => {
                found.insert(plan, begun(&head, body));
            }
            Event::StepObserved {
                plan,
                step,
                interleaving: Some(order),
                ..
            } => {
                if let Some(replay) = found.get_mut(&plan) {
                    replay.orders.insert(step, order);
                }
            }
            Event::StepJudged {
                plan,
                step,
                judgement,
                ..
            } => {
                if let Some((_, ended)) = signed(&mut found, plan) {
                    ended.add(step, &judgement);
                }
            }
            Event::Ended {
                plan, judgement, ..
            } => {
                if let Some((plan, ended)) = signed(&mut found, plan) {
                    ended.add_end(plan, &judgement);
                }
            }
            Event::PlanEnded { plan, verdict, .. } => {
                if let Some((_, ended)) = signed(&mut found, plan) {
                    ended.verdict = verdict;
                }
                over.insert(plan);
            }
            _ => {}
        }
    }
    // A plan that did not come to its end has not passed, but what failed in it did.
    for (_, replay) in found.iter_mut().filter(|(plan, _)| !over.contains(plan)) {
        if let Some(recorded) = &mut replay.recorded {
            recorded.ended.take_if(|ended| ended.step.is_none());
        }
    }
    Ok(found)
}

fn begun(head: &RunStarted, plan: Plan) -> Replay {
    Replay {
        recorded: Some(ReplayOrigin {
            tdxlab: head.tdxlab.clone(),
            run: head.run.clone(),
            host: head.host,
            design: head.design.clone(),
            module: head.profile().module,
            fault: head.fault.as_ref().map(|fault| fault.name.clone()),
            allowed_log: head.allowed_log.clone(),
            ended: Some(Signature::passing()),
        }),
        plan,
        orders: BTreeMap::new(),
    }
}

/// A plan, and how it ended as far as is known.
fn signed(found: &mut BTreeMap<PlanId, Replay>, plan: PlanId) -> Option<(&Plan, &mut Signature)> {
    let Replay { plan, recorded, .. } = found.get_mut(&plan)?;
    Some((plan, recorded.as_mut()?.ended.as_mut()?))
}

fn named(
    found: BTreeMap<PlanId, Replay>,
    name: &str,
    path: &Path,
) -> Result<Vec<Replay>, ReplayError> {
    let scenario = |full: &str| full.split('[').next().unwrap_or_default().to_owned();
    let exact = found.values().any(|replay| replay.plan.name == name);
    let fits = |replay: &Replay| match exact {
        true => replay.plan.name == name,
        false => scenario(&replay.plan.name) == name,
    };
    let nearest = found
        .values()
        .map(|replay| replay.plan.name.clone())
        .max_by(|one, other| {
            let likeness = |other: &str| strsim::jaro_winkler(other, name);
            likeness(one).total_cmp(&likeness(other))
        });
    let chosen: Vec<Replay> = found.into_values().filter(fits).collect();
    if chosen.is_empty() {
        return Err(ReplayError::NoSuchScenario {
            path: path.to_owned(),
            name: name.to_owned(),
            help: format!("the nearest is `{}`", nearest.unwrap_or_default()),
        });
    }
    Ok(chosen)
}

fn worth_it(found: BTreeMap<PlanId, Replay>) -> Vec<Replay> {
    let bad = |replay: &Replay| {
        let ended = replay.recorded.as_ref().and_then(|r| r.ended.as_ref());
        ended.is_none_or(|ended| ended.verdict != Verdict::Pass)
    };
    let any = found.values().any(bad);
    found
        .into_values()
        .filter(|replay| !any || bad(replay))
        .collect()
}
