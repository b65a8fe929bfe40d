//! Plans for a Linux guest. Linux decides for itself, so steps are requests to the agent in it, and
//! not operations on each page.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use tdxlab_protocol::linux::{BufferId, Load, MAX_FILE, MAX_PATH, Pages, REPORT_DATA};

use crate::{Generation, Side};

/// A concrete scenario of a Linux guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxPlan {
    /// Format version, [`crate::VERSION`].
    pub version: u32,
    /// Name of the scenario.
    pub name: String,
    /// Description of the scenario.
    pub about: String,
    /// Seed that was drawn from.
    #[serde(default)]
    pub seed: u64,
    /// Whether the guest must be a TD; `None` for either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td: Option<bool>,
    /// The guest to boot.
    pub guest: LinuxGuest,
    /// What to do, in order. The first boots; a `power_off` is the last.
    pub steps: Vec<LinuxStep>,
}

/// The guest of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxGuest {
    /// Memory in MiB.
    pub mebibytes: u64,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// Words for the kernel's command line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub append: String,
    /// Who starts the agent.
    #[serde(default, skip_serializing_if = "AgentBy::is_init")]
    pub agent: AgentBy,
    /// Disk image to boot; a relative path starts at the scenario's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<PathBuf>,
    /// Who answers a TD's requests for quotes.
    #[serde(default, skip_serializing_if = "Quotes::is_none")]
    pub quotes: Quotes,
}

impl LinuxGuest {
    /// Whether the kernel that QEMU loads has its root on a disk.
    pub fn has_root(&self) -> bool {
        let mut words = self.append.split_whitespace();
        words.any(|word| word.starts_with("root="))
    }
}

/// Who starts the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentBy {
    /// The kernel: it is the first process.
    #[default]
    Init,
    /// qemu-ga, to which the lab gives it.
    QemuGa,
}

impl AgentBy {
    fn is_init(&self) -> bool {
        *self == AgentBy::Init
    }
}

/// Who answers a TD's requests for quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quotes {
    /// Nobody: QEMU has no quote generation service.
    #[default]
    None,
    /// The lab plays the service, and answers with what is no quote.
    Lab,
    /// The lab plays the service, and refuses every request.
    Refused,
}

impl Quotes {
    fn is_none(&self) -> bool {
        *self == Quotes::None
    }
}

/// A request, and where it is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinuxStep {
    /// Line of the scenario file, counted from 1.
    pub line: u32,
    /// The request.
    pub op: LinuxOp,
}

/// Operation of a step. Offsets and sizes are multiples of 4K in a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LinuxOp {
    /// Start the guest and wait for its agent.
    Boot,
    /// Agent: make a buffer, or take one that is there, and fill it.
    Fill {
        /// The buffer to make.
        buffer: BufferId,
        /// Size in bytes.
        bytes: u64,
        /// Its page size.
        pages: Pages,
        /// The generation of the words.
        generation: Generation,
    },
    /// Agent: read every word of a buffer.
    Verify {
        /// The buffer.
        buffer: BufferId,
    },
    /// Agent: give a buffer back to Linux.
    Free {
        /// The buffer.
        buffer: BufferId,
    },
    /// Host: punch a hole in guest memory, under pages of a buffer.
    Punch {
        /// The buffer.
        buffer: BufferId,
        /// First page.
        first: u32,
        /// Number of pages.
        count: u32,
    },
    /// Agent: have Linux convert pages of a buffer of the kernel's.
    Convert {
        /// The buffer.
        buffer: BufferId,
        /// First page.
        first: u32,
        /// Number of pages.
        count: u32,
        /// Target: private or shared.
        to: Side,
    },
    /// Agent: put a load on memory.
    Load(Load),
    /// Agent: boot the kernel again by kexec. All buffers are gone.
    Kexec,
    /// Host: plug memory into the running guest.
    Plug {
        /// How much, in bytes.
        bytes: u64,
        /// Whether it is used at once, and expected to end the guest.
        ends: bool,
    },
    /// Agent: take a TDREPORT.
    Report {
        /// What its REPORTDATA is made of, see [`report_data`].
        nonce: u64,
    },
    /// Agent: ask the VMM for a quote.
    Quote {
        /// As for a report.
        nonce: u64,
    },
    /// Agent or qemu-ga: read a file out of the guest.
    ReadFile(ReadFile),
    /// Read what guest and host say of memory, without changing anything.
    Settle,
    /// The same, and Linux has accepted all of its memory.
    AllAccepted,
    /// Agent: switch the guest off.
    PowerOff,
}

/// A file to read out of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// Its path in the guest, from `/` on; at most [`MAX_PATH`] bytes.
    pub path: String,
    /// Most bytes that it may have; at most [`MAX_FILE`].
    pub most: u32,
    /// What must stand in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Who reads it.
    #[serde(default, skip_serializing_if = "FileBy::is_agent")]
    pub by: FileBy,
}

/// Who reads a file out of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileBy {
    /// The agent.
    #[default]
    Agent,
    /// qemu-ga, which has started the agent.
    QemuGa,
}

impl FileBy {
    fn is_agent(&self) -> bool {
        *self == FileBy::Agent
    }
}

impl LinuxPlan {
    /// Bytes that its steps plug.
    pub fn plugged(&self) -> u64 {
        let plugged = self.steps.iter().map(|step| match step.op {
            LinuxOp::Plug { bytes, .. } => bytes,
            _ => 0,
        });
        plugged.fold(0, u64::saturating_add)
    }
}

impl LinuxOp {
    /// The operation in words.
    pub fn text(&self) -> String {
        let pages = |first: &u32, count: &u32| match count {
            1 => format!("page {first}"),
            _ => format!(
                "pages {first} to {}",
                u64::from(*first) + u64::from(*count) - 1
            ),
        };
        match self {
            LinuxOp::Boot => "boot".to_owned(),
            LinuxOp::Fill {
                buffer,
                bytes,
                pages,
                ..
            } => {
                let kind = match pages {
                    Pages::Small => "4K pages",
                    Pages::Transparent => "transparent huge pages",
                    Pages::Hugetlb2M => "hugetlb pages of 2M",
                    Pages::Kernel => "pages of the kernel",
                };
                format!("fill buffer {} of {} in {kind}", buffer.get(), size(*bytes))
            }
            LinuxOp::Verify { buffer } => format!("verify buffer {}", buffer.get()),
            LinuxOp::Free { buffer } => format!("free buffer {}", buffer.get()),
            LinuxOp::Punch {
                buffer,
                first,
                count,
            } => {
                format!(
                    "punch a hole under {} of buffer {}",
                    pages(first, count),
                    buffer.get()
                )
            }
            LinuxOp::Convert {
                buffer,
                first,
                count,
                to,
            } => format!(
                "convert {} of buffer {} to {}",
                pages(first, count),
                buffer.get(),
                match to {
                    Side::Private => "private",
                    Side::Shared => "shared",
                }
            ),
            LinuxOp::Load(Load::Touch { bytes, processes }) => {
                format!("touch {} with {processes} processes", size(*bytes))
            }
            LinuxOp::Load(Load::Fork { bytes, processes }) => {
                format!("fork {processes} times over {}", size(*bytes))
            }
            LinuxOp::Load(Load::Fragment { bytes }) => format!("fragment {}", size(*bytes)),
            LinuxOp::Load(Load::Release) => "release what was fragmented".to_owned(),
            LinuxOp::Kexec => "start the kernel anew by kexec".to_owned(),
            LinuxOp::Plug { bytes, ends } => match ends {
                false => format!("plug {}", size(*bytes)),
                true => format!("plug {} and use it, which ends the guest", size(*bytes)),
            },
            LinuxOp::Report { .. } => "take a TDREPORT".to_owned(),
            LinuxOp::Quote { .. } => "ask for a quote".to_owned(),
            LinuxOp::ReadFile(read) => match read.by {
                FileBy::Agent => format!("read {}", read.path),
                FileBy::QemuGa => format!("read {} by qemu-ga", read.path),
            },
            LinuxOp::Settle => "settle".to_owned(),
            LinuxOp::AllAccepted => "settle, with all memory accepted".to_owned(),
            LinuxOp::PowerOff => "power off".to_owned(),
        }
    }
}

/// REPORTDATA for a TDREPORT: 64 bytes, each 8 of which differ.
pub fn report_data(nonce: u64) -> [u8; REPORT_DATA] {
    let mut data = [0; REPORT_DATA];
    for (number, word) in (1..).zip(data.chunks_exact_mut(8)) {
        word.copy_from_slice(&nonce.wrapping_add(number).to_le_bytes());
    }
    data
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}
