//! Reads and writes replay files.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tdxlab_plan as plan;
use tdxlab_plan::{Plan, op_words};

use super::error::ReplayError;
use super::model::{MAX_BYTES, Replay, ReplayOrigin, VERSION};
use super::orders;
use crate::input;
use crate::interleaving::Interleaving;

/// Name of a replay file in the folder of a scenario.
pub const FILE: &str = "replay.json";

/// The fields that are read first.
#[derive(Deserialize)]
struct Kind {
    tdxlab_replay: Option<u64>,
    /// Of a bare plan.
    version: Option<u64>,
}

#[derive(Serialize)]
struct Written<'a> {
    tdxlab_replay: u32,
    recorded: Option<&'a ReplayOrigin>,
    /// The steps in words, for readers.
    story: Vec<String>,
    plan: &'a Plan,
    interleavings: Vec<Order<&'a Interleaving>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version2Or3 {
    #[serde(rename = "tdxlab_replay")]
    _version: u32,
    recorded: Option<ReplayOrigin>,
    #[serde(rename = "story")]
    _story: serde::de::IgnoredAny,
    plan: Plan,
    #[serde(default)]
    interleavings: Vec<Order<Interleaving>>,
}

/// The order of one step, counted from 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order<T> {
    step: u32,
    rounds: T,
}

impl Replay {
    /// The text of a replay file.
    pub fn to_text(&self) -> Vec<u8> {
        let guest = &self.plan.guest;
        let story = (1..)
            .zip(&self.plan.steps)
            .map(|(number, step): (usize, _)| {
                format!("{number}. {}", op_words::action(&step.action, guest))
            })
            .collect();
        let written = Written {
            tdxlab_replay: VERSION,
            recorded: self.recorded.as_ref(),
            story,
            plan: &self.plan,
            interleavings: self
                .orders
                .iter()
                .map(|(step, rounds)| Order {
                    step: step.saturating_add(1),
                    rounds,
                })
                .collect(),
        };
        let mut text = serde_json::to_vec_pretty(&written).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads the text of a replay file of any version there was; `path` is for messages. The plan
    /// is one that can be run.
    pub fn from_text(text: &[u8], path: &Path) -> Result<Replay, ReplayError> {
        let garbled = |error: serde_json::Error| ReplayError::Garbled {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let version = |found| ReplayError::Version {
            path: path.to_owned(),
            found,
        };
        let kind: Kind = serde_json::from_slice(text).map_err(garbled)?;
        let replay = match (kind.tdxlab_replay, kind.version) {
            (Some(2 | 3), _) => {
                let file: Version2Or3 = serde_json::from_slice(text).map_err(garbled)?;
                let mut orders = BTreeMap::new();
                for Order { step, rounds } in file.interleavings {
                    let step = step.checked_sub(1).ok_or_else(|| ReplayError::Garbled {
                        path: path.to_owned(),
                        reason: "an interleaving of step 0; steps count from 1".to_owned(),
                    })?;
                    orders.insert(step, rounds);
                }
                Replay {
                    recorded: file.recorded,
                    plan: file.plan,
                    orders,
                }
            }
            (None, Some(1)) => Replay {
                recorded: None,
                plan: serde_json::from_slice(text).map_err(garbled)?,
                orders: BTreeMap::new(),
            },
            (Some(found), _) | (None, Some(found)) => return Err(version(found)),
            (None, None) => {
                return Err(ReplayError::Garbled {
                    path: path.to_owned(),
                    reason: "it says no version".to_owned(),
                });
            }
        };
        if replay.plan.version != plan::VERSION {
            return Err(ReplayError::Garbled {
                path: path.to_owned(),
                reason: format!(
                    "its plan is of version {}; this tdxlab runs version {}",
                    replay.plan.version,
                    plan::VERSION
                ),
            });
        }
        replay.check(path)?;
        Ok(replay)
    }

    /// Rejects a plan that cannot have been run; `path` is its file.
    pub(super) fn check(&self, path: &Path) -> Result<(), ReplayError> {
        tdxlab_plan::check(&self.plan)
            .and_then(|()| orders::check(&self.plan, &self.orders))
            .map_err(|wrong| ReplayError::Plan {
                path: path.to_owned(),
                wrong,
            })
    }
}

/// Reads a replay file.
pub fn read(path: &Path) -> Result<Replay, ReplayError> {
    let failed = |source: io::Error| ReplayError::Read {
        path: path.to_owned(),
        source,
    };
    let file = input::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let too_large = |bytes| ReplayError::TooLarge {
        path: path.to_owned(),
        bytes,
    };
    if bytes > MAX_BYTES {
        return Err(too_large(bytes));
    }
    // A pipe has no length, so it is held to the same bound while it is read.
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(too_large(text.len() as u64));
    }
    Replay::from_text(&text, path)
}
