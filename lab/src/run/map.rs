//! How guest memory must look, kept with every step so that reports can draw it.

use serde::{Deserialize, Serialize};

use crate::addr::{GpaRange, PageLevel};

/// The state of test memory, extent by extent, in address order. What is in no extent is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryMap {
    /// At most [`MemoryMap::MAX_EXTENTS`].
    pub extents: Vec<MapExtent>,
    /// Extents left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

impl MemoryMap {
    /// Most extents kept of one step.
    pub const MAX_EXTENTS: usize = 4096;

    /// The first extents of `all`.
    pub fn collect(all: impl IntoIterator<Item = MapExtent>) -> MemoryMap {
        let mut map = MemoryMap::default();
        for extent in all {
            if map.extents.len() < Self::MAX_EXTENTS {
                map.extents.push(extent);
            } else {
                map.omitted += 1;
            }
        }
        map
    }
}

/// A range whose pages are in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapExtent {
    /// Where.
    pub range: GpaRange,
    /// How it is mapped.
    pub state: MapState,
}

/// How a range is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapState {
    /// Nothing is mapped, but a table is there that once split the region.
    Table,
    /// Private leaves, not accepted.
    Pending {
        /// Their size.
        level: PageLevel,
    },
    /// Private leaves, accepted.
    Accepted {
        /// Their size.
        level: PageLevel,
    },
    /// Shared, whether mapped or not.
    Shared,
    /// It depends on how a race went.
    Unknown,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
