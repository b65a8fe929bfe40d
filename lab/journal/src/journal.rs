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
use serde::Serialize;
use thiserror::Error;

pub use crate::event::{
    Event, Line, NO_DESIGN, Part, PlanId, RunStarted, SeededFault, SharedGuest, VERSION,
};

/// Name of the journal in a run's folder.
pub const FILE: &str = "journal.jsonl";

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
        let line = line(at, event).map_err(|source| self.failure(source.into()))?;
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

/// An event as a line of a journal.
pub(crate) fn line(at: u64, event: &Event) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct LineRef<'a> {
        at: u64,
        event: &'a Event,
    }
    let mut line = serde_json::to_vec(&LineRef { at, event })?;
    line.push(b'\n');
    Ok(line)
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
    use crate::Verdict;

    #[test]
    fn a_full_disk_is_said_once_and_for_all() {
        // /dev/full takes no byte, as a full disk does.
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let journal = Journal::over(full, Path::new("reports/journal.jsonl"), 0, 0);
        let event = Event::RunEnded {
            verdict: Verdict::Pass,
            interrupted: false,
            stopped: false,
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
            stopped: false,
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
