//! Lines of a trace file of tracefs, and what they have in common.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tdxlab_journal::Reading;

/// Longest line. The kernel's own are below 200 bytes.
const MAX_LINE: usize = 4096;

/// Reads the lines of a trace file from where the previous reading ended.
#[derive(Debug)]
pub(crate) struct TraceLines {
    path: PathBuf,
    file: Result<File, String>,
    /// The beginning of a line whose end is not there yet.
    unread: Vec<u8>,
}

impl TraceLines {
    /// Opens a trace file. That it cannot be opened shows in every reading.
    pub(crate) fn open(path: PathBuf) -> TraceLines {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(|error| error.to_string());
        TraceLines {
            path,
            file,
            unread: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives every line to `take`, which returns what is wrong with it. After the first such line
    /// the reading is incomplete, and the rest is read all the same, so that the next one starts
    /// clean.
    pub(crate) fn read(&mut self, mut take: impl FnMut(&str) -> Result<(), String>) -> Reading<()> {
        let told = |reason: &str| format!("{}: {reason}", self.path.display());
        let file = match &mut self.file {
            Ok(file) => file,
            Err(reason) => return Reading::missing(told(reason)),
        };
        let mut trouble = None;
        let mut buffer = [0; 16 << 10];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Reading::incomplete(told(&error.to_string())),
            };
            for &byte in &buffer[..count] {
                if byte != b'\n' {
                    if self.unread.len() < MAX_LINE {
                        self.unread.push(byte);
                    } else {
                        trouble.get_or_insert_with(|| "a line without end".to_owned());
                    }
                    continue;
                }
                if let Err(reason) = take(&String::from_utf8_lossy(&self.unread)) {
                    trouble.get_or_insert(reason);
                }
                self.unread.clear();
            }
        }
        match trouble {
            Some(reason) => Reading::incomplete(told(&reason)),
            None => Reading::Read(()),
        }
    }

    /// Reads the lines up to now and checks that `mark`, which was written just now, is among them, as
    /// its own thread's: the positive control of all events, and of the threads that they name. The other
    /// lines are given to `take`, as in [`TraceLines::read`].
    pub(crate) fn saw(
        &mut self,
        mark: &Mark,
        mut take: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<(), NoMark> {
        let mut seen = None;
        let read = self.read(|line| match line.ends_with(&mark.text) {
            true => {
                seen = Some(parse_context(line).map(|(tid, _)| tid));
                Ok(())
            }
            false => take(line),
        });
        let told = |reason: String| format!("{}: {reason}", self.path.display());
        match (read, seen) {
            (Reading::Missing { reason } | Reading::Incomplete { reason, .. }, _) => {
                Err(NoMark::Lost(reason))
            }
            (Reading::Read(()), Some(Some(tid))) if tid == mark.thread => Ok(()),
            (Reading::Read(()), Some(Some(tid))) => Err(NoMark::Elsewhere(told(format!(
                "what thread {} writes comes out as of thread {tid}: this lab is in a PID namespace of its \
                 own, and the kernel's trace has the numbers of the first one, so that nobody can say whose \
                 an event is; run the lab outside of the container, or give that the host's PID namespace \
                 (--pid=host)",
                mark.thread
            )))),
            (Reading::Read(()), Some(None)) => Err(NoMark::Lost(told(
                "a line that was written into the trace comes out without its thread".to_owned(),
            ))),
            (Reading::Read(()), None) => Err(NoMark::Lost(told(
                "a line that was written into the trace did not come out of it; is tracing_on 1 there?"
                    .to_owned(),
            ))),
        }
    }
}

/// A line that a thread of the lab writes into a trace.
#[derive(Debug)]
pub(crate) struct Mark {
    /// What nobody else writes.
    pub(crate) text: String,
    /// Who writes it, by its number in the lab's own PID namespace.
    pub(crate) thread: u32,
}

impl Mark {
    /// Of the thread that calls.
    pub(crate) fn of_this_thread(text: String) -> Mark {
        Mark {
            text,
            thread: nix::unistd::gettid().as_raw().cast_unsigned(),
        }
    }
}

/// Why a mark does not show that events would be seen; in words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoMark {
    /// It did not come out, so that events may not either.
    Lost(String),
    /// It came out as another thread's, as all events would.
    Elsewhere(String),
}

impl NoMark {
    /// In words.
    pub(crate) fn into_reason(self) -> String {
        match self {
            NoMark::Lost(reason) | NoMark::Elsewhere(reason) => reason,
        }
    }
}

/// What is said of lost events.
pub(crate) fn lost(count: Option<u64>) -> String {
    match count {
        Some(count) => format!("the ring buffer lost {count} events"),
        None => "the ring buffer lost events".to_owned(),
    }
}

/// `CPU:1 [LOST 12 EVENTS]` or `CPU:1 [LOST EVENTS]`.
pub(crate) fn parse_lost(line: &str) -> Option<Option<u64>> {
    let rest = line.strip_prefix("CPU:")?;
    let (cpu, rest) = rest.split_once(" [LOST ")?;
    cpu.parse::<u32>().ok()?;
    match rest {
        "EVENTS]" => Some(None),
        _ => Some(Some(rest.strip_suffix(" EVENTS]")?.parse().ok()?)),
    }
}

/// Splits `comm-tid [cpu] flags time: event` into tid and event. The name of a task may hold
/// anything, `[` and `-` included, so the first `[cpu]` that has a thread id before it counts.
pub(crate) fn parse_context(line: &str) -> Option<(u32, &str)> {
    line.match_indices('[').find_map(|(at, _)| {
        let (cpu, rest) = line[at + 1..].split_once(']')?;
        cpu.parse::<u32>().ok()?;
        // With the option record-tgid, the thread group follows the thread in parentheses.
        let task = line[..at].trim_end();
        let task = match task.rsplit_once('(') {
            Some((task, group)) if group.ends_with(')') => task.trim_end(),
            _ => task,
        };
        let tid = task.rsplit_once('-')?.1.parse().ok()?;
        let (context, event) = rest.split_once(": ")?;
        let time = context.split_whitespace().next_back()?;
        time.starts_with(|c: char| c.is_ascii_digit())
            .then_some((tid, event))
    })
}
