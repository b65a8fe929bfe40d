//! `journal.jsonl`: the events of a run, one per line, as they happen.
//!
//! A run writes nothing but the journal; every report is made from it. Each event is appended by
//! one `write(2)`, so that however the runner ends, all events up to then are kept. It holds enough
//! to judge every step again without a host.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use miette::Diagnostic;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdxlab_plan::linux::LinuxPlan;
use tdxlab_plan::{Expectation, HostKind, HostProfile, MemoryMap, Plan, Repeat};
use thiserror::Error;

use crate::boot::BootAccount;
use crate::interleaving::Interleaving;
use crate::shard::Shard;
use crate::verdict::{Judgement, MissingWitness, Verdict};
use crate::{Ending, Observed, Sample, inside};

/// Version of the journal format.
pub const VERSION: u32 = 1;

/// Name of the journal in a run's folder.
pub const FILE: &str = "journal.jsonl";

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Microseconds since the run started.
    pub at: u64,
    /// The event.
    pub event: Event,
}

/// A plan of a run, by its place in [`RunStarted::plans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanId(pub u32);

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    clippy::large_enum_variant,
    reason = "events are written and read one at a time"
)]
pub enum Event {
    /// First line of every journal.
    RunStarted(RunStarted),
    /// A plan will not run because a need is not met.
    PlanSkipped {
        /// The plan.
        plan: PlanId,
        /// Description of the scenario.
        about: String,
        /// The need, and what is offered instead.
        need: String,
    },
    /// A plan starts.
    PlanStarted {
        /// The plan.
        plan: PlanId,
        /// The file it came from.
        scenario: Option<PathBuf>,
        /// Content of the plan.
        body: Plan,
    },
    /// A plan for a Linux guest starts.
    LinuxStarted {
        /// The plan.
        plan: PlanId,
        /// The file it came from.
        scenario: Option<PathBuf>,
        /// Content of the plan.
        body: LinuxPlan,
    },
    /// A step of a plan for a Linux guest was done and judged.
    LinuxStep {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// Expectation, in words.
        expected: Vec<String>,
        /// Observation, in words.
        seen: Vec<String>,
        /// The judgement.
        judgement: Judgement,
        /// How long it took, in microseconds.
        micros: u64,
        /// The account of a boot, where the step was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot: Option<Box<BootAccount>>,
    },
    /// Its guest takes commands.
    Booted {
        /// The plan.
        plan: PlanId,
        /// How long it took, in microseconds.
        micros: u64,
        /// The guest, where the plan has it not for itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<SharedGuest>,
    },
    /// The positive control was done.
    Controlled {
        /// The plan.
        plan: PlanId,
        /// Witnesses before.
        before: Sample,
        /// Witnesses after; the baseline of the first step.
        after: Sample,
        /// Result of the ACCEPT of the control page.
        observed: Observed,
        /// The judgement.
        judgement: Judgement,
        /// Counters that did not move; ignored for the rest of the plan.
        distrusted: Vec<MissingWitness>,
        /// How memory must look before the first step.
        #[serde(default)]
        map: MemoryMap,
    },
    /// A step is about to be done.
    StepStarted {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// The prediction.
        expected: Expectation,
    },
    /// A step was done.
    StepObserved {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// Observations, operation by operation of every branch.
        observed: Vec<Vec<Observed>>,
        /// Witnesses after the step.
        sample: Sample,
        /// The order in which racing operations took turns, where the seed alone does not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interleaving: Option<Interleaving>,
    },
    /// A step was judged.
    StepJudged {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// The judgement.
        judgement: Judgement,
        /// How memory must look now.
        map: MemoryMap,
    },
    /// Its guest has gone.
    Ended {
        /// The plan.
        plan: PlanId,
        /// Witnesses of the teardown.
        ending: Ending,
        /// The judgement.
        judgement: Judgement,
    },
    /// A plan is over.
    PlanEnded {
        /// The plan.
        plan: PlanId,
        /// The verdict.
        verdict: Verdict,
        /// Why it was not judged to the end, if so.
        reason: Option<String>,
        /// How long it took, in microseconds.
        micros: u64,
        /// Folder with the host's evidence, relative to the run's folder and inside it.
        #[serde(default, deserialize_with = "inside::inside")]
        evidence: Option<PathBuf>,
        /// Whether a seeded fault has made the host do anything otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault_reached: Option<bool>,
    },
    /// A plan that did not pass in a guest it shared was run again in one of its own, whose results
    /// count.
    FailedShared {
        /// Which plan.
        plan: PlanId,
        /// The guest it shared.
        guest: SharedGuest,
        /// What was said of it there.
        verdict: Verdict,
        /// Why, in words.
        why: String,
    },
    /// A plan that had failed was run again, to see how reliably it fails.
    Confirmed {
        /// The plan.
        plan: PlanId,
        /// How often it was run again.
        times: u32,
        /// How often it failed then.
        failed: u32,
    },
    /// Last line of every journal that was not cut off.
    RunEnded {
        /// The verdict of the run.
        verdict: Verdict,
        /// Whether the run was interrupted before all plans were run.
        interrupted: bool,
        /// Facts about the host that can change under a run, by name, as they are now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        facts: Vec<(String, String)>,
    },
}

/// Head of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStarted {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// Version of tdxlab.
    pub tdxlab: String,
    /// Name of the run: its time and a random part.
    pub run: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// The command line.
    pub command: Vec<String>,
    /// The host.
    pub host: HostKind,
    /// What that host promised; `None` in journals of versions that did not write it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<HostProfile>,
    /// Why there.
    pub host_reason: String,
    /// Facts about the host by name: kernel, QEMU, TDX module.
    pub facts: Vec<(String, String)>,
    /// The fault that was seeded into the host: whatever failed, this is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<SeededFault>,
    /// The design played or expected.
    pub design: String,
    /// Seed given on the command line.
    pub seed: Option<u64>,
    /// Plans run at the same time.
    pub jobs: usize,
    /// Names of all plans of the run, in order.
    pub plans: Vec<String>,
    /// Scenario files and folders given on the command line; none for the default set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathBuf>,
    /// Texts of kernel log lines that might appear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_log: Vec<String>,
    /// Which part of a larger run this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// How often every scenario is done, where that is more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
    /// Names of the runs this one was merged from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<String>,
}

/// The design of runs that have none: their guests are Linux, which does as it likes.
pub const NO_DESIGN: &str = "none";

impl RunStarted {
    /// Whether its guests are Linux (`tdxlab linux`).
    pub fn is_of_linux(&self) -> bool {
        self.design == NO_DESIGN
    }

    /// What the host of the run promised.
    pub fn profile(&self) -> HostProfile {
        self.profile.unwrap_or(HostProfile::of(self.host))
    }
}

/// A guest in which several plans run one after the other, each in memory that was never touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedGuest {
    /// Its number in the run.
    pub guest: u32,
    /// How many plans ran in it before.
    pub before: u32,
    /// Where its memory for the plan starts, in bytes; journals and reports have the plan's own addresses.
    pub at: u64,
}

/// A fault that was seeded into the host of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeededFault {
    /// Its name, as for `--fault`.
    pub name: String,
    /// What the host does wrong because of it.
    pub wrong: String,
}

impl std::fmt::Display for SeededFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seeded fault {}: {}", self.name, self.wrong)
    }
}

/// A part of a run that several machines share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The shard.
    pub shard: Shard,
    /// How many plans all parts have together.
    pub of_plans: u32,
    /// The place of each plan of this part among them.
    pub places: Vec<u32>,
}

/// Why the journal cannot be written or read.
#[derive(Debug, Error, Diagnostic)]
pub enum JournalError {
    /// An event could not be written.
    #[error("cannot write {}: {source}", path.display())]
    #[diagnostic(
        code(journal::write),
        help("all results up to this one are safe in the journal; make room and run again")
    )]
    Write {
        /// The journal.
        path: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// The file could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    #[diagnostic(
        code(journal::read),
        help("name the folder of one run, such as reports/latest: its journal is in it")
    )]
    Read {
        /// The journal.
        path: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// A line is no event.
    #[error("{}, line {line}, is no event: {reason}", path.display())]
    #[diagnostic(
        code(journal::garbled),
        help("a journal is only ever appended to; this one was changed by something else")
    )]
    Garbled {
        /// The journal.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The error in it.
        reason: String,
    },
    /// Another version of tdxlab wrote it.
    #[error("{} is a journal of version {found}; this tdxlab reads version {VERSION}", path.display())]
    #[diagnostic(code(journal::version), help("use the tdxlab that wrote it"))]
    Version {
        /// The journal.
        path: PathBuf,
        /// Its format version.
        found: u64,
    },
    /// Another process writes it.
    #[error("{} is still being written: the run goes on in another process", path.display())]
    #[diagnostic(code(journal::busy), help("wait for it, or stop it first"))]
    Busy {
        /// The journal.
        path: PathBuf,
    },
    /// There is not even a first line.
    #[error("{} is empty: the run ended before it began", path.display())]
    #[diagnostic(code(journal::empty))]
    Empty {
        /// The journal.
        path: PathBuf,
    },
}

/// The journal of a run in progress. Shared by all workers.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    started: Instant,
    /// Microseconds the run had taken before this process took it up.
    before: u64,
    file: Mutex<Append>,
}

#[derive(Debug)]
struct Append {
    file: File,
    /// Bytes of complete lines.
    length: u64,
    /// Set by the first write that failed: what would follow would follow a gap.
    broken: Option<Broken>,
}

/// A cloneable error.
#[derive(Clone, Copy, Debug)]
enum Broken {
    Errno(i32),
    Kind(std::io::ErrorKind),
}

impl Broken {
    fn by(error: &std::io::Error) -> Broken {
        match error.raw_os_error() {
            Some(errno) => Broken::Errno(errno),
            None => Broken::Kind(error.kind()),
        }
    }

    fn again(self) -> std::io::Error {
        match self {
            Broken::Errno(errno) => std::io::Error::from_raw_os_error(errno),
            Broken::Kind(kind) => kind.into(),
        }
    }
}

impl Journal {
    /// A new journal at `path`, where there is none yet.
    pub fn create(path: &Path) -> Result<Journal, JournalError> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(|source| JournalError::Write {
                path: path.to_owned(),
                source,
            })?;
        let journal = Journal::over(file, path, 0, 0);
        journal.own()?;
        Ok(journal)
    }

    /// The journal at `path`, to be continued `at` microseconds after its run started. What
    /// follows its last complete line is cut off.
    pub fn resume(path: &Path, at: u64) -> Result<Journal, JournalError> {
        let failed = |source| JournalError::Write {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        let length = complete_lines(&mut file).map_err(failed)?;
        let journal = Journal::over(file, path, at, length);
        journal.own()?;
        journal.lock().file.set_len(length).map_err(failed)?;
        Ok(journal)
    }

    fn over(file: File, path: &Path, at: u64, length: u64) -> Journal {
        Journal {
            path: path.to_owned(),
            started: Instant::now(),
            before: at,
            file: Mutex::new(Append {
                file,
                length,
                broken: None,
            }),
        }
    }

    /// Locks the journal for the life of this process. The kernel drops the lock however it ends.
    fn own(&self) -> Result<(), JournalError> {
        match self.lock().file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(JournalError::Busy {
                path: self.path.clone(),
            }),
            // Some network file systems have no locks; two runners on one journal are unlikely.
            Err(TryLockError::Error(_)) => Ok(()),
        }
    }

    /// Path of the journal.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an event. After an error all further events are rejected, so that the file has no
    /// gaps.
    pub fn write(&self, event: &Event) -> Result<(), JournalError> {
        let at = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.write_at(at.saturating_add(self.before), event)
    }

    /// Appends an event that happened at another time, in microseconds since its run started.
    pub fn write_at(&self, at: u64, event: &Event) -> Result<(), JournalError> {
        #[derive(Serialize)]
        struct LineRef<'a> {
            at: u64,
            event: &'a Event,
        }
        let mut line = serde_json::to_vec(&LineRef { at, event })
            .map_err(|source| self.failure(source.into()))?;
        line.push(b'\n');
        let mut append = self.lock();
        if let Some(broken) = append.broken {
            return Err(self.failure(broken.again()));
        }
        match append.file.write_all(&line) {
            Ok(()) => {
                append.length += line.len() as u64;
                Ok(())
            }
            Err(source) => {
                append.broken = Some(Broken::by(&source));
                // Half a line is of no use to anyone. Where even this fails, readers cope.
                let _ = append.file.set_len(append.length);
                Err(self.failure(source))
            }
        }
    }

    /// Whether a write has failed.
    pub fn is_broken(&self) -> bool {
        self.lock().broken.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Append> {
        self.file.lock()
    }

    fn failure(&self, source: std::io::Error) -> JournalError {
        JournalError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

/// Length of a file up to and with its last line end.
fn complete_lines(file: &mut File) -> std::io::Result<u64> {
    let mut length = 0;
    let mut at = 0;
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(length);
        }
        if let Some(last) = piece[..read].iter().rposition(|byte| *byte == b'\n') {
            length = at + last as u64 + 1;
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_once_and_for_all() {
        // /dev/full takes no byte, as a full disk does.
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let journal = Journal::over(full, Path::new("reports/journal.jsonl"), 0, 0);
        let event = Event::RunEnded {
            verdict: Verdict::Pass,
            interrupted: false,
            facts: Vec::new(),
        };
        for _ in 0..2 {
            let error = journal.write(&event).unwrap_err().to_string();
            assert!(error.contains("reports/journal.jsonl"), "{error}");
            assert!(error.contains("No space left on device"), "{error}");
        }
        assert!(journal.is_broken());
    }

    #[test]
    fn a_journal_that_was_cut_off_goes_on_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "{\"whole\":1}\n{\"half").unwrap();
        let journal = Journal::resume(&path, 1_000_000).unwrap();
        assert!(matches!(
            Journal::resume(&path, 0),
            Err(JournalError::Busy { .. })
        ));
        let event = Event::RunEnded {
            verdict: Verdict::Pass,
            interrupted: false,
            facts: Vec::new(),
        };
        journal.write(&event).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "{\"whole\":1}");
        let line: Line = serde_json::from_str(lines[1]).unwrap();
        assert!(line.at >= 1_000_000);
    }

    #[test]
    fn a_journal_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        Journal::create(&path).unwrap();
        assert!(Journal::create(&path).is_err());
    }
}
