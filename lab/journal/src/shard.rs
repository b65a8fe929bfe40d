//! Shards: the parts of one run on several machines.
//!
//! A plan belongs to a shard by its name alone: adding a scenario moves no other scenario.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most parts of a run: more machines than any lab has, and few enough to be counted one by one.
pub const MOST_SHARDS: u32 = 1 << 16;

/// One of several parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: u32,
    count: u32,
}

/// Errors of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShardError {
    /// It is no pair of numbers.
    #[error("`{0}` is no shard: write i/n, such as 3/8, or auto")]
    Syntax(String),
    /// There is no such part.
    #[error("there is no shard {index} of {count}: shards are counted from 1")]
    Range {
        /// Index given by the user, from 1.
        index: u64,
        /// Number of shards.
        count: u64,
    },
    /// There are more parts than anyone has machines.
    #[error("{count} shards are too many: a run has at most {MOST_SHARDS}")]
    TooMany {
        /// Number of shards.
        count: u64,
    },
    /// The variables of the engine do not say.
    #[error("cannot tell the shard from the environment: {0}")]
    Environment(String),
}

impl Shard {
    /// Part `index` of `count`, from 1.
    pub fn new(index: u64, count: u64) -> Result<Shard, ShardError> {
        if index < 1 || index > count {
            return Err(ShardError::Range { index, count });
        }
        match (u32::try_from(index), u32::try_from(count)) {
            (Ok(index), Ok(count)) if count <= MOST_SHARDS => Ok(Shard { index, count }),
            _ => Err(ShardError::TooMany { count }),
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

    /// The shard from the environment of the CI engine that started this process:
    ///
    /// | engine | which part | of how many |
    /// |---|---|---|
    /// | GitLab, `parallel:` | `CI_NODE_INDEX`, from 1 | `CI_NODE_TOTAL` |
    /// | Slurm, job array | `SLURM_ARRAY_TASK_ID`, from `SLURM_ARRAY_TASK_MIN` | `SLURM_ARRAY_TASK_COUNT` |
    /// | Buildkite, `parallelism:` | `BUILDKITE_PARALLEL_JOB`, from 0 | `BUILDKITE_PARALLEL_JOB_COUNT` |
    /// | CircleCI, `parallelism:` | `CIRCLE_NODE_INDEX`, from 0 | `CIRCLE_NODE_TOTAL` |
    /// | Kubernetes Indexed Job | `JOB_COMPLETION_INDEX`, from 0 | `TDXLAB_SHARDS` |
    /// | GitHub Actions, matrix | `TDXLAB_JOB_INDEX` (`strategy.job-index`), from 0 | `TDXLAB_SHARDS` (`strategy.job-total`) |
    ///
    /// # Errors
    ///
    /// No engine sets its variables, one sets only half of them, or two contradict each other.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Shard, ShardError> {
        let number = |name: &'static str| -> Result<Option<u64>, ShardError> {
            match get(name) {
                None => Ok(None),
                Some(text) => text.trim().parse().map(Some).map_err(|_| {
                    ShardError::Environment(format!("{name} is `{text}`, which is no number"))
                }),
            }
        };
        let mut found: Option<(&str, Shard)> = None;
        for engine in ENGINES {
            let Some(part) = number(engine.index)? else {
                continue;
            };
            let needed = |name| {
                number(name)?.ok_or_else(|| {
                    ShardError::Environment(format!("{} is set, but {name} is not", engine.index))
                })
            };
            let parts = needed(engine.count)?;
            let first = match engine.first {
                First::Is(first) => first,
                First::Variable(name) => needed(name)?,
            };
            if let (First::Variable(_), 2..) = (engine.first, first) {
                return Err(ShardError::Environment(format!(
                    "the array starts at {first}, so it may be a few tasks of a larger one; start \
                     arrays at 0 or 1, and run a task again by `scontrol requeue JOB_TASK`"
                )));
            }
            let shard = Shard::new((part + 1).saturating_sub(first), parts)?;
            match found {
                Some((other, said)) if said != shard => {
                    return Err(ShardError::Environment(format!(
                        "{other} says {said}, {} says {shard}; unset one of them",
                        engine.index
                    )));
                }
                _ => found = Some((engine.index, shard)),
            }
        }
        found.map(|(_, shard)| shard).ok_or_else(|| {
            let names = ENGINES.map(|engine| engine.index).join(", ");
            ShardError::Environment(format!("none of {names} is set"))
        })
    }
}

/// The environment variables of an engine.
struct Engine {
    index: &'static str,
    count: &'static str,
    first: First,
}

/// The index of an engine's first process.
#[derive(Clone, Copy)]
enum First {
    Is(u64),
    Variable(&'static str),
}

impl Engine {
    const fn new(index: &'static str, count: &'static str, first: First) -> Engine {
        Engine {
            index,
            count,
            first,
        }
    }
}

const ENGINES: [Engine; 6] = [
    Engine::new("CI_NODE_INDEX", "CI_NODE_TOTAL", First::Is(1)),
    Engine::new(
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        First::Variable("SLURM_ARRAY_TASK_MIN"),
    ),
    Engine::new(
        "BUILDKITE_PARALLEL_JOB",
        "BUILDKITE_PARALLEL_JOB_COUNT",
        First::Is(0),
    ),
    Engine::new("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", First::Is(0)),
    Engine::new("JOB_COMPLETION_INDEX", "TDXLAB_SHARDS", First::Is(0)),
    Engine::new("TDXLAB_JOB_INDEX", "TDXLAB_SHARDS", First::Is(0)),
];

/// FNV-1a, 64 bits: stable across machines and versions.
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

    /// `report merge` once took hours and all memory to list the missing ones of so many.
    #[rstest]
    #[case("1/65536", true)]
    #[case("1/65537", false)]
    #[case("1/3000000000", false)]
    #[case("3000000000/3000000000", false)]
    #[case("1/18446744073709551615", false)]
    fn shards_are_few_enough_to_be_counted(#[case] text: &str, #[case] right: bool) {
        match text.parse::<Shard>() {
            Ok(shard) => assert!(right, "{shard}"),
            Err(error) => {
                assert!(!right, "{error}");
                let said = error.to_string();
                assert!(said.ends_with("a run has at most 65536"), "{said}");
            }
        }
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

    fn from(set: &[(&str, &str)]) -> Result<Shard, ShardError> {
        Shard::from_environment(|name| {
            set.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn slurm(id: &str, min: &str, count: &str) -> Result<Shard, ShardError> {
        from(&[
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_MIN", min),
            ("SLURM_ARRAY_TASK_COUNT", count),
        ])
    }

    #[rstest]
    #[case::gitlab(&[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "4")], "2/4")]
    #[case::buildkite(&[("BUILDKITE_PARALLEL_JOB", "0"), ("BUILDKITE_PARALLEL_JOB_COUNT", "5")], "1/5")]
    #[case::circleci(&[("CIRCLE_NODE_INDEX", "3"), ("CIRCLE_NODE_TOTAL", "4")], "4/4")]
    #[case::kubernetes(&[("JOB_COMPLETION_INDEX", "0"), ("TDXLAB_SHARDS", "8")], "1/8")]
    #[case::github(&[("TDXLAB_JOB_INDEX", "7"), ("TDXLAB_SHARDS", "8")], "8/8")]
    fn engines_say_which_part(#[case] set: &[(&str, &str)], #[case] shard: &str) {
        assert_eq!(from(set).unwrap().to_string(), shard);
    }

    #[rstest]
    #[case("0", "0", "8", "1/8")]
    #[case("7", "0", "8", "8/8")]
    #[case("8", "1", "8", "8/8")]
    fn arrays_start_at_zero_or_one(
        #[case] id: &str,
        #[case] min: &str,
        #[case] count: &str,
        #[case] shard: &str,
    ) {
        assert_eq!(slurm(id, min, count).unwrap().to_string(), shard);
    }

    /// `--array=3`, or `--array=1,5`: read as a whole, each would leave scenarios out or run all.
    #[rstest]
    #[case("3", "3", "1", "scontrol requeue")]
    #[case("5", "1", "2", "no shard 5 of 2")]
    #[case("x", "1", "2", "no number")]
    fn a_piece_of_an_array_is_refused(
        #[case] id: &str,
        #[case] min: &str,
        #[case] count: &str,
        #[case] why: &str,
    ) {
        let said = slurm(id, min, count).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn half_an_environment_is_an_error_not_a_whole_run() {
        for engine in ENGINES {
            let said = from(&[(engine.index, "0")]).unwrap_err().to_string();
            assert!(said.contains(engine.count), "{said}");
        }
        let no_start = [
            ("SLURM_ARRAY_TASK_ID", "1"),
            ("SLURM_ARRAY_TASK_COUNT", "8"),
        ];
        let said = from(&no_start).unwrap_err().to_string();
        assert!(said.contains("SLURM_ARRAY_TASK_MIN"), "{said}");
        assert!(from(&[]).is_err());
    }

    /// A GitLab runner that hands its jobs to Slurm: the variables of both are there.
    #[test]
    fn engines_that_disagree_are_an_error() {
        let gitlab = [("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "8")];
        let circle = |index| [("CIRCLE_NODE_INDEX", index), ("CIRCLE_NODE_TOTAL", "8")];
        assert!(from(&[gitlab, circle("1")].concat()).is_ok());
        let said = from(&[gitlab, circle("2")].concat()).unwrap_err();
        assert!(said.to_string().contains("unset one"), "{said}");
    }
}
