//! Shrinks a failing plan: fewer steps, plainer operations, shorter and rounder ranges, no more
//! vCPUs and memory than needed.

use tdxlab_plan::{Action, Op, Plan};

use super::harness::{Failure, Orders};
use super::reductions::{candidates, cost};

/// Result of shrinking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// Its failure.
    pub failure: Failure,
    /// Plans that were tried on the way.
    pub tried: usize,
}

/// Shrinks a plan that failed. `attempt` runs a plan, with the given orders of races, and returns
/// its failure; at most `most` plans are tried, and none after `stop` returns true.
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
        if cost(&candidate) >= size || tdxlab_plan::check(&candidate).is_err() {
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

/// Carries recorded orders of races over to a plan derived from another: race by race if none was
/// left out, else those of unchanged races.
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

/// Drops the steps after the failure.
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

#[cfg(test)]
mod tests {
    use tdxlab_plan::addr::{Gpa, GpaRange};
    use tdxlab_plan::{Branch, Guest, LOW_BASE, Step};

    use super::*;
    use crate::steps;

    fn punch(page: u64) -> Op {
        let start = Gpa::new(LOW_BASE.as_u64() + (page << 12));
        Op::Punch {
            range: GpaRange::with_len(start, 4096).unwrap(),
        }
    }

    fn race(page: u64) -> Action {
        Action::Parallel(vec![Branch(vec![punch(page)]), Branch(vec![punch(0)])])
    }

    fn plan(actions: Vec<Action>) -> Plan {
        let memory = GpaRange::with_len(LOW_BASE, 2 << 20).unwrap();
        let step = |action| Step {
            line: 0,
            action,
            expect: Default::default(),
        };
        let steps = actions.into_iter().map(step).collect();
        steps::plan(Guest::over(memory), 1, steps)
    }

    /// A race keeps its order when steps before it or races beside it are left out, and when only its
    /// ranges change.
    #[test]
    fn orders_go_with_their_races() {
        let order = |branch: usize| {
            let mut order = tdxlab_journal::interleaving::Interleaving::default();
            order.begin([branch]);
            order
        };
        let from = plan(vec![
            Action::One(punch(9)),
            race(1),
            Action::One(punch(9)),
            race(2),
        ]);
        let orders = Orders::from([(1, order(1)), (3, order(2))]);
        let to = |actions| carried(&orders, &from, &plan(actions));
        assert_eq!(
            to(vec![race(1), Action::One(punch(9)), race(2)]),
            Orders::from([(0, order(1)), (2, order(2))])
        );
        assert_eq!(to(vec![race(2)]), Orders::from([(0, order(2))]));
        assert_eq!(
            to(vec![race(1), race(5)]),
            Orders::from([(0, order(1)), (1, order(2))])
        );
        assert_eq!(
            to(vec![Action::One(punch(1)), Action::One(punch(0))]),
            Orders::new()
        );
    }
}
