//! Legend of the pictures' colours and outlines.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};
use tdxlab_plan::RegionState;

use super::axis::CELL;
use super::states;

/// One cell, for the legend.
pub(super) fn section() -> Markup {
    let entry = |state: RegionState| {
        let mut path = String::new();
        let _ = write!(path, "M1 1h{0}v{1}h-{0}z", CELL * 7, CELL * 5);
        html! {
            li {
                svg viewBox="0 0 23 17" width="23" height="17" aria-hidden="true" {
                    path.e d=(path) {}
                    path class=(states::class(state)) d=(path) {}
                }
                (states::words(state))
            }
        }
    };
    html! {
        ul.legend aria-label="Colours of the pictures" {
            (entry(RegionState::LeafAccepted)) (entry(RegionState::PageAccepted))
            (entry(RegionState::LeafPending)) (entry(RegionState::PagePending))
            (entry(RegionState::SharedMapped)) (entry(RegionState::Shared))
            (entry(RegionState::TableFree)) (entry(RegionState::Unknown))
            li {
                svg viewBox="0 0 23 17" width="23" height="17" aria-hidden="true" {
                    path.e d="M1 1h21v15h-21z" {} path.gone d="M1 1h21v15h-21z" {}
                }
                "gone in this step"
            }
            li {
                svg viewBox="0 0 23 17" width="23" height="17" aria-hidden="true" {
                    path.e d="M1 1h21v15h-21z" {} path.x d="M1 1h21v15h-21z" {}
                }
                "predicted, and contradicted by a witness"
            }
            li {
                svg viewBox="0 0 23 17" width="23" height="17" aria-hidden="true" { path class="sp ok" d="M2 2h19v13h-19z" {} }
                "leaf that had to split, and did"
            }
            li {
                svg viewBox="0 0 23 17" width="23" height="17" aria-hidden="true" { path class="sp missing" d="M2 2h19v13h-19z" {} }
                "had to split, and did not"
            }
            li {
                svg viewBox="0 0 23 17" width="23" height="17" aria-hidden="true" { path class="sp extra" d="M2 2h19v13h-19z" {} }
                "split, and must not"
            }
        }
    }
}

/// Patterns that all pictures use.
pub(super) fn patterns() -> PreEscaped<&'static str> {
    PreEscaped(include_str!("patterns.svg"))
}
