//! Requests of the lab and the guest's answers, on the serial port or through the mailbox of a soft host
//! ([`crate::mailbox`]).
//!
//! The guest sends [`Reply::Hello`] once it runs; the lab answers with [`Request::Configure`], the
//! guest with [`Reply::Ready`]. From then on each [`Request::Run`] is answered by one or more
//! [`Reply::Part`] frames per task, a [`Reply::Finished`] per task, and one [`Reply::Idle`] when
//! all tasks are over.

use heapless::Vec;
use serde::{Deserialize, Serialize};

pub use crate::addr::Side;
use crate::addr::{Gpa, GpaRange, PageLevel};
use crate::generation::Generation;

/// Version of this protocol. Both sides must have the same.
pub const VERSION: u16 = 3;

/// Most tasks in one [`Request::Run`], one per vCPU.
pub const MAX_TASKS: usize = 16;
/// Most runs in one [`Reply::Part`]. Longer results come in several parts.
pub const MAX_RUNS: usize = 16;
/// Most bad words reported for one torn page.
pub const MAX_BAD_WORDS: usize = 4;
/// Most bytes of a panic text or of a file name in it.
pub const MAX_TEXT: usize = 96;

/// A vCPU by its index, 0 = boot processor.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct VcpuId(pub u16);

/// How the two windows come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Windows {
    /// The soft host owns the tables under both windows and has already filled in the PML4.
    HostOwned,
    /// The guest maps `W + gpa` onto machine address `gpa` with 1G pages (TD, plain KVM), up to
    /// `limit`; in a TD the shared window carries the shared bit.
    Direct {
        /// End of the machine memory to map.
        limit: Gpa,
    },
}

/// The lab to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "no allocation in the guest")]
pub enum Request {
    /// Sent once after `Hello`.
    Configure {
        /// The lab's [`VERSION`].
        version: u16,
        /// How to map the windows.
        windows: Windows,
    },
    /// Run tasks, all started together, at most one per vCPU.
    Run {
        /// Number that every answer to this request repeats.
        id: u32,
        /// The tasks, each with its vCPU.
        tasks: Vec<Task, MAX_TASKS>,
    },
    /// End the machine through the exit port with this code.
    PowerOff {
        /// Value for `isa-debug-exit`.
        code: u8,
    },
}

/// A command and the vCPU that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Its command.
    pub command: Command,
}

/// Sizes at which a range is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcceptSize {
    /// One ACCEPT per page of this level, until the first failure.
    Exactly(PageLevel),
    /// Linux's algorithm: at each position 1G, then 2M, then 4K, as far as alignment and the
    /// remaining range allow; any non-zero status means the next smaller size; a failed 4K ends the
    /// command. Source: `try_accept_one()` in arch/x86/coco/tdx/tdx-shared.c.
    Linux,
}

/// How a page is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessKind {
    /// An 8-byte load.
    Read,
    /// An 8-byte locked add of 0: a write that leaves the content alone.
    Write,
}

/// What the guest's #VE handler does about a pending page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnVe {
    /// Record it and continue with the next page.
    #[default]
    Skip,
    /// ACCEPT the 4K page and repeat the access.
    Accept,
}

/// Copies of each instruction that makes the first access to a page, of which a guest takes the next
/// each time; beside them there is one for [`Command::Touch`] with `same_rip`.
///
/// The TDX module counts EPT violations of private memory at the instruction where the vCPU was
/// last entered; from the seventh on it keeps the vCPU out while one of their addresses would fault
/// again, a pending page included in 1.5.01 (`td_exit_stepping.c`). A loop over missing pages is no
/// attack, so it takes another copy each time. Two by turns would not do: where every other page is
/// mapped, all that fault meet the same one. With a prime number of them, seven in a row would have
/// to lie multiples of 31 accesses apart.
pub const INSTRUCTION_COPIES: u64 = 31;

/// One command. Ranges are GPAs without the shared bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// TDG.MEM.PAGE.ACCEPT over the range. Answers [`Run::Accept`].
    Accept {
        /// Range to accept.
        range: GpaRange,
        /// Size of each ACCEPT.
        size: AcceptSize,
    },
    /// Access one word at the start of every `stride`. Answers [`Run::Access`].
    Touch {
        /// Range to touch.
        range: GpaRange,
        /// Distance between touches.
        stride: PageLevel,
        /// Load or store.
        access: AccessKind,
        /// Private or shared window.
        side: Side,
        /// What to do on #VE.
        on_ve: OnVe,
        /// One instruction makes all accesses; else the next of [`INSTRUCTION_COPIES`] does each time.
        same_rip: bool,
    },
    /// Write every word of the range with [`crate::pattern::word`]. Answers [`Run::Access`].
    Fill {
        /// Range to fill.
        range: GpaRange,
        /// The generation to write.
        generation: Generation,
        /// Private or shared window.
        side: Side,
    },
    /// Read every word of the range and report each page's content. Answers [`Run::Content`].
    Verify {
        /// Range to read.
        range: GpaRange,
        /// Private or shared window.
        side: Side,
    },
    /// TDG.VP.VMCALL MapGPA, re-issued on RETRY. Answers one [`Run::MapGpa`].
    Convert {
        /// Range to convert.
        range: GpaRange,
        /// Target: private or shared.
        to: Side,
    },
    /// TDG.MEM.PAGE.ATTR.RD at the start of every `stride`. Answers [`Run::Probe`].
    Probe {
        /// Range to probe.
        range: GpaRange,
        /// Distance between probes.
        stride: PageLevel,
    },
    /// TDG.MEM.PAGE.RELEASE over the range. Answers [`Run::Accept`], with its statuses.
    Release {
        /// What to give back.
        range: GpaRange,
        /// Size of each RELEASE.
        level: PageLevel,
    },
}

/// The guest to the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "no allocation in the guest")]
pub enum Reply {
    /// First word of the guest.
    Hello(Hello),
    /// The windows are mapped, all vCPUs answer.
    Ready {
        /// vCPUs that reported in.
        vcpus: u16,
    },
    /// Some of the results of a task, in address order.
    Part {
        /// The request.
        id: u32,
        /// The vCPU of the results.
        vcpu: VcpuId,
        /// Consecutive results.
        runs: Vec<Run, MAX_RUNS>,
    },
    /// A task is over.
    Finished {
        /// The request.
        id: u32,
        /// The vCPU of the task.
        vcpu: VcpuId,
        /// Counted on the way.
        counts: Counts,
    },
    /// All tasks of the request are over.
    Idle {
        /// The request.
        id: u32,
    },
    /// A request could not be understood or run.
    Refused {
        /// The reason.
        reason: Refusal,
    },
    /// The guest has panicked and has stopped.
    Panic {
        /// The vCPU that panicked.
        vcpu: VcpuId,
        /// Source file.
        file: Text,
        /// Source line.
        line: u32,
        /// Message.
        message: Text,
    },
}

/// Short text, cut to [`MAX_TEXT`] bytes.
pub type Text = heapless::String<MAX_TEXT>;

/// Description of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The guest's [`VERSION`].
    pub version: u16,
    /// Whether it runs as a TD.
    pub td: bool,
    /// vCPUs it can see.
    pub vcpus: u16,
    /// GPA width in bits: 48 or 52 in a TD.
    pub gpa_width: u8,
    /// TDG.VP.INFO attributes in a TD (bit 28: SEPT_VE_DISABLE), else 0.
    pub attributes: u64,
    /// TD_CTLS.PENDING_VE_DISABLE in a TD whose module lets it be read: whether an access to a
    /// pending page kills the TD. `None` elsewhere; on a soft host the lab has chosen it itself.
    pub pending_ve_disabled: Option<bool>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The lab speaks another version.
    Version {
        /// The guest's version.
        guest: u16,
        /// The lab's version.
        lab: u16,
    },
    /// No vCPU with that index.
    NoSuchVcpu(VcpuId),
    /// Two tasks for one vCPU.
    VcpuTwice(VcpuId),
    /// A range outside the window, not 4K aligned, or not made of whole steps; also a limit beyond
    /// the memory of the machine.
    BadRange(GpaRange),
    /// Run before Configure.
    NotConfigured,
    /// The request was damaged on the line, or is of another version.
    Garbled,
    /// The command needs TDCALL, but there is neither a TD nor a soft host to answer it.
    NoTdcall(VcpuId),
    /// A TD maps its windows itself: there is no soft host under it.
    NoHost,
}

/// Counted by the guest during one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// TDCALLs made.
    pub tdcalls: u64,
    /// #VEs taken.
    pub ve: u64,
    /// Window faults passed to a soft host.
    pub faults: u64,
}

/// Equal consecutive results, in the order the guest went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    /// `count` ACCEPTs at `level` from `start` up, all with this status.
    Accept {
        /// First address.
        start: Gpa,
        /// Size asked for.
        level: PageLevel,
        /// Number of results.
        count: u32,
        /// RAX of every one.
        status: u64,
    },
    /// `count` accesses from `start` up with the same outcome.
    Access {
        /// First address.
        start: Gpa,
        /// How many strides (touch) or 4K pages (fill).
        count: u32,
        /// The outcome.
        outcome: Access,
    },
    /// `count` 4K pages from `start` up with the same kind of content.
    Content {
        /// First page.
        start: Gpa,
        /// Number of pages.
        count: u32,
        /// Their content.
        content: Content,
    },
    /// The result of MapGPA.
    MapGpa {
        /// R10 of the last call.
        status: u64,
        /// R11 of the last call: where it stopped, if it did not succeed.
        stopped_at: Gpa,
        /// Calls made (1 + retries).
        calls: u32,
    },
    /// `count` probes from `start` up that read the same.
    Probe {
        /// First address.
        start: Gpa,
        /// Number of results.
        count: u32,
        /// RAX.
        status: u64,
        /// Level of the entry, TDX numbering (RCX bits 2:0).
        level: u8,
        /// RCX bit 62.
        pending: bool,
        /// RDX: attributes.
        attributes: u64,
    },
}

/// Outcome of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Done.
    Done,
    /// #VE: the page is pending; it was left alone.
    Ve,
    /// #VE, then ACCEPT with status 0, then done.
    Accepted,
    /// #VE, then ACCEPT with this status; left alone.
    AcceptFailed {
        /// RAX of ACCEPT.
        status: u64,
    },
    /// A #VE whose information does not fit the access (reason, GPA).
    StrangeVe {
        /// Exit reason.
        reason: u32,
        /// Reported GPA.
        gpa: Gpa,
    },
}

/// Content of a 4K page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Every word is right for this page and all are of one generation.
    Own(Generation),
    /// All words are zero.
    Zero,
    /// A whole page of another address, consistent and of one generation. In a run, the
    /// `distance` (page found here minus page it belongs to, in 4K frames) is the same.
    Foreign {
        /// Generation of the words.
        generation: Generation,
        /// Found-at frame minus written-for frame.
        distance: i64,
    },
    /// Words of different kinds. A run of torn pages has one page.
    Torn {
        /// How many words are as the first word's kind.
        like_first: u16,
        /// First words that are not like the first, as (index, value); the first entry is the
        /// first word itself.
        words: Vec<(u16, u64), MAX_BAD_WORDS>,
    },
    /// #VE on reading: the page is not accepted.
    NotAccepted,
}
