//! Does the positive control, and single steps.

use tdxlab_host::{HostError, Session};
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::{Observed, Sample};
use tdxlab_judge::control::{self, Control};
use tdxlab_judge::{Oracle, PlanJudge, branches};
use tdxlab_plan::{Action, Expectation, Guest};

/// A positive control that was done and judged.
#[derive(Debug)]
pub struct Controlled {
    /// Witnesses before it.
    pub before: Sample,
    /// Witnesses after it.
    pub after: Sample,
    /// The observation.
    pub observed: Observed,
    /// The judgement, and the counters to ignore.
    pub control: Control,
}

/// Does the positive control, and judges it.
///
/// # Errors
///
/// The host could not do it.
pub fn control<O: Oracle>(
    session: &mut dyn Session,
    guest: &Guest,
    judge: &mut PlanJudge<O>,
) -> Result<Controlled, HostError> {
    let before = session.sample();
    let observed = session.perform(&control::operation(guest), &[])?;
    let after = session.sample();
    let control = judge.control(&observed, &before, &after);
    Ok(Controlled {
        before,
        after,
        observed,
        control,
    })
}

/// A step that was done.
#[derive(Debug)]
pub struct Performed {
    /// Observations, operation by operation of every branch.
    pub observed: Vec<Vec<Observed>>,
    /// Order of turns in a race, unless the seed alone determines it.
    pub interleaving: Option<Interleaving>,
}

/// Does a step. Races draw their order from `seed`, the plan's, or follow `order`.
///
/// # Errors
///
/// The host could not do it, or did not return results of every operation.
pub fn step(
    session: &mut dyn Session,
    action: &Action,
    expected: &Expectation,
    (seed, step): (u64, u32),
    order: Option<&Interleaving>,
) -> Result<Performed, HostError> {
    let performed = match action {
        Action::One(op) => {
            let reads: Vec<_> = expected.reads.iter().map(|read| read.range).collect();
            Performed {
                observed: vec![vec![session.perform(op, &reads)?]],
                interleaving: None,
            }
        }
        Action::Parallel(_) => {
            if let Some(order) = order {
                session.follow(order);
            }
            let branches: Vec<_> = branches(action).collect();
            // A different seed for every step, so that two races of a plan differ.
            let seed = seed.wrapping_add(u64::from(step));
            Performed {
                observed: session.perform_parallel(&branches, seed)?,
                interleaving: session.take_interleaving(),
            }
        }
    };
    complete(action, &performed.observed)?;
    Ok(performed)
}

/// Every operation has results, unless the TD died meanwhile.
fn complete(action: &Action, observed: &[Vec<Observed>]) -> Result<(), HostError> {
    let dead = observed.iter().flatten().any(|o| o.death.is_some());
    let branches: Vec<_> = branches(action).collect();
    let enough = branches.len() == observed.len()
        && branches.iter().zip(observed).all(|(ops, results)| {
            ops.len() == results.len() || (dead && results.len() < ops.len())
        });
    if enough {
        return Ok(());
    }
    let shape = |lengths: Vec<usize>| format!("{lengths:?}");
    Err(HostError::GuestLies {
        what: format!(
            "the host came back with results of {} operations by branch, not {}",
            shape(observed.iter().map(Vec::len).collect()),
            shape(branches.iter().map(|ops| ops.len()).collect()),
        ),
    })
}
