//! Orders of races in a replay file.

use std::collections::BTreeMap;

use tdxlab_plan::{Action, Plan, WrongPlan};

use crate::interleaving::Interleaving;

/// Refuses orders of steps that do not race.
pub(super) fn check(plan: &Plan, orders: &BTreeMap<u32, Interleaving>) -> Result<(), WrongPlan> {
    for step in orders.keys() {
        let index = *step as usize;
        let races = plan
            .steps
            .get(index)
            .is_some_and(|step| matches!(step.action, Action::Parallel(_)));
        if !races {
            return Err(WrongPlan {
                step: Some(index + 1),
                what: "an interleaving of a step in which nothing races".to_owned(),
            });
        }
    }
    Ok(())
}
