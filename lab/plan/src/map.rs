//! Expected state of guest memory, kept with every step so that reports can draw it.

use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::GpaRange;

/// State of a region in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionState {
    /// Unmapped, without a table above it.
    Empty,
    /// 2M leaves, not accepted.
    LeafPending,
    /// 2M leaves, accepted.
    LeafAccepted,
    /// Free entries of a table.
    TableFree,
    /// 4K leaves, not accepted.
    PagePending,
    /// 4K leaves, accepted.
    PageAccepted,
    /// Converted to shared, not mapped.
    Shared,
    /// Converted to shared, mapped at 4K.
    SharedMapped,
    /// Unknown after a race.
    Unknown,
}

/// State of test memory as extents in address order. The rest is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMap {
    /// The extents; at most [`MemoryMap::MAX_EXTENTS`].
    pub extents: Vec<(GpaRange, RegionState)>,
    /// Whether there are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl MemoryMap {
    /// Most extents kept of one step.
    pub const MAX_EXTENTS: usize = 2048;
}
