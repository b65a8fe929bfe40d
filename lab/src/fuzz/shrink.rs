//! The smallest plan that fails like a plan: fewer steps, plainer operations, shorter and rounder
//! ranges, no more vCPUs and memory than needed.

use super::bench::{Failure, Orders};
use super::simpler::{candidates, cost};
use crate::plan::{Action, Op, Plan};
use crate::replay;

/// What came of shrinking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
    /// Plans that were tried on the way.
    pub tried: usize,
}

/// Shrinks a plan that failed. `attempt` runs a plan, in which races shall take such turns, and says
/// how it failed; at most `most` plans are tried, and none any more once `stop` says so.
pub fn shrink(
    plan: &Plan,
    failure: &Failure,
    most: usize,
    stop: impl Fn() -> bool,
    attempt: impl Fn(&Plan, &Orders) -> Option<Failure>,
) -> Shrunk {
    let mut best = Shrunk {
        plan: up_to(plan, failure),
        failure: failure.clone(),
        tried: 0,
    };
    while let Some(better) = improve(&mut best, most, &stop, &attempt) {
        best = better;
    }
    best
}

/// The first simpler plan that fails alike.
fn improve(
    best: &mut Shrunk,
    most: usize,
    stop: &impl Fn() -> bool,
    attempt: &impl Fn(&Plan, &Orders) -> Option<Failure>,
) -> Option<Shrunk> {
    let size = cost(&best.plan);
    for candidate in candidates(&best.plan) {
        if cost(&candidate) >= size || replay::check(&candidate).is_err() {
            continue;
        }
        if best.tried >= most || stop() {
            return None;
        }
        best.tried += 1;
        let orders = carried(&best.failure.orders, &best.plan, &candidate);
        if let Some(failure) = attempt(&candidate, &orders)
            && failure.is_like(&best.failure)
        {
            return Some(Shrunk {
                plan: up_to(&candidate, &failure),
                failure,
                tried: best.tried,
            });
        }
    }
    None
}

/// Recorded orders of races, for a plan that was made of the one they are of: race by race where none
/// was left out, else those of the races that are still the same.
fn carried(orders: &Orders, from: &Plan, to: &Plan) -> Orders {
    if orders.is_empty() {
        return Orders::new();
    }
    let mut before = races(from).peekable();
    let all = races(from).count() == races(to).count();
    let mut carried = Orders::new();
    for (step, race) in races(to) {
        let mut same = std::iter::from_fn(|| before.next());
        if let Some((was, _)) = same.find(|(_, other)| all || *other == race)
            && let Some(order) = orders.get(&was)
        {
            carried.insert(step, order.clone());
        }
    }
    carried
}

/// The steps of a plan that race, counted from 0.
fn races(plan: &Plan) -> impl Iterator<Item = (u32, &Action)> {
    let steps = (0..)
        .zip(&plan.steps)
        .map(|(index, step)| (index, &step.action));
    steps.filter(|(_, action)| matches!(action, Action::Parallel(_)))
}

/// What comes after the failure is no part of it.
fn up_to(plan: &Plan, failure: &Failure) -> Plan {
    let mut plan = plan.clone();
    plan.steps.truncate(failure.step + 1);
    plan
}

/// How many steps of a plan are set-up: the first steps that bring memory into a state (accept,
/// fill, touch, convert, prefault, allocate), before the first that takes something away or looks
/// at it, and not counting the last.
pub fn setup(plan: &Plan) -> usize {
    let before_last = plan.steps.len().saturating_sub(1);
    plan.steps[..before_last]
        .iter()
        .take_while(|step| {
            matches!(
                step.action,
                Action::One(
                    Op::Accept { .. }
                        | Op::Fill { .. }
                        | Op::Touch { .. }
                        | Op::Convert { .. }
                        | Op::Prefault { .. }
                        | Op::Allocate { .. }
                )
            )
        })
        .count()
}
