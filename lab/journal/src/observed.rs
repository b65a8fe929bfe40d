//! Results of an operation, and how a TD died.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::{Gpa, GpaRange};
use tdxlab_protocol::message::{Counts, Run};

use crate::cost::Cost;
use crate::sample::Reading;

/// The fact that marks a run as a rehearsal.
pub const REHEARSAL_FACT: &str = "REHEARSAL";
/// The fact that tells whether one-shot warnings are re-armed.
pub const ONE_SHOT: &str = "one-shot warnings";

/// The fact that names the version of the TDX module.
pub const MODULE_FACT: &str = "TDX module";

/// Name of the fact that names the original run of a re-judgement.
pub const REJUDGED_FACT: &str = "re-judged";
/// Shown wherever a result of a rehearsal goes, so that it is not mistaken for TDX.
pub const REHEARSAL: &str = "KVM'S OWN TDX CODE ON A SOFTWARE TDX MODULE; THIS IS NOT TDX";

/// Prefixes a reason with the notice of a rehearsal.
pub fn after_rehearsal(facts: &[(String, String)], reason: String) -> String {
    match facts.iter().find(|(name, _)| name == REHEARSAL_FACT) {
        Some((name, value)) => format!("{name}: {value}; {reason}"),
        None => reason,
    }
}

/// Results of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Results of the guest's command, in order.
    pub runs: Vec<Run>,
    /// Counts reported by the guest.
    pub counts: Counts,
    /// errno of the host call; 0 for success; `None` for guest operations.
    pub errno: Option<i32>,
    /// The page at which the host call says that it stopped (`error_offset`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_at: Option<Gpa>,
    /// How the TD died, if it did.
    pub death: Option<Death>,
    /// S-EPT entries the host visited to decide the splits of a range; `None` if unknown.
    pub entries_looked_at: Option<u64>,
    /// Leaves zapped by a range operation; `None` where the host cannot say.
    pub leaves_zapped: Option<u64>,
    /// Pages of test memory that KVM's dirty log named; `None` where nothing is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<Reading<Vec<GpaRange>>>,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// What else was counted of it.
    #[serde(default, skip_serializing_if = "Cost::is_unseen")]
    pub cost: Cost,
}

impl Observed {
    /// Adds the results of one task of the operation.
    pub fn add(&mut self, runs: Vec<Run>, counts: Counts) {
        self.runs.extend(runs);
        self.counts = Counts {
            tdcalls: self.counts.tdcalls + counts.tdcalls,
            ve: self.counts.ve + counts.ve,
            faults: self.counts.faults + counts.faults,
        };
    }

    /// Notes how long the operation took that ends now.
    pub fn took_since(&mut self, began: Instant) {
        self.micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    }
}

/// How a TD died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Which side ended it.
    pub by: Killer,
    /// The message about it.
    pub text: String,
}

/// Which side ended a TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Killer {
    /// KVM, because the guest touched a pending page with SEPT_VE_DISABLE set.
    AccessBeforeAccept,
    /// KVM, because something it relied on failed (KVM_BUG_ON).
    KvmBug,
    /// The guest: ReportFatalError or a panic.
    Guest,
    /// The VMM exited or stopped on its own.
    Vmm,
    /// The machine had no memory left, or its memory is broken.
    HostMemory,
    /// None: a vCPU exits forever and the guest makes no progress.
    ExitsForEver,
}
