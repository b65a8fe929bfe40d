//! Reads a journal back, whole or cut off.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::input;
use super::journal::{Event, FILE, JournalError, Line, RunStarted, VERSION};

/// Longest line that is read. The longest that are written hold the results of a step that went
/// differently on every page.
const LONGEST_LINE: u64 = 256 << 20;

/// A journal, line by line.
pub struct JournalReader {
    lines: Lines,
    head: RunStarted,
}

impl std::fmt::Debug for JournalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording")
            .field("path", &self.lines.path)
            .field("line", &self.lines.number)
            .finish_non_exhaustive()
    }
}

impl JournalReader {
    /// Opens a journal and reads its first line.
    pub fn open(path: &Path) -> Result<JournalReader, JournalError> {
        let file = input::open(path).map_err(|source| JournalError::Read {
            path: path.to_owned(),
            source,
        })?;
        JournalReader::over(BufReader::new(file), path)
    }

    /// Opens the journal in the folder of a run, or a journal.
    pub fn of_run(what: &Path) -> Result<JournalReader, JournalError> {
        let inside = what.join(FILE);
        match inside.try_exists() {
            Ok(true) => JournalReader::open(&inside),
            _ if what.is_dir() => Err(JournalError::Read {
                path: inside,
                source: io::Error::from_raw_os_error(libc::ENOENT),
            }),
            _ => JournalReader::open(what),
        }
    }

    /// Reads the first line of a journal from anywhere; `path` is for messages.
    pub fn over(
        reader: impl BufRead + Send + 'static,
        path: &Path,
    ) -> Result<JournalReader, JournalError> {
        let mut lines = Lines {
            path: path.to_owned(),
            reader: Box::new(reader),
            number: 0,
            cut: false,
        };
        let Some(first) = lines.next()? else {
            return Err(JournalError::Empty {
                path: path.to_owned(),
            });
        };
        lines.check_version(&first)?;
        match lines.parse(&first)?.event {
            Event::RunStarted(head) => Ok(JournalReader { lines, head }),
            _ => Err(lines.garbled("the first event must be run_started")),
        }
    }

    /// Head of the run.
    pub fn head(&self) -> &RunStarted {
        &self.head
    }

    /// Whether the last line was cut off. Known once all lines were read.
    pub fn was_cut(&self) -> bool {
        self.lines.cut
    }

    /// The next event; `None` at the end, or where the last line is cut off.
    pub fn next_line(&mut self) -> Result<Option<Line>, JournalError> {
        match self.lines.next()? {
            Some(text) => self.lines.parse(&text).map(Some),
            None => Ok(None),
        }
    }
}

/// The complete lines of a file. An event is complete when its line end is written.
struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    number: usize,
    cut: bool,
}

impl Lines {
    fn next(&mut self) -> Result<Option<Vec<u8>>, JournalError> {
        let mut text = Vec::new();
        self.reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut text)
            .map_err(|source| JournalError::Read {
                path: self.path.clone(),
                source,
            })?;
        if text.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if text.pop() != Some(b'\n') {
            if text.len() as u64 + 1 >= LONGEST_LINE {
                return Err(self.garbled("it does not end"));
            }
            self.cut = true;
            return Ok(None);
        }
        Ok(Some(text))
    }

    fn parse(&self, text: &[u8]) -> Result<Line, JournalError> {
        serde_json::from_slice(text).map_err(|error| self.garbled(&error.to_string()))
    }

    /// Checked before the rest, whose format may have changed.
    fn check_version(&self, first: &[u8]) -> Result<(), JournalError> {
        #[derive(Deserialize)]
        struct Versioned {
            event: Head,
        }
        #[derive(Deserialize)]
        struct Head {
            run_started: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let head: Versioned =
            serde_json::from_slice(first).map_err(|error| self.garbled(&error.to_string()))?;
        let found = head.event.run_started.version;
        if found == u64::from(VERSION) {
            Ok(())
        } else {
            Err(JournalError::Version {
                path: self.path.clone(),
                found,
            })
        }
    }

    fn garbled(&self, reason: &str) -> JournalError {
        JournalError::Garbled {
            path: self.path.clone(),
            line: self.number,
            reason: reason.to_owned(),
        }
    }
}
