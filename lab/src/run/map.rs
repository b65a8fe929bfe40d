//! How guest memory must look, kept with every step so that reports can draw it.

use serde::{Deserialize, Serialize};

use crate::addr::GpaRange;
use crate::predict::RegionState;

/// The state of test memory, extent by extent, in address order. What is in no extent is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMap {
    /// At most [`MemoryMap::MAX_EXTENTS`].
    pub extents: Vec<(GpaRange, RegionState)>,
    /// Whether there are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl MemoryMap {
    /// Most extents kept of one step.
    pub const MAX_EXTENTS: usize = 2048;
}
