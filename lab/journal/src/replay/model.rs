//! Content of a replay file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tdxlab_plan::{HostKind, Plan, TdxModule};

use super::signature::Signature;
use crate::interleaving::Interleaving;

/// Largest file. The largest that is written holds 10,000 operations and a few long races.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Version of the format. Version 1 is a bare plan; version 3 extends version 2.
pub const VERSION: u32 = 3;

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
    /// The design, emulated or expected.
    pub design: String,
    /// The TDX module that the host played.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<TdxModule>,
    /// The fault that was seeded into the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Texts of kernel log lines that might appear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_log: Vec<String>,
    /// How it ended; `None` if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Signature>,
}
