//! States of memory: their names on the page, and their colours.

use tdxlab_plan::RegionState;
pub(super) use tdxlab_plan::text::state as words;

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
