//! What can be seen from outside: one reading per witness, or the reason why there is none.
//!
//! A witness that could not be read is [`Reading::Missing`]. It is never a 0. One that was read, but
//! has lost some of what it saw, is [`Reading::Incomplete`], and what it has left is no count.

use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::Gpa;

use crate::verdict::{MissingWitness, Witness};

/// What a witness said, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading<T> {
    /// Its value.
    Read(T),
    /// It could not be read.
    Missing {
        /// Why, for the person who could make it readable.
        reason: String,
    },
    /// It was read, but not whole. What is left of it proves nothing, so the step cannot be judged.
    Incomplete {
        /// What is amiss.
        reason: String,
    },
}

impl<T> Reading<T> {
    /// Nothing, and why.
    pub fn missing(reason: impl Into<String>) -> Reading<T> {
        Reading::Missing {
            reason: reason.into(),
        }
    }

    /// What was read, but not whole, and why.
    pub fn incomplete(reason: impl Into<String>) -> Reading<T> {
        Reading::Incomplete {
            reason: reason.into(),
        }
    }

    /// The value, if it was read.
    pub fn value(&self) -> Option<&T> {
        match self {
            Reading::Read(value) => Some(value),
            Reading::Missing { .. } | Reading::Incomplete { .. } => None,
        }
    }
}

/// KVM's gauges of mapped leaves of one VM, private and shared together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageCounters {
    /// Leaves of 4K.
    pub pages_4k: u64,
    /// Leaves of 2M.
    pub pages_2m: u64,
    /// Leaves of 1G.
    pub pages_1g: u64,
}

/// One event `kvmmmu:kvm_mmu_split_huge_page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitEvent {
    /// The leaf.
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

/// What is seen once a guest has gone, and nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Kernel log lines since the last sample: what KVM says while it takes the guest apart.
    pub kernel_log: Reading<Vec<String>>,
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
    /// The sample without the witnesses that are not believed, each missing for the reason why not.
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
