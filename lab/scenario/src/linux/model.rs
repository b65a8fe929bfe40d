//! Types of a scenario file of a Linux guest. The JSON Schema is derived from them.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, json_schema};
use serde::Deserialize;
use tdxlab_plan::Side;
use tdxlab_plan::linux::{AgentBy, FileBy, Pages, Quotes};

use crate::model::{Draw, List, exactly_one_operation};
use crate::scalar::{Bytes, Count, Kind, Literal, Scalar, Word};
use crate::variant::Variables;
use crate::vars::{Fault, Vars};

/// A scenario of a Linux guest: what it shows, what it needs, and what is done step by step.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinuxFile {
    /// Its name: folder and file name without `.yaml`, such as `linux/kexec`.
    // As it is written: `0x10` is a name, and not a number.
    #[schemars(with = "Scalar<Literal>")]
    pub(super) scenario: String,
    /// What it shows, in one or two sentences.
    pub(super) about: String,
    /// What the guest must be; else it is skipped, by name of the need.
    #[serde(default)]
    pub(super) needs: LinuxNeeds,
    /// The guest to boot.
    pub(super) guest: LinuxMachine,
    /// Seed of all that is random, unless the command line gives one. 1 where absent.
    pub(super) seed: Option<Scalar<Count>>,
    /// Variants by name, each of which gives the same variables a value.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    cases: IndexMap<String, IndexMap<String, Scalar<Literal>>>,
    /// Variables with all their values; every combination is a plan.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    matrix: IndexMap<String, List<Scalar<Literal>>>,
    /// Variables whose value is drawn from the seed, once for each plan.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    draw: IndexMap<String, Draw>,
    /// What is done, in order. The first step is `boot`; where there is a `power_off`, it is the last.
    pub(super) steps: List<LinuxStep>,
}

impl LinuxFile {
    /// Its variables.
    pub(super) fn variables(&self) -> Variables<'_> {
        Variables {
            cases: &self.cases,
            matrix: &self.matrix,
            draw: &self.draw,
        }
    }
}

/// What the guest must be.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1))]
pub(super) struct LinuxNeeds {
    /// `true`: a TD; `false`: a plain guest. Either where absent.
    pub(super) td: Option<Scalar<bool>>,
}

/// The guest to boot.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxMachine {
    /// A Linux, with the lab's agent in it.
    pub(super) linux: LinuxKeys,
}

/// The machine of a Linux guest.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxKeys {
    /// Memory: 256M to 16G, in whole MiB. Below 512M Linux makes no transparent huge pages.
    pub(super) memory: Scalar<Bytes>,
    /// Number of vCPUs, 1 to 64. 1 where absent.
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub(super) vcpus: Option<Scalar<Count>>,
    /// Words for the end of the kernel's command line.
    pub(super) append: Option<Scalar<CommandLine>>,
    /// Who starts the agent: the kernel, whose first process it is (`init`, where absent), or `qemu-ga`,
    /// to which the lab gives it.
    pub(super) agent: Option<Scalar<AgentBy>>,
    /// Disk image with a system that has qemu-ga: raw or qcow2, never written. A relative path starts at
    /// this file's folder. Its boot loader starts it, or with `append: root=...` the lab's kernel.
    pub(super) disk: Option<Scalar<FileName>>,
    /// Who answers a TD's requests for quotes: nobody (`none`, where absent), the `lab`, which answers
    /// with what is no quote, or a service of the lab's by which each is `refused`.
    pub(super) quotes: Option<Scalar<Quotes>>,
}

impl Word for Quotes {
    const NAME: &'static str = "LinuxQuotes";
    const WHAT: &'static str = "a quote generation service";
    const WORDS: &'static [(&'static str, Quotes)] = &[
        ("none", Quotes::None),
        ("lab", Quotes::Lab),
        ("refused", Quotes::Refused),
    ];
}

/// Words of a kernel's command line, or the variable that holds them.
#[derive(Debug)]
pub(super) struct CommandLine;

impl Kind for CommandLine {
    type Value = String;
    const NAME: &'static str = "CommandLine";

    fn schema() -> Schema {
        json_schema!({
            "description": "Words of the kernel's command line, such as `swiotlb=force`.",
            "type": "string",
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<String, Fault> {
        Ok(vars.resolve(text)?.trim().to_owned())
    }
}

impl Word for AgentBy {
    const NAME: &'static str = "LinuxAgent";
    const WHAT: &'static str = "who starts the agent";
    const WORDS: &'static [(&'static str, AgentBy)] =
        &[("init", AgentBy::Init), ("qemu-ga", AgentBy::QemuGa)];
}

/// A path, or the variable that holds it.
#[derive(Debug)]
pub(super) struct FileName;

impl Kind for FileName {
    type Value = PathBuf;
    const NAME: &'static str = "FileName";

    fn schema() -> Schema {
        json_schema!({
            "description": "Path of a file, such as `../images/disk.qcow2`.",
            "type": "string",
            "minLength": 1,
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<PathBuf, Fault> {
        Ok(PathBuf::from(vars.resolve(text)?.trim()))
    }
}

/// One step: a word, or one operation with its keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum LinuxStep {
    /// A step without keys.
    Word(Scalar<Plain>),
    /// One operation.
    Full(Box<LinuxOperation>),
}

/// A step that is a single word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    Boot,
    Settle,
    AllAccepted,
    Report,
    Quote,
    Kexec,
    PowerOff,
}

impl Word for Plain {
    const NAME: &'static str = "LinuxWord";
    const WHAT: &'static str = "a step without keys";
    const WORDS: &'static [(&'static str, Plain)] = &[
        ("boot", Plain::Boot),
        ("settle", Plain::Settle),
        ("all_accepted", Plain::AllAccepted),
        ("report", Plain::Report),
        ("quote", Plain::Quote),
        ("kexec", Plain::Kexec),
        ("power_off", Plain::PowerOff),
    ];
}

/// The load that ends another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    Release,
}

impl Word for Release {
    const NAME: &'static str = "LinuxRelease";
    const WHAT: &'static str = "a load";
    const WORDS: &'static [(&'static str, Release)] = &[("release", Release::Release)];
}

impl Word for Pages {
    const NAME: &'static str = "LinuxPages";
    const WHAT: &'static str = "a kind of pages";
    const WORDS: &'static [(&'static str, Pages)] = &[
        ("4K", Pages::Small),
        ("thp", Pages::Transparent),
        ("hugetlb-2M", Pages::Hugetlb2M),
        ("kernel", Pages::Kernel),
    ];
}

/// One operation of a Linux guest or on it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = exactly_one_operation)]
pub(super) struct LinuxOperation {
    /// Agent: make a buffer, or take the one that is there, and write every word of it.
    pub(super) fill: Option<LinuxFill>,
    /// Agent: read every word of the buffer.
    pub(super) verify: Option<Scalar<Count>>,
    /// Agent: give the buffer back to Linux.
    pub(super) free: Option<Scalar<Count>>,
    /// Host: punch a hole in guest memory, under bytes of a buffer. Plain guests only.
    pub(super) punch: Option<LinuxPart>,
    /// Host: plug memory into the running guest, by virtio-mem.
    pub(super) plug: Option<LinuxPlug>,
    /// Agent: have Linux convert pages of a `kernel` buffer.
    pub(super) convert: Option<LinuxConvert>,
    /// Agent: conversions drawn from the seed: of one page, of parts, of whole leaves, there and back.
    pub(super) walk: Option<LinuxWalk>,
    /// Agent: put a load on memory, or `release` what was fragmented.
    pub(super) load: Option<LinuxLoad>,
    /// Agent, or qemu-ga: read a file out of the guest, which is kept with the report.
    pub(super) read_file: Option<LinuxReadFile>,
    /// Steps that are done several times.
    pub(super) repeat: Option<LinuxRepeat>,
}

/// Fills a buffer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxFill {
    /// The buffer, 0 to 15.
    pub(super) buffer: Scalar<Count>,
    /// Its size, in whole pages of its kind. `kernel`: a power of two up to 4M.
    pub(super) size: Scalar<Bytes>,
    /// Pages it is made of: `4K`, `thp`, `hugetlb-2M` or `kernel`. 4K where absent.
    pub(super) pages: Option<Scalar<Pages>>,
}

/// Bytes of a buffer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxPart {
    /// The buffer, 0 to 15.
    pub(super) buffer: Scalar<Count>,
    /// Offset of the first byte in the buffer. 0 where absent.
    pub(super) at: Option<Scalar<Bytes>>,
    /// Number of bytes, in whole pages.
    pub(super) size: Scalar<Bytes>,
}

/// Plugs memory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxPlug {
    /// How much: whole 128M, up to 16G in all.
    pub(super) size: Scalar<Bytes>,
    /// Whether it is used at once and the guest expected to end by that, as a TD does today; `false`
    /// where absent. It is the last step then.
    pub(super) ends: Option<Scalar<bool>>,
}

/// Converts bytes of a buffer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxConvert {
    /// The buffer, 0 to 15. It is of `kernel` pages.
    pub(super) buffer: Scalar<Count>,
    /// Offset of the first byte in the buffer. 0 where absent.
    pub(super) at: Option<Scalar<Bytes>>,
    /// Number of bytes, in whole pages.
    pub(super) size: Scalar<Bytes>,
    /// To which side: `shared` or `private`. All of them are on the other side before.
    pub(super) to: Scalar<Side>,
}

/// Conversions drawn from the seed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxWalk {
    /// The buffer, 0 to 15. It is of `kernel` pages.
    pub(super) buffer: Scalar<Count>,
    /// How many conversions.
    pub(super) times: Scalar<Count>,
}

/// A load on memory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum LinuxLoad {
    /// Give back what was fragmented.
    Release(Scalar<Release>),
    /// One load.
    Full(LinuxLoadKeys),
}

/// One load: exactly one of `touch`, `fork` and `fragment`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxLoadKeys {
    /// Processes write that much together.
    pub(super) touch: Option<Scalar<Bytes>>,
    /// A process writes that much, and its child copies it.
    pub(super) fork: Option<Scalar<Bytes>>,
    /// Of that much memory, one page in every 2M stays in use.
    pub(super) fragment: Option<Scalar<Bytes>>,
    /// Number of processes, with `touch` and `fork`. 1 where absent.
    pub(super) processes: Option<Scalar<Count>>,
}

/// Reads a file out of the guest.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxReadFile {
    /// Its path in the guest, such as `/etc/os-release`; no directory, device, pipe or socket.
    pub(super) path: Scalar<GuestText>,
    /// What must stand in it. Anything where absent.
    pub(super) contains: Option<Scalar<GuestText>>,
    /// Most bytes that it may have: up to 1M. 64K where absent.
    pub(super) most: Option<Scalar<Bytes>>,
    /// Who reads it: the `agent`, where absent, or `qemu-ga`, with `agent: qemu-ga`.
    pub(super) by: Option<Scalar<FileBy>>,
}

/// A path in the guest or a piece of a file, or the variable that holds it.
#[derive(Debug)]
pub(super) struct GuestText;

impl Kind for GuestText {
    type Value = String;
    const NAME: &'static str = "GuestText";

    fn schema() -> Schema {
        json_schema!({
            "description": "A path in the guest, or text of a file there.",
            "type": ["string", "integer", "boolean"],
        })
    }

    fn read(text: &str, vars: &Vars) -> Result<String, Fault> {
        vars.resolve(text).map(str::to_owned)
    }
}

impl Word for FileBy {
    const NAME: &'static str = "LinuxFileBy";
    const WHAT: &'static str = "who reads a file";
    const WORDS: &'static [(&'static str, FileBy)] =
        &[("agent", FileBy::Agent), ("qemu-ga", FileBy::QemuGa)];
}

/// Steps that are done several times.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinuxRepeat {
    /// How often.
    #[schemars(extend("minimum" = 1, "maximum" = 2000))]
    pub(super) times: Scalar<Count>,
    /// Variable that counts the rounds from 0.
    #[serde(rename = "as")]
    pub(super) counter: Option<String>,
    /// The steps.
    pub(super) steps: List<LinuxStep>,
}
