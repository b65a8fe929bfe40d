//! The state of TDX according to the kernel log.

use std::io;

use super::messages::{
    Known, Meaning, cure_by_class, cure_by_errno, is_about_tdx, is_registers, is_unknown, message,
};
use crate::doctor::machine::ThisMachine;
use tdxlab_journal::klog::{self, FailedSeamcall};

/// Most lines that are shown of a failure.
const SHOWN: usize = 6;

/// The kernel's messages about TDX.
#[derive(Clone, Debug, Default)]
pub(super) struct TdxLog {
    lines: Vec<String>,
}

/// State of TDX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Story {
    /// No message, or no longer in the log.
    Silence,
    /// The firmware assigned key ids to TDX; no message about the module.
    KeyIds {
        /// The line.
        line: String,
    },
    /// The module was initialised.
    Initialised {
        /// The line.
        line: String,
        /// A failure that does not stop TDX, with its remedy.
        but: Option<Failure>,
    },
    /// TDX stayed off.
    Off(Failure),
    /// Creating a TD failed; TDX itself is not reported as off.
    Trouble(Failure),
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The lines from the cause on.
    pub(super) lines: Vec<String>,
    /// Decoded status of a failed SEAMCALL.
    pub(super) decoded: Option<String>,
    /// Remedy.
    pub(super) cure: String,
}

/// How far a line explains why TDX is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Consequence,
    /// One with an error number.
    Errno,
    Seamcall,
    Cause,
}

impl TdxLog {
    /// That of a machine.
    ///
    /// # Errors
    ///
    /// Its kernel log cannot be read.
    pub(super) fn of(machine: &ThisMachine) -> io::Result<TdxLog> {
        Ok(TdxLog {
            lines: machine.kernel_messages(is_about_tdx)?,
        })
    }

    /// The last line that is not a known message of the set-up of TDX.
    pub(super) fn unknown(&self) -> Option<&str> {
        let failed = |line: &str| klog::failed_seamcall(line).is_some();
        let mut lines = self.lines.iter().rev().map(String::as_str);
        lines.find(|line| is_unknown(line) && !failed(line))
    }

    /// What the last line says that says anything of this kind.
    pub(super) fn newest(&self, read: impl Fn(&str) -> Option<String>) -> Option<String> {
        self.lines.iter().rev().find_map(|line| read(line))
    }

    /// Whether the firmware has given key ids to TDX.
    pub(super) fn has_key_ids(&self) -> bool {
        let says = |meaning| {
            self.lines
                .iter()
                .filter_map(|line| message(line))
                .any(|known| known.meaning == meaning)
        };
        says(Meaning::KeyIds) || says(Meaning::Initialised)
    }

    /// The state of TDX.
    pub(super) fn story(&self) -> Story {
        let initialised = self.last(Meaning::Initialised);
        let since = initialised.map_or(0, |at| at + 1);
        if let Some(failure) = self.failure(since) {
            // A call that failed long after is not why TDX would be off.
            return match (failure.effect, initialised) {
                (Effect::TurnsOff, _) | (Effect::Failed, None) => Story::Off(failure.told),
                (_, Some(at)) => Story::Initialised {
                    line: self.lines[at].clone(),
                    but: Some(failure.told),
                },
                (Effect::NoTd, None) => Story::Trouble(failure.told),
            };
        }
        match (initialised, self.last(Meaning::KeyIds)) {
            (Some(at), _) => Story::Initialised {
                line: self.lines[at].clone(),
                // A SEAMCALL that failed on the way is not forgotten.
                but: self.seamcall(0..at).map(|at| self.told(at, at + 1)),
            },
            (None, Some(at)) => Story::KeyIds {
                line: self.lines[at].clone(),
            },
            (None, None) => Story::Silence,
        }
    }

    fn last(&self, meaning: Meaning) -> Option<usize> {
        self.lines
            .iter()
            .rposition(|line| message(line).is_some_and(|known| known.meaning == meaning))
    }

    fn seamcall(&self, among: std::ops::Range<usize>) -> Option<usize> {
        self.lines[among]
            .iter()
            .rposition(|line| klog::failed_seamcall(line).is_some())
    }

    /// The failure from a line on: the best explanation of the newest, and all lines up to the end.
    fn failure(&self, since: usize) -> Option<Found> {
        let weighed = |at: usize| Some((at, weight(&self.lines[at])?));
        let all: Vec<(usize, Weight)> = (since..self.lines.len()).filter_map(weighed).collect();
        let (end, _) = *all.last()?;
        let best = all.iter().map(|(_, weight)| *weight).max()?;
        let (start, _) = *all.iter().rev().find(|(_, weight)| *weight == best)?;
        let effect = all
            .iter()
            .map(|&(at, weight)| effect(&self.lines[at], weight));
        Some(Found {
            told: self.told(start, end + 1),
            effect: effect.max()?,
        })
    }

    /// The lines from `start` to before `end`, and what to do.
    fn told(&self, start: usize, end: usize) -> Failure {
        // Registers follow a failed call, and belong to it.
        let registers = self.lines[end..]
            .iter()
            .take_while(|line| is_registers(line));
        let lines: Vec<String> = self.lines[start..end]
            .iter()
            .chain(registers)
            .filter(|line| !is_note(line))
            .take(SHOWN)
            .cloned()
            .collect();
        let failed = lines.iter().find_map(|line| klog::failed_seamcall(line));
        let cure = cure(&self.lines[start], failed.as_ref());
        Failure {
            decoded: failed.as_ref().and_then(FailedSeamcall::decoded),
            cure,
            lines,
        }
    }
}

/// A failure and what it means for TDX.
struct Found {
    told: Failure,
    effect: Effect,
}

/// Severity of a failure message, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// One TD could not be made.
    NoTd,
    /// A SEAMCALL failed. Without a word of the module being initialised, it was not.
    Failed,
    /// TDX is off.
    TurnsOff,
}

fn effect(line: &str, weight: Weight) -> Effect {
    match message(line).map(|known| known.meaning) {
        _ if weight == Weight::Seamcall => Effect::Failed,
        Some(Meaning::Trouble) => Effect::NoTd,
        _ => Effect::TurnsOff,
    }
}

fn is_note(line: &str) -> bool {
    message(line).is_some_and(|known| known.meaning == Meaning::Note)
}

fn weight(line: &str) -> Option<Weight> {
    if klog::failed_seamcall(line).is_some_and(|failed| failed.status.is_some()) {
        return Some(Weight::Seamcall);
    }
    match message(line)?.meaning {
        Meaning::Cause | Meaning::Trouble => Some(Weight::Cause),
        Meaning::Consequence if cure_by_errno(line).is_some() => Some(Weight::Errno),
        Meaning::Consequence => Some(Weight::Consequence),
        Meaning::Initialised | Meaning::KeyIds | Meaning::Note => None,
    }
}

/// Remedy for a failure that begins with this line.
fn cure(line: &str, failed: Option<&FailedSeamcall>) -> String {
    const UNKNOWN: &str = "update the TDX module and the firmware; the lines before this one in the \
        kernel log may say more";
    if let Some(status) = failed.and_then(|failed| failed.status) {
        return cure_by_class(status.class()).to_owned();
    }
    match message(line) {
        Some(Known { cure, .. }) if !cure.is_empty() => (*cure).to_owned(),
        _ => cure_by_errno(line).unwrap_or(UNKNOWN).to_owned(),
    }
}

impl Failure {
    /// The lines, quoted, and the decoded status of a failed SEAMCALL.
    pub(super) fn quoted(&self) -> String {
        let lines: Vec<String> = self
            .lines
            .iter()
            .map(|line| format!("\"{line}\""))
            .collect();
        let mut text = lines.join(", then ");
        if let Some(decoded) = &self.decoded {
            text += &format!(" ({decoded})");
        }
        text
    }
}
