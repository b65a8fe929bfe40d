//! Steps and plans made of drawn operations.

use tdxlab_plan::{Action, Generation, Guest, Needs, Op, Plan, Step, VERSION};

/// A step without expectations of an author.
pub(super) fn step(action: Action) -> Step {
    Step {
        line: 0,
        action,
        expect: Default::default(),
    }
}

/// A plan of drawn steps. Fills are renumbered as in a scenario.
pub(super) fn plan(guest: Guest, seed: u64, steps: Vec<Step>) -> Plan {
    let mut plan = Plan {
        version: VERSION,
        name: format!("fuzz/{seed:016x}"),
        about: "Drawn at random.".to_owned(),
        seed,
        needs: Needs::default(),
        guest,
        steps,
    };
    let mut fills = 0;
    for step in &mut plan.steps {
        number(&mut step.action, &mut fills);
    }
    plan
}

/// Gives every fill of a step the generation after that of the fill before; `fills` is the last.
pub(super) fn number(action: &mut Action, fills: &mut u16) {
    for op in action.ops_mut() {
        if let Op::Fill { generation, .. } = op {
            *fills = *fills % Generation::MAX.get() + 1;
            *generation = Generation::new(*fills).unwrap_or(Generation::MAX);
        }
    }
}
