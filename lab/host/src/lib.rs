//! Where a plan runs: the traits that every kind of host implements, and a guest in QEMU.
//!
//! Invariant: this crate knows no kind of host, no predictor and no fault.
//!
//! | file | holds |
//! |---|---|
//! | `error` | errors, each with a remedy |
//! | `vm` | a guest in QEMU: process, monitor, serial line, one place to wait for all of them |
//! | `attach` | attaching to a held guest |

#![warn(missing_docs)]

pub mod attach;
pub mod error;
pub mod vm;

use std::time::Duration;

use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::journal::SeededFault;
use tdxlab_journal::{Ending, Observed, Sample};
use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::{Design, Guest, HostKind, HostProfile, Op, TdxModule};

pub use error::{HostError, OnHost};

/// A kind of host, ready to boot guests.
pub trait Host: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> HostKind;

    /// Properties of this kind of host, known before it runs anything.
    fn profile(&self) -> HostProfile {
        HostProfile::of(self.kind())
    }

    /// Facts for the report by name: kernel, QEMU, TDX module.
    fn facts(&self) -> Vec<(String, String)>;

    /// Facts of [`Host::facts`] that can change under a run, as they are now.
    fn changing_facts(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// The detected design of its KVM; `None` if the host emulates any, or if detection failed.
    fn design(&self) -> Option<&'static Design> {
        None
    }

    /// Observed behaviour of this host that no KVM of `design` shows; `None` if it is consistent.
    fn misfit(&self, _design: &'static Design) -> Option<String> {
        None
    }

    /// What this machine lacks for `guest` (huge pages, say), and the remedy. Checked before boot.
    fn unmet(&self, _guest: &Guest) -> Option<String> {
        None
    }

    /// Whether its guests keep files in the folder of their plan while they run.
    fn keeps_files(&self) -> bool {
        true
    }

    /// The fault that was seeded into it, if one was.
    fn fault(&self) -> Option<SeededFault> {
        None
    }

    /// Boots a guest and brings it to the point where it takes commands.
    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError>;
}

/// Options of a boot beside the guest.
#[derive(Clone, Debug)]
pub struct BootOptions {
    /// Design of the KVM, emulated (soft, sim) or expected (tdx).
    pub design: String,
    /// TDX module that the scenario needs; `None` for the host's own.
    pub module: Option<TdxModule>,
    /// Seed for all choices of the host, such as the order of racing exits.
    pub seed: u64,
    /// Folder for logs and witness files of this scenario; exists.
    pub folder: std::path::PathBuf,
    /// Longest a single operation may take before the guest counts as hung.
    pub patience: Duration,
    /// Whether the guest has a QEMU of its own, which ends with it. A host may else put it into one that
    /// had guests before (see [`Session::guests_before`]), and keep that for another.
    pub fresh: bool,
}

/// A booted guest and the host under it.
pub trait Session: Send {
    /// Does one operation and returns when host and guest are at rest. `reads` are the ranges a
    /// `verify` reads; empty for other operations.
    fn perform(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError>;

    /// Runs branches side by side; the result has one entry per operation of each branch.
    /// `seed` fixes the interleaving where the host can (soft, sim). Branches hold no `verify`.
    fn perform_parallel(
        &mut self,
        branches: &[&[Op]],
        seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError>;

    /// Replays this order in the next parallel step, as far as the host controls it.
    fn follow(&mut self, order: &Interleaving) {
        let _ = order;
    }

    /// Order of exits in the last parallel step; `None` where the seed alone determines it, or
    /// where it is unknown.
    fn take_interleaving(&mut self) -> Option<Interleaving> {
        None
    }

    /// Ways to attach to the guest while it is held: label, and command or path.
    fn attach(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Whether the seeded fault has changed the host's behaviour so far; `None` without a fault.
    fn fault_reached(&self) -> Option<bool> {
        None
    }

    /// How many guests the QEMU of this one had before; all of them ended in good order.
    fn guests_before(&self) -> u32 {
        0
    }

    /// Another plan begins, in memory of this guest that was never touched. A host that decides
    /// anything by chance, or by a fault that was seeded, decides as after a boot from here on.
    fn next_plan(&mut self, seed: u64) {
        let _ = seed;
    }

    /// Reads all witnesses. Called at rest. Split events and log lines are those since the
    /// previous call.
    fn sample(&mut self) -> Sample;

    /// Evidence for a failure, as file name and content (serial log, command line, QMP trace,
    /// witness files).
    fn evidence(&mut self) -> Vec<(String, Vec<u8>)>;

    /// Ends the guest and removes everything it used.
    ///
    /// # Errors
    ///
    /// The guest does not end.
    fn end(self: Box<Self>) -> Result<Ending, HostError>;
}
