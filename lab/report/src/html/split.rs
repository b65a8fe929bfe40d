//! Leaves that had to split, and leaves that did.

use maud::{Markup, html};
use tdxlab_protocol::addr::Gpa;

use super::axis::{HEIGHT, TILE};

/// A leaf, and whether it had to split and did.
pub(super) struct Split {
    pub(super) gpa: Gpa,
    /// Left edge of its tile.
    pub(super) x: u64,
    pub(super) kind: SplitKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SplitKind {
    /// It had to split and did.
    Right,
    /// It had to split and did not.
    Missing,
    /// It split and must not.
    Extra,
    /// It had to split; whether it did is unknown.
    Unseen,
    /// It split in a race.
    Raced,
}

impl SplitKind {
    const fn class(self) -> &'static str {
        match self {
            SplitKind::Right => "sp ok",
            SplitKind::Missing => "sp missing",
            SplitKind::Extra => "sp extra",
            SplitKind::Unseen => "sp unseen",
            SplitKind::Raced => "sp raced",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            SplitKind::Right => "split \u{2713}",
            SplitKind::Missing => "\u{2717} did not split",
            SplitKind::Extra => "\u{2717} must not split",
            SplitKind::Unseen => "split? not seen",
            SplitKind::Raced => "split",
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            SplitKind::Right => "had to split and did",
            SplitKind::Missing => "had to split and did not",
            SplitKind::Extra => "split and must not",
            SplitKind::Unseen => "had to split; nobody could see whether it did",
            SplitKind::Raced => "split in the race",
        }
    }
}

impl Split {
    /// The leaf outlined before and after, with a tooltip.
    pub(super) fn draw(&self, y_before: u64, y_after: u64, y_lane: u64) -> Markup {
        let x = self.x;
        html! {
            path class=(self.kind.class()) data-gpa=(self.gpa)
                d=(format!("M{x} {y_before}h{TILE}v{HEIGHT}h-{TILE}zM{x} {y_after}h{TILE}v{HEIGHT}h-{TILE}z")) {}
            text class=(self.kind.class()) x=(x) y=(y_lane + 11) { (self.kind.label()) }
        }
    }
}
