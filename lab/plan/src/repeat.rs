//! A scenario that a run does several times: the first time under its own name, then as `name@2`,
//! `name@3` and so on, so that names stay unique in a run.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// How often all scenarios of a run are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// How often.
    pub times: NonZeroU32,
    /// Seed from which every round draws one of its own; where there is none, all rounds are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed: Option<u64>,
}

/// The name of a scenario in a round, counted from 0.
pub fn named(name: &str, round: u32) -> String {
    match round {
        0 => name.to_owned(),
        round => format!("{name}@{}", u64::from(round) + 1),
    }
}

/// The name without the round.
pub fn base(name: &str) -> &str {
    match name.rsplit_once('@') {
        Some((base, round)) if round.parse::<u64>().is_ok_and(|round| round > 1) => base,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_part_of_the_name_and_comes_off_again() {
        assert_eq!(named("punch/edges[head]", 0), "punch/edges[head]");
        assert_eq!(named("punch/edges[head]", 4), "punch/edges[head]@5");
        for round in [0, 1, 41] {
            assert_eq!(
                base(&named("punch/edges[head]", round)),
                "punch/edges[head]"
            );
        }
        assert_eq!(base("odd@name"), "odd@name");
    }
}
