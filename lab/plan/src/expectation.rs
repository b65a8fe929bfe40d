//! The predictor's answer for one step.

use std::fmt;

use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::pattern::Generation;

use crate::expect::Expect;

/// All that a step must show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// Whether the TD lives on after the step.
    pub td_alive: bool,
    /// Split events of 2M leaves.
    pub splits: Interval,
    /// Which leaves split, in address order; at most [`Expectation::MAX_SPLIT_LEAVES`] are
    /// listed. Empty where the step races.
    pub split_leaves: Vec<SplitLeaf>,
    /// Change of the page counters.
    pub pages: PageDelta,
    /// Pages that the dirty log must and may name; `None` where nothing is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<LoggedPages>,
    /// Populated 4K pages of the guest_memfd after the step, over all of test memory.
    pub populated: Interval,
    /// VM exits: EPT violations of type ACCEPT.
    pub accept_exits: Interval,
    /// VM exits: other EPT violations on private memory.
    pub access_exits: Interval,
    /// S-EPT entries a range operation may visit to decide its splits; `None` if the design
    /// promises no bound.
    pub entries_at_most: Option<u64>,
    /// Status of every ACCEPT, in the order the guest makes them. `None` where the step races or
    /// makes none.
    pub statuses: Option<Vec<StatusRun>>,
    /// Statuses that are legal where the step races.
    pub legal_statuses: Vec<u64>,
    /// errno of every host call of the step, in order; 0 for success.
    pub errnos: Vec<i32>,
    /// The page at which a call must say that it stopped (`error_offset`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_at: Option<Gpa>,
    /// Private accesses of touch and fill: for each extent, what happens. In order.
    pub accesses: Option<Vec<(GpaRange, AccessOutcome)>>,
    /// Results of `probe`, in order.
    pub probes: Option<Vec<ProbeRun>>,
    /// R10 of MapGPA.
    pub map_gpa: Option<u64>,
    /// R11 of a MapGPA that does not succeed: where it stopped, without the shared bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_gpa_stopped_at: Option<Gpa>,
    /// A TD that does not live on is ended by the VMM, which finds no memory behind an address;
    /// where not, by KVM for an access before ACCEPT.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended_by_vmm: bool,
    /// For `verify`: which ranges the guest is to read, and what each must hold.
    pub reads: Vec<ReadPlan>,
}

impl Expectation {
    /// Most split leaves listed by address; the count is in `splits`.
    pub const MAX_SPLIT_LEAVES: usize = 4096;

    /// Leaves of bounds what the author wrote, where that lies within them: a step that races may show
    /// more than its author allows.
    pub fn narrow(&mut self, author: &Expect) {
        let count = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
        let pages = &mut self.pages;
        let written = [
            (&mut self.splits, count(author.splits)),
            (&mut pages.pages_4k, author.pages_4k),
            (&mut pages.pages_2m, author.pages_2m),
            (&mut pages.pages_1g, author.pages_1g),
            (&mut self.accept_exits, count(author.accept_exits)),
        ];
        for (bounds, value) in written {
            if let Some(value) = value.filter(|value| bounds.contains(*value)) {
                *bounds = Interval::exactly(value);
            }
        }
        if let (Some(wanted), None) = (author.status, &self.statuses)
            && self.legal_statuses.iter().any(|legal| wanted.is(*legal))
        {
            self.legal_statuses.retain(|legal| wanted.is(*legal));
        }
    }
}

/// Pages for the dirty log of a step; any other page that it names is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedPages {
    /// Written for the first time since they were write-protected.
    pub must: Vec<GpaRange>,
    /// Written again, which shows only where QEMU has collected the log meanwhile; or read for the
    /// first time, which KVM may map writable.
    pub may: Vec<GpaRange>,
}

/// A leaf that must split, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitLeaf {
    /// Start of the leaf.
    pub gpa: Gpa,
    /// Level of the leaf.
    pub level: PageLevel,
}

/// `count` ACCEPTs at `level` from `start` up, all with `status` (raw RAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRun {
    /// First address.
    pub start: Gpa,
    /// Level of each ACCEPT.
    pub level: PageLevel,
    /// Number of calls in the run.
    pub count: u64,
    /// RAX of each call.
    pub status: u64,
}

/// `count` probes from `start` up, `stride` apart, that must read the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRun {
    /// First address.
    pub start: Gpa,
    /// Distance between them. Branches of a race may probe at different ones.
    #[serde(default = "every_page")]
    pub stride: PageLevel,
    /// Number of calls in the run.
    pub count: u64,
    /// Level of the entry.
    pub level: PageLevel,
    /// Whether it must be pending.
    pub pending: bool,
}

/// Default for journals without the field.
const fn every_page() -> PageLevel {
    PageLevel::Size4K
}

/// Expected outcome of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessOutcome {
    /// It completes.
    Done,
    /// #VE; not handled.
    Ve,
    /// #VE, accepted by the handler, then completes.
    Accepted,
    /// It may complete or raise #VE: the step races.
    Either,
}

/// A range the guest reads, and the expected content of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadPlan {
    /// The range to read.
    pub range: GpaRange,
    /// Content of every page of it.
    pub content: Content,
}

/// Expected content of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// The words of this fill.
    Filled(Generation),
    /// Zero: accepted and not written since.
    Zero,
    /// Unmapped: reading raises #VE.
    Gone,
    /// Any whole page of zero or of a generation the race allows, or none. A foreign or torn page
    /// is still wrong.
    Raced,
}

/// Change of the page counters, each an interval (a single value unless the step races).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageDelta {
    /// Change of `pages_4k`.
    pub pages_4k: Interval,
    /// Change of `pages_2m`.
    pub pages_2m: Interval,
    /// Change of `pages_1g`.
    pub pages_1g: Interval,
}

/// All values from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Smallest value.
    pub min: i64,
    /// Largest value.
    pub max: i64,
}

impl Interval {
    /// Exactly `value`.
    pub const fn exactly(value: i64) -> Interval {
        Interval {
            min: value,
            max: value,
        }
    }

    /// Whether `value` is one of them.
    pub const fn contains(self, value: i64) -> bool {
        self.min <= value && value <= self.max
    }

    /// The value, where there is only one.
    pub const fn single(self) -> Option<i64> {
        if self.min == self.max {
            Some(self.min)
        } else {
            None
        }
    }
}

impl std::ops::Add for Interval {
    type Output = Interval;
    fn add(self, other: Interval) -> Interval {
        Interval {
            min: self.min + other.min,
            max: self.max + other.max,
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(value) => write!(f, "{value:+}"),
            None => write!(f, "{:+}..={:+}", self.min, self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect::ExpectStatus;

    /// A fault shows where a step races only if what its author wrote counts.
    #[test]
    fn an_author_narrows_bounds_and_never_moves_them() {
        let bounds = Interval { min: 0, max: 1 };
        let mut expected = Expectation {
            splits: bounds,
            pages: PageDelta {
                pages_2m: bounds,
                pages_4k: Interval::exactly(512),
                ..PageDelta::default()
            },
            ..Expectation::default()
        };
        expected.narrow(&Expect {
            splits: Some(7),
            pages_2m: Some(0),
            pages_4k: Some(511),
            ..Expect::default()
        });
        assert_eq!(expected.splits, bounds);
        assert_eq!(expected.pages.pages_2m, Interval::exactly(0));
        assert_eq!(expected.pages.pages_4k, Interval::exactly(512));
    }

    #[test]
    fn of_the_statuses_of_a_race_the_author_may_allow_some() {
        let mut expected = Expectation {
            legal_statuses: vec![0, 0x0b0a_0000_0000, 0x0b0a_0000_0001],
            ..Expectation::default()
        };
        let author = |status| Expect {
            status: Some(status),
            ..Expect::default()
        };
        expected.narrow(&author(ExpectStatus::SizeMismatch));
        assert_eq!(expected.legal_statuses.len(), 3);
        expected.narrow(&author(ExpectStatus::AlreadyAccepted));
        assert_eq!(
            expected.legal_statuses,
            [0x0b0a_0000_0000, 0x0b0a_0000_0001]
        );
    }
}
