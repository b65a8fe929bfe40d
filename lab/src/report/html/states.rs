//! States of memory: their names on the page, and their colours.

use crate::predict::RegionState;

/// The class that gives a state its colour.
pub(super) const fn class(state: RegionState) -> &'static str {
    match state {
        RegionState::Empty => "e",
        RegionState::LeafPending => "p",
        RegionState::LeafAccepted => "a",
        RegionState::TableFree => "f",
        RegionState::PagePending => "p4",
        RegionState::PageAccepted => "a4",
        RegionState::Shared => "s",
        RegionState::SharedMapped => "s4",
        RegionState::Unknown => "u",
    }
}

/// A state in words.
pub(super) const fn words(state: RegionState) -> &'static str {
    match state {
        RegionState::Empty => "empty",
        RegionState::LeafPending => "2M pending",
        RegionState::LeafAccepted => "2M accepted",
        RegionState::TableFree => "table, nothing mapped",
        RegionState::PagePending => "4K pending",
        RegionState::PageAccepted => "4K accepted",
        RegionState::Shared => "shared, not mapped",
        RegionState::SharedMapped => "shared, mapped at 4K",
        RegionState::Unknown => "left open by a race",
    }
}

/// Whether private memory is mapped.
pub(super) const fn is_private(state: RegionState) -> bool {
    matches!(
        state,
        RegionState::LeafPending
            | RegionState::LeafAccepted
            | RegionState::PagePending
            | RegionState::PageAccepted
    )
}
