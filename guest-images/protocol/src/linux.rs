//! Requests of the lab to the agent in a Linux guest, and the agent's answers.
//!
//! The agent sends [`LinuxReply::Hello`] once the line is open, and again on request. Each
//! [`LinuxRequest`] has a number. The agent works on one at a time and answers it with any number
//! of parts (extents, findings, bytes, progress) and one end: [`LinuxReply::Done`] or
//! [`LinuxReply::Failed`].
//!
//! A *buffer* is memory that the agent owns. The words in it are those of [`crate::pattern`]: each
//! names the generation of the fill and the GPA of its page when it was filled. Linux may move a
//! page later; the agent remembers where it was filled, so a page that was moved is still intact,
//! and a page that is wrong names the GPA whose data it holds.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::addr::Gpa;
pub use crate::addr::Side;
use crate::message::{Content, Text};
use crate::pattern::Generation;

/// Version of these messages. Both sides must have the same.
pub const VERSION: u16 = 2;

/// Name of the virtio-serial port on which the agent speaks.
pub const PORT: &str = "tdxlab.agent";

/// Prefix of the agent's lines on the console.
pub const CONSOLE_MARK: &str = "tdxlab-agent: ";

/// Argument of an agent that was pushed into a system with a first process of its own.
pub const PUSHED: &str = "pushed";
/// Where an initramfs has qemu-ga, if the lab is to push its agent there.
pub const QEMU_GA: &str = "/usr/sbin/qemu-ga";
/// Name of qemu-ga's virtio-serial port.
pub const QEMU_GA_PORT: &str = "org.qemu.guest_agent.0";
/// Word of the kernel's command line before the size of /tmp in such an initramfs.
pub const SMALL_TMP: &str = "tdxlab.tmp=";

/// Folder of the initramfs with the kernel modules to load, in the order of their names.
pub const MODULES: &str = "/modules";
/// Folder of modules that the agent loads for the first TDREPORT or quote, in the order of their names.
pub const REPORT_MODULES: &str = "/modules/report";
/// The kernel that the agent starts by kexec.
pub const KEXEC_KERNEL: &str = "/kexec/vmlinuz";
/// The initramfs that goes with it.
pub const KEXEC_INITRD: &str = "/kexec/initrd";

/// Most buffers at a time; they are numbered from 0.
pub const MAX_BUFFERS: u8 = 16;
/// Most extents in one [`LinuxReply::Extents`].
pub const MAX_EXTENTS: usize = 32;
/// Most findings in one [`LinuxReply::Findings`].
pub const MAX_FINDINGS: usize = 12;
/// Most bytes in one [`LinuxReply::Bytes`].
pub const MAX_BYTES: usize = 1024;
/// Most bytes of a kernel command line for kexec.
pub const MAX_APPEND: usize = 512;
/// Most bytes of the path of a file in the guest.
pub const MAX_PATH: usize = 256;
/// Most bytes that can be read of such a file.
pub const MAX_FILE: u32 = 1 << 20;
/// Bytes of REPORTDATA in a TDREPORT.
pub const REPORT_DATA: usize = 64;
/// Bytes of a TDREPORT. Source: `struct tdx_report_req` in include/uapi/linux/tdx-guest.h.
pub const REPORT_BYTES: usize = 1024;
/// Most findings the agent reports for one buffer; the rest is only counted.
pub const MOST_FINDINGS: u32 = 4096;

/// Number of a buffer, below [`MAX_BUFFERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct BufferId(u8);

impl BufferId {
    /// Buffer `number`; `None` from [`MAX_BUFFERS`] on.
    pub const fn new(number: u8) -> Option<BufferId> {
        if number < MAX_BUFFERS {
            Some(BufferId(number))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl From<BufferId> for u8 {
    fn from(id: BufferId) -> u8 {
        id.0
    }
}

impl TryFrom<u8> for BufferId {
    type Error = NoSuchBuffer;

    fn try_from(number: u8) -> Result<BufferId, NoSuchBuffer> {
        BufferId::new(number).ok_or(NoSuchBuffer(number))
    }
}

/// A number that is no buffer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no buffer: they go from 0 to {last}", last = MAX_BUFFERS - 1)]
pub struct NoSuchBuffer(pub u8);

/// Pages of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pages {
    /// Anonymous memory that Linux maps with 4K pages (`MADV_NOHUGEPAGE`).
    #[serde(rename = "4K")]
    Small,
    /// Anonymous memory that Linux may map with 2M pages (`MADV_HUGEPAGE`).
    #[serde(rename = "thp")]
    Transparent,
    /// Pages of 2M from the guest's hugetlb pool.
    #[serde(rename = "hugetlb-2M")]
    Hugetlb2M,
    /// One physically contiguous block of the guest kernel, from the lab's own kernel module: the
    /// only kind whose pages can be converted.
    #[serde(rename = "kernel")]
    Kernel,
}

/// The lab to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxRequest {
    /// Number that every answer to this request repeats.
    pub id: u32,
    /// The operation.
    pub ask: Ask,
}

/// Operations of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "no allocation in the protocol")]
pub enum Ask {
    /// Say hello again.
    Hello,
    /// Make a buffer and fill every word of it. Answers [`LinuxReply::Extents`], its physical
    /// extents.
    Fill {
        /// The buffer; an existing one is filled again, and keeps its pages.
        buffer: BufferId,
        /// Its size: whole 4K pages; whole 2M pages for hugetlb; a power of two for the kernel's.
        bytes: u64,
        /// The pages of a new buffer.
        pages: Pages,
        /// The generation to write.
        generation: Generation,
    },
    /// Say which GPAs lie under a buffer now. Answers [`LinuxReply::Extents`].
    Where {
        /// The buffer.
        buffer: BufferId,
    },
    /// Read every word of a buffer. Answers [`LinuxReply::Findings`] for pages that are not intact,
    /// and [`Outcome::Verified`].
    Verify {
        /// The buffer.
        buffer: BufferId,
    },
    /// Give a buffer's memory back to Linux.
    Free {
        /// The buffer.
        buffer: BufferId,
    },
    /// Convert pages of a buffer of the kernel's, by set_memory_decrypted() or
    /// set_memory_encrypted().
    Convert {
        /// The buffer.
        buffer: BufferId,
        /// First page, counted in the buffer.
        first: u32,
        /// Number of pages.
        count: u32,
        /// Target: private or shared.
        to: Side,
    },
    /// Put a load on the guest's memory.
    Load(Load),
    /// Read a file of the kernel's. Answers [`LinuxReply::Bytes`].
    Read(Witness),
    /// Read any file that is neither a folder nor a device, pipe or socket. Answers
    /// [`LinuxReply::Bytes`].
    ReadFile {
        /// Its path, from `/` on.
        path: heapless::String<MAX_PATH>,
        /// Most bytes to send of it, up to [`MAX_FILE`].
        most: u32,
    },
    /// Take a TDREPORT. Answers [`LinuxReply::Bytes`], [`REPORT_BYTES`] of them.
    Report {
        /// REPORTDATA, to be found in it again.
        data: [[u8; 32]; 2],
    },
    /// Ask for a quote through configfs-tsm. Answers [`LinuxReply::Bytes`].
    Quote {
        /// Report data of the quote.
        data: [[u8; 32]; 2],
    },
    /// Boot the same kernel again by kexec. [`Outcome::Done`] means that it is loaded. Data in
    /// flight is lost with a kernel, so the agent jumps when the lab's next request shows that this
    /// answer has arrived. That request is not answered; the next reply is the new kernel's Hello.
    Kexec {
        /// The new kernel's command line.
        append: heapless::String<MAX_APPEND>,
    },
    /// Power off. The answer may be lost with the guest, whose end is the answer.
    PowerOff,
}

/// Loads on the guest's memory. All but `Fragment` free their memory at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Load {
    /// `processes` processes map `bytes` together and write to every 4K page once.
    Touch {
        /// Memory of all of them.
        bytes: u64,
        /// Number of processes.
        processes: u16,
    },
    /// A process writes `bytes` and forks `processes` times; each child writes to every page, which
    /// Linux copies.
    Fork {
        /// Memory that each child copies.
        bytes: u64,
        /// How many, one after the other.
        processes: u16,
    },
    /// Takes `bytes` in 4K pages, and gives back all but one page of every 2M of them. Holds these
    /// until [`Load::Release`].
    Fragment {
        /// Memory to take.
        bytes: u64,
    },
    /// Gives back what `Fragment` holds.
    Release,
}

/// Files of the guest kernel that the agent can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Witness {
    /// /proc/meminfo.
    MemInfo,
    /// /proc/vmstat.
    VmStat,
    /// /proc/buddyinfo.
    BuddyInfo,
    /// /proc/iomem.
    IoMem,
    /// The kernel log, oldest message first.
    KernelLog,
    /// /proc/cmdline.
    CommandLine,
    /// /proc/modules.
    Modules,
}

impl Witness {
    /// All of them.
    pub const ALL: [Witness; 7] = [
        Witness::MemInfo,
        Witness::VmStat,
        Witness::BuddyInfo,
        Witness::IoMem,
        Witness::KernelLog,
        Witness::CommandLine,
        Witness::Modules,
    ];

    /// Its name: that of the file in /proc, or `dmesg`.
    pub const fn name(self) -> &'static str {
        match self {
            Witness::MemInfo => "meminfo",
            Witness::VmStat => "vmstat",
            Witness::BuddyInfo => "buddyinfo",
            Witness::IoMem => "iomem",
            Witness::KernelLog => "dmesg",
            Witness::CommandLine => "cmdline",
            Witness::Modules => "modules",
        }
    }

    /// Bound on the bytes the agent sends of it.
    pub const fn most_bytes(self) -> usize {
        match self {
            Witness::KernelLog => 1 << 20,
            _ => 128 << 10,
        }
    }
}

/// The agent to the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "no allocation in the protocol")]
pub enum LinuxReply {
    /// The agent is ready.
    Hello(LinuxHello),
    /// Sign of life in a long task.
    Progress {
        /// The request.
        id: u32,
        /// Bytes done so far.
        bytes: u64,
    },
    /// Physical extents of a buffer, in the order of its pages.
    Extents {
        /// The request.
        id: u32,
        /// Consecutive pieces.
        extents: Vec<Extent, MAX_EXTENTS>,
    },
    /// Pages of a buffer that are not intact, in the order of its pages.
    Findings {
        /// The request.
        id: u32,
        /// Consecutive findings.
        findings: Vec<Finding, MAX_FINDINGS>,
    },
    /// The next bytes of a file.
    Bytes {
        /// The request.
        id: u32,
        /// The bytes.
        bytes: Vec<u8, MAX_BYTES>,
    },
    /// The request is over, and went well.
    Done {
        /// The request.
        id: u32,
        /// The result.
        outcome: Outcome,
    },
    /// The request is over, and could not be done.
    Failed {
        /// The request; 0 where it could not be read.
        id: u32,
        /// The error.
        failure: Failure,
    },
    /// The agent has panicked and powers the guest off.
    Panic {
        /// Source file.
        file: Text,
        /// Source line.
        line: u32,
        /// Message.
        message: Text,
    },
}

impl LinuxReply {
    /// The request that this answers; `None` for what answers none.
    pub const fn id(&self) -> Option<u32> {
        match self {
            LinuxReply::Progress { id, .. }
            | LinuxReply::Extents { id, .. }
            | LinuxReply::Findings { id, .. }
            | LinuxReply::Bytes { id, .. }
            | LinuxReply::Done { id, .. }
            | LinuxReply::Failed { id, .. } => Some(*id),
            LinuxReply::Hello(_) | LinuxReply::Panic { .. } => None,
        }
    }
}

/// Description of the agent and the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxHello {
    /// The agent's [`VERSION`].
    pub version: u16,
    /// Whether the guest is a TD: CPUID leaf 0x21 says "IntelTDX    ".
    pub td: bool,
    /// CPUs online.
    pub vcpus: u16,
    /// The kernel's release.
    pub release: Text,
    /// CLOCK_BOOTTIME in milliseconds: how long ago the kernel started its clock.
    pub uptime_ms: u32,
    /// Whether the kernel came by kexec.
    pub kexec: bool,
    /// Whether the lab's kernel module is loaded, so that pages can be converted.
    pub converts: bool,
}

/// Consecutive pages of a buffer over consecutive GPAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First GPA.
    pub start: Gpa,
    /// Number of 4K pages.
    pub pages: u32,
}

/// Consecutive pages of a buffer with equal content, other than the fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// First page, counted in the buffer.
    pub page: u32,
    /// How many pages; they lie at consecutive GPAs.
    pub count: u32,
    /// Current GPA of the first page.
    pub at: Gpa,
    /// Where it lay when it was filled; its words should name this.
    pub filled_at: Gpa,
    /// Content of the pages, relative to `filled_at`.
    pub content: Content,
}

/// Result of a successful request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, without data.
    Done,
    /// A buffer was filled.
    Filled {
        /// Size in bytes.
        bytes: u64,
        /// Bytes mapped with 2M pages.
        huge: u64,
    },
    /// A buffer was read.
    Verified {
        /// Size in bytes.
        bytes: u64,
        /// Pages that are not intact, reported or not.
        wrong: u32,
        /// Pages that Linux has moved since they were filled.
        moved: u32,
    },
    /// A file was read.
    Read {
        /// Bytes sent.
        bytes: u64,
        /// Whether there was more than may be sent.
        cut: bool,
    },
    /// A load has run.
    Loaded {
        /// Bytes written.
        bytes: u64,
        /// Processes that did not end well.
        failed: u16,
    },
}

/// Why a request could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The operation that failed.
    pub doing: Text,
    /// The system's answer; 0 where the agent itself refused.
    pub errno: i32,
}
