//! Where a plan runs: the trait that every kind of host implements.

mod hatch;
pub mod interleaving;
pub mod interrupt;
pub mod kvm;
pub mod select;
pub mod sim;
pub mod soft;
pub mod softkvm;
mod software;
pub mod tdx;
pub mod vm;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tdxlab_protocol::message::{Counts, Run};

use self::interleaving::Interleaving;
use crate::addr::GpaRange;
use crate::agent::collect::Answer;
use crate::faults::Fault;
use crate::plan::{Guest, HostKind, Op, Plan};
use crate::predict::Design;
use crate::witness::Sample;

/// The fact by which a run is known as a rehearsal, wherever its journal goes.
pub const REHEARSAL_FACT: &str = "REHEARSAL";
/// What is said wherever a result of a rehearsal goes, so that nobody takes it for TDX.
pub const REHEARSAL: &str = "THE TDX MODULE IS PLAYED BY A FIXTURE; THIS IS NOT TDX";

/// A reason, after what must be said of a run that was rehearsed.
pub fn after_rehearsal(facts: &[(String, String)], reason: String) -> String {
    match facts.iter().find(|(name, _)| name == REHEARSAL_FACT) {
        Some((name, value)) => format!("{name}: {value}; {reason}"),
        None => reason,
    }
}

/// A kind of host, ready to boot guests.
pub trait Host: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> HostKind;

    /// What the report says about it: kernel, QEMU, TDX module, each by name.
    fn facts(&self) -> Vec<(String, String)>;

    /// The design that its KVM was found to follow; `None` where the host plays any, or where it
    /// cannot be found out.
    fn design(&self) -> Option<&'static Design> {
        None
    }

    /// What this host was found to do that no KVM of `design` does; `None` where nothing speaks
    /// against it.
    fn misfit(&self, _design: &Design) -> Option<String> {
        None
    }

    /// What of a guest this machine cannot give, and what to do about it; looked at before it is
    /// booted.
    fn unmet(&self, _guest: &Guest) -> Option<String> {
        None
    }

    /// What of a plan this host would do otherwise than others of its kind, and would be blamed for.
    fn out_of_reach(&self, _plan: &Plan) -> Option<String> {
        None
    }

    /// Whether the VMM has KVM map what a guest has converted with MapGPA, as QEMU does.
    fn maps_conversions(&self) -> bool {
        false
    }

    /// The fault that was seeded into it, if one was.
    fn fault(&self) -> Option<&'static Fault> {
        None
    }

    /// Boots a guest and brings it to the point where it takes commands.
    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError>;
}

/// What a session needs beside the guest.
#[derive(Clone, Debug)]
pub struct BootOptions {
    /// Design whose KVM is played (soft, sim) or expected (tdx).
    pub design: String,
    /// Seed for everything the host may choose, such as the order of racing exits.
    pub seed: u64,
    /// Folder for logs and witness files of this scenario; exists.
    pub folder: std::path::PathBuf,
    /// Longest a single operation may take before the guest counts as hung.
    pub patience: Duration,
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

    /// Lets the next parallel step take turns in this order, as far as the host has a say in it.
    fn follow(&mut self, order: &Interleaving) {
        let _ = order;
    }

    /// The order in which the last parallel step took turns; `None` where the seed alone says it,
    /// or nobody can.
    fn take_interleaving(&mut self) -> Option<Interleaving> {
        None
    }

    /// How a person can look at the guest while it is kept: what, and what to type or open.
    fn attach(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Reads all witnesses. Called at rest. Split events and log lines are those since the
    /// previous call.
    fn sample(&mut self) -> Sample;

    /// What the host can show for a failure: file name and content (serial log, command line,
    /// QMP trace, witness files).
    fn evidence(&mut self) -> Vec<(String, Vec<u8>)>;

    /// Ends the guest. Leaves nothing behind.
    fn end(self: Box<Self>) -> Result<(), HostError>;
}

/// What came back from one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Results of the guest's command, in order.
    pub runs: Vec<Run>,
    /// What the guest counted.
    pub counts: Counts,
    /// errno of the host call; 0 for success; `None` for guest operations.
    pub errno: Option<i32>,
    /// How the TD died, if it did.
    pub death: Option<Death>,
    /// S-EPT entries the host looked at to decide the splits of a range; `None` where the host
    /// cannot say.
    pub entries_looked_at: Option<u64>,
    /// Leaves zapped by a range operation; `None` where the host cannot say.
    pub leaves_zapped: Option<u64>,
    /// How long it took, in microseconds.
    pub micros: u64,
}

impl Observed {
    /// Adds the results of one task of the operation.
    pub(crate) fn add(&mut self, answer: Answer) {
        self.runs.extend(answer.runs);
        let counts = answer.counts.unwrap_or_default();
        self.counts = Counts {
            tdcalls: self.counts.tdcalls + counts.tdcalls,
            ve: self.counts.ve + counts.ve,
            faults: self.counts.faults + counts.faults,
        };
    }

    /// Notes how long the operation took that ends now.
    pub(crate) fn took_since(&mut self, began: Instant) {
        self.micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    }
}

/// How a TD died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Which side ended it.
    pub by: Killer,
    /// What was said about it.
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
    /// The guest asked for it (ReportFatalError) or panicked.
    Guest,
    /// The VMM exited or stopped by itself.
    Vmm,
    /// Nobody: a vCPU exits for ever and the guest gets no further.
    ExitsForEver,
}

/// The lab or the host could not do its part. Always a verdict `error`, never pass or fail.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum HostError {
    /// The host is not usable on this machine.
    #[error("host {} is not usable: {reason}", host.name())]
    NotUsable {
        /// Which.
        host: HostKind,
        /// Why.
        reason: String,
        /// What to do about it.
        #[help]
        advice: String,
    },
    /// The guest panicked: file, line and message are its own.
    #[error("guest panicked on vCPU {vcpu} at {file}:{line}: {message}")]
    GuestPanic {
        /// vCPU index.
        vcpu: u16,
        /// Guest source file.
        file: String,
        /// Guest source line.
        line: u32,
        /// Guest message.
        message: String,
    },
    /// The guest did not answer in time.
    #[error("guest did not answer within {waited:?} while {doing}")]
    GuestSilent {
        /// What was going on.
        doing: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The guest's answer cannot be right.
    #[error("guest sent what cannot be: {what}")]
    GuestLies {
        /// What and why not, with the bytes.
        what: String,
    },
    /// The guest speaks another version of the protocol.
    #[error("guest speaks protocol version {guest}, the lab speaks {lab}")]
    #[diagnostic(help("build the guest image and the lab from the same source"))]
    GuestVersion {
        /// The guest's version.
        guest: u16,
        /// The lab's version.
        lab: u16,
    },
    /// The guest will not do what it was asked.
    #[error("guest refused: {reason}")]
    GuestRefused {
        /// Why.
        reason: String,
    },
    /// QEMU ended or misbehaved.
    #[error("QEMU {what}")]
    Qemu {
        /// What it did, with its last line.
        what: String,
        /// What to do about it.
        #[help]
        advice: String,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// A system call of the lab failed.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// The error.
        source: std::io::Error,
    },
}
