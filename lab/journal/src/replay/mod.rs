//! Replay files: a plan with everything that is needed to run it again exactly as it was.
//!
//! A replay file is JSON for people and programs: what was recorded where, the steps told in words
//! (`story`, which is never read back), the plan, and the order in which racing operations took
//! turns where the seed alone does not give it. Version 1 was the bare plan, and version 2 knew no starts
//! of operations and no lines of the kernel log that may appear; both still run.
//!
//! | file | what it does |
//! |---|---|
//! | `file` | reads and writes replay files |
//! | `orders` | refuses orders of steps that do not race |
//! | `recorded` | takes replays out of a journal |
//! | `signature` | how a plan failed, in few words |

mod error;
mod file;
mod orders;
mod origin;
mod signature;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use error::ReplayError;
pub use file::{FILE, VERSION, read};
pub use origin::{all, from_journal};
pub use signature::Signature;

use tdxlab_plan::{HostKind, Plan};

use crate::interleaving::Interleaving;

/// A plan, and how it was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Where it was run; `None` for a bare plan.
    pub recorded: Option<ReplayOrigin>,
    /// The plan.
    pub plan: Plan,
    /// The order of racing operations, by step from 0.
    pub orders: BTreeMap<u32, Interleaving>,
}

/// Where and how a plan was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayOrigin {
    /// Version of tdxlab.
    pub tdxlab: String,
    /// Name of the run.
    pub run: String,
    /// Where the guest ran.
    pub host: HostKind,
    /// The design played or expected.
    pub design: String,
    /// The fault that was seeded into the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Texts of kernel log lines that might appear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_log: Vec<String>,
    /// How it ended; `None` where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Signature>,
}
