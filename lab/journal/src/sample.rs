//! One reading per witness, or the reason why there is none.
//!
//! A witness that could not be read is [`Reading::Missing`], never a 0. One that was read but has
//! lost data is [`Reading::Incomplete`]; the remaining data is not a count, though a complaint of the
//! kernel among it is one all the same.

use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::Gpa;

use crate::verdict::{MissingWitness, Witness};

/// A reading of a witness, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading<T> {
    /// The value.
    Read(T),
    /// It could not be read.
    Missing {
        /// The reason, for the person who can make it readable.
        reason: String,
    },
    /// Some data was lost. What the rest lacks proves nothing, so the step cannot be judged.
    Incomplete {
        /// The reason.
        reason: String,
        /// What is left, where it says something by itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        rest: Option<T>,
    },
}

impl<T> Reading<T> {
    /// No reading, and the reason.
    pub fn missing(reason: impl Into<String>) -> Reading<T> {
        Reading::Missing {
            reason: reason.into(),
        }
    }

    /// An incomplete reading, and the reason.
    pub fn incomplete(reason: impl Into<String>) -> Reading<T> {
        Reading::Incomplete {
            reason: reason.into(),
            rest: None,
        }
    }

    /// The value; if something was `lost`, for this reason, what is left.
    pub fn unless(lost: Option<String>, value: T) -> Reading<T> {
        match lost {
            None => Reading::Read(value),
            Some(reason) => Reading::Incomplete {
                reason,
                rest: Some(value),
            },
        }
    }

    /// The reading with its value changed by `change`, if it was read.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Reading::Read(value) => Reading::Read(change(value)),
            Reading::Missing { reason } => Reading::Missing { reason },
            Reading::Incomplete { reason, rest } => Reading::Incomplete {
                reason,
                rest: rest.map(change),
            },
        }
    }

    /// The value, if it was read.
    pub fn value(&self) -> Option<&T> {
        match self {
            Reading::Read(value) => Some(value),
            Reading::Missing { .. } | Reading::Incomplete { .. } => None,
        }
    }

    /// The value, or what is left of it: for what is true even if there was more.
    pub fn left(&self) -> Option<&T> {
        match self {
            Reading::Read(value) => Some(value),
            Reading::Incomplete { rest, .. } => rest.as_ref(),
            Reading::Missing { .. } => None,
        }
    }
}

/// KVM's gauges of mapped leaves of one VM, private and shared together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageCounters {
    /// Number of 4K leaves.
    pub pages_4k: u64,
    /// Number of 2M leaves.
    pub pages_2m: u64,
    /// Number of 1G leaves.
    pub pages_1g: u64,
}

/// One event `kvmmmu:kvm_mmu_split_huge_page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitEvent {
    /// First GPA of the leaf.
    pub gpa: Gpa,
    /// Its level in KVM's numbering (2 = 2M).
    pub level: u8,
    /// 0 or a negative errno.
    pub errno: i32,
    /// Thread that caused it.
    pub tid: u32,
}

/// VM exits as a host can count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitCounters {
    /// EPT violations of type ACCEPT since boot.
    pub accept: u64,
    /// Other EPT violations on private memory since boot.
    pub access: u64,
}

/// Witnesses after a guest's teardown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Kernel log lines since the last sample: KVM's messages during teardown.
    pub kernel_log: Reading<Vec<String>>,
    /// What the guest took from the machine, each before it was started and after it had gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<Taken>,
}

/// Something that a guest takes from the machine and must give back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// What, in words: `4K leaves that KVM counts`.
    pub what: String,
    /// How much of it was in use before the guest was started.
    pub before: u64,
    /// By how much that moves without the guest.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub slack: u64,
    /// How much is in use after it has gone.
    pub after: Reading<u64>,
    /// Who holds what is left, where that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Taken {
    /// Of what only guests take: nothing was in use before.
    pub fn by_guest(what: impl Into<String>, after: Reading<u64>) -> Taken {
        Taken {
            what: what.into(),
            before: 0,
            slack: 0,
            after,
            detail: String::new(),
        }
    }

    /// Whether more is in use than before the guest.
    pub fn is_too_much(&self) -> bool {
        let bound = self.before.saturating_add(self.slack);
        self.after.value().is_some_and(|after| *after > bound)
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out a reference"
)]
fn is_nothing(slack: &u64) -> bool {
    *slack == 0
}

/// All witnesses, sampled while host and guest are at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Page counters in debugfs.
    pub debugfs: Reading<PageCounters>,
    /// Page counters through QMP `query-stats`.
    pub query_stats: Reading<PageCounters>,
    /// Split events since the previous sample.
    pub splits: Reading<Vec<SplitEvent>>,
    /// Populated 4K pages of the guest_memfd, over all of test memory (`cachestat(2)`).
    pub populated: Reading<u64>,
    /// VM exits since boot.
    pub exits: Reading<ExitCounters>,
    /// Kernel log lines since the previous sample.
    pub kernel_log: Reading<Vec<String>>,
}

impl Sample {
    /// The sample with the distrusted witnesses missing, each with the reason.
    #[must_use]
    pub fn without(mut self, distrusted: &[MissingWitness]) -> Sample {
        for MissingWitness { witness, reason } in distrusted {
            let reason = reason.clone();
            match witness {
                Witness::Debugfs => self.debugfs = Reading::Missing { reason },
                Witness::QueryStats => self.query_stats = Reading::Missing { reason },
                Witness::Exits => self.exits = Reading::Missing { reason },
                _ => {}
            }
        }
        self
    }
}
