//! Which part of a run a machine takes, so that several machines make one run.
//!
//! A plan belongs to a shard by its name alone: adding a scenario moves no other scenario.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One of several parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: u32,
    count: u32,
}

/// What is wrong with a shard.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShardError {
    /// It is no pair of numbers.
    #[error("`{0}` is no shard: write i/n, such as 3/8, or auto")]
    Syntax(String),
    /// There is no such part.
    #[error("there is no shard {index} of {count}: shards are counted from 1")]
    Range {
        /// Which was asked for.
        index: u64,
        /// Of how many.
        count: u64,
    },
    /// The variables of the engine do not say.
    #[error("cannot tell the shard from the environment: {0}")]
    Environment(String),
}

impl Shard {
    /// Part `index` of `count`, from 1.
    pub fn new(index: u64, count: u64) -> Result<Shard, ShardError> {
        match (u32::try_from(index), u32::try_from(count)) {
            (Ok(small), Ok(count)) if small >= 1 && small <= count => Ok(Shard {
                index: small,
                count,
            }),
            _ => Err(ShardError::Range { index, count }),
        }
    }

    /// The part this is, from 1.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many parts there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether the plan of this name belongs to it.
    pub fn holds(self, name: &str) -> bool {
        hash(name) % u64::from(self.count) == u64::from(self.index - 1)
    }

    /// The shard that the engine which started this process means, by its variables:
    ///
    /// | engine | which part | of how many |
    /// |---|---|---|
    /// | GitLab, `parallel:` | `CI_NODE_INDEX`, from 1 | `CI_NODE_TOTAL` |
    /// | Kubernetes Indexed Job | `JOB_COMPLETION_INDEX`, from 0 | `TDXLAB_SHARDS` |
    /// | GitHub Actions, matrix | `TDXLAB_JOB_INDEX` (`strategy.job-index`), from 0 | `TDXLAB_SHARDS` (`strategy.job-total`) |
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Shard, ShardError> {
        let number = |name: &str| -> Result<Option<u64>, ShardError> {
            match get(name) {
                None => Ok(None),
                Some(text) => text.trim().parse().map(Some).map_err(|_| {
                    ShardError::Environment(format!("{name} is `{text}`, which is no number"))
                }),
            }
        };
        for (index, count, first) in [
            ("CI_NODE_INDEX", "CI_NODE_TOTAL", 1),
            ("JOB_COMPLETION_INDEX", "TDXLAB_SHARDS", 0),
            ("TDXLAB_JOB_INDEX", "TDXLAB_SHARDS", 0),
        ] {
            let Some(part) = number(index)? else { continue };
            let Some(parts) = number(count)? else {
                return Err(ShardError::Environment(format!(
                    "{index} is set, but {count} does not say how many shards there are"
                )));
            };
            return Shard::new((part + 1).saturating_sub(first), parts);
        }
        Err(ShardError::Environment(
            "none of CI_NODE_INDEX, JOB_COMPLETION_INDEX and TDXLAB_JOB_INDEX is set".to_owned(),
        ))
    }
}

/// FNV-1a, 64 bits: the same everywhere and for ever.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Shard, ShardError> {
        let syntax = || ShardError::Syntax(text.to_owned());
        let (index, count) = text.split_once('/').ok_or_else(syntax)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| syntax());
        Shard::new(number(index)?, number(count)?)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl TryFrom<String> for Shard {
    type Error = ShardError;

    fn try_from(text: String) -> Result<Shard, ShardError> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> String {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("3/8", true)]
    #[case("1/1", true)]
    #[case("0/8", false)]
    #[case("9/8", false)]
    #[case("3", false)]
    #[case("-1/8", false)]
    #[case("1/0", false)]
    #[case("1/99999999999999999999", false)]
    fn shards_are_counted_from_one(#[case] text: &str, #[case] right: bool) {
        assert_eq!(text.parse::<Shard>().is_ok(), right);
    }

    #[test]
    fn every_plan_belongs_to_exactly_one_shard() {
        for name in [
            "punch/a",
            "punch/a[offset=4K]",
            "",
            "convert/there-and-back",
        ] {
            for count in 1..20 {
                let holders = (1..=count)
                    .filter(|index| Shard::new(*index, count).unwrap().holds(name))
                    .count();
                assert_eq!(holders, 1);
            }
        }
    }

    #[test]
    fn a_name_keeps_its_shard_for_ever() {
        assert_eq!(hash("punch/head-and-tail"), 0xa785_c027_f896_5183);
    }

    #[rstest]
    #[case::gitlab(&[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "4")], "2/4")]
    #[case::kubernetes(&[("JOB_COMPLETION_INDEX", "0"), ("TDXLAB_SHARDS", "8")], "1/8")]
    #[case::github(&[("TDXLAB_JOB_INDEX", "7"), ("TDXLAB_SHARDS", "8")], "8/8")]
    fn engines_say_which_part(#[case] set: &[(&str, &str)], #[case] shard: &str) {
        let get = |name: &str| {
            set.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(Shard::from_environment(get).unwrap().to_string(), shard);
    }

    #[test]
    fn half_an_environment_is_an_error_not_a_whole_run() {
        let index_only = |name: &str| (name == "JOB_COMPLETION_INDEX").then(|| "0".to_owned());
        assert!(Shard::from_environment(index_only).is_err());
        assert!(Shard::from_environment(|_| None).is_err());
    }
}
