//! The state of TDX according to the kernel log.

use std::io;

use tdxlab_journal::klog::{self, FailedSeamcall};
use tdxlab_journal::seamcall::CallStatus;

use super::messages::{
    Known, Meaning, cure_by_class, cure_by_errno, cure_by_loader, is_about_tdx, is_of_kvm,
    is_registers, is_unknown, message,
};
use crate::doctor::machine::ThisMachine;
use crate::tdx_module::in_line;

/// Most lines that are shown of a failure.
const SHOWN: usize = 6;

/// Calls of an update of the module under a running kernel. It was shut down before them, so that TDX is
/// gone if one fails, whatever KVM goes on to offer.
const OF_AN_UPDATE: [&str; 4] = [
    "SEAMLDR.INSTALL",
    "TDH.SYS.UPDATE",
    "TDH.SYS.INIT",
    "TDH.SYS.LP.INIT",
];

/// TDX module 1.0: kernels ask for what 1.5 brought.
const OLD_MODULE: &str = "1.0";
const TOO_OLD: &str = "the TDX module is of version 1.0, and KVM needs 1.5: update it, with the firmware or at boot \
    by the boot loader";

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
    /// An update of the module failed, and TDX is gone until the machine boots again.
    Lost(Failure),
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
                (Effect::Lost, Some(_)) => Story::Lost(failure.told),
                (Effect::TurnsOff, _) | (Effect::Failed | Effect::Lost, None) => {
                    Story::Off(failure.told)
                }
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

    /// The newest failure from a line on: what explains it best, and all lines up to the end.
    fn failure(&self, since: usize) -> Option<Found> {
        let weighed = |at: usize| Some((at, weight(&self.lines[at])?));
        let all: Vec<(usize, Weight)> = (since..self.lines.len()).filter_map(weighed).collect();
        let (end, _) = *all.last()?;
        let (start, best) = self.cause(&all)?;
        // What the lab does not know may be the reason that follows as a bare error number.
        let before = (since..start).rev().find(|&at| !is_note(&self.lines[at]));
        let unknown = before.filter(|&at| best <= Weight::Errno && is_unknown(&self.lines[at]));
        let mut told = self.told(unknown.unwrap_or(start), end + 1);
        if unknown.is_some() {
            let cure = cure(&self.lines[start], None);
            told.cure = format!(
                "the first of these lines says why, and this lab does not know it; else: {cure}"
            );
        }
        let effect = all
            .iter()
            .map(|&(at, weight)| effect(&self.lines[at], weight));
        Some(Found {
            told,
            effect: effect.max()?,
        })
    }

    /// The line that explains a failure best, out of the newest attempt to set TDX up; out of those before
    /// it, too, if the newest says no more than that it failed.
    fn cause(&self, all: &[(usize, Weight)]) -> Option<(usize, Weight)> {
        // KVM's own word ends each attempt.
        let ends_attempt = |&(at, weight): &(usize, Weight)| {
            is_of_kvm(&self.lines[at]) && weight != Weight::Seamcall
        };
        let mut start = all.len();
        loop {
            let earlier = all[..start.saturating_sub(1)]
                .iter()
                .rposition(ends_attempt);
            start = earlier.map_or(0, |at| at + 1);
            let best = all[start..].iter().map(|(_, weight)| *weight).max()?;
            if best > Weight::Consequence || start == 0 {
                let line = all[start..]
                    .iter()
                    .rev()
                    .find(|(_, weight)| *weight == best)?;
                return Some(*line);
            }
        }
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
        let mut told = Failure {
            decoded: failed.as_ref().and_then(FailedSeamcall::decoded),
            cure,
            lines,
        };
        if failed.is_some() {
            self.blame_old_module(start, &mut told);
        }
        told
    }

    /// What a call failed for, if the log names a module that is too old.
    fn blame_old_module(&self, before: usize, told: &mut Failure) {
        let named = |line: &&String| in_line(line).is_some();
        let Some(line) = self.lines[..before].iter().rev().find(named) else {
            return;
        };
        if in_line(line).is_some_and(|version| version.starts_with(OLD_MODULE)) {
            told.lines.insert(0, line.clone());
            TOO_OLD.clone_into(&mut told.cure);
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
    /// One that took the module away, if it was initialised before.
    Lost,
    /// TDX is off.
    TurnsOff,
}

fn effect(line: &str, weight: Weight) -> Effect {
    match message(line).map(|known| known.meaning) {
        _ if weight == Weight::Seamcall => match is_of_update(line) {
            true => Effect::Lost,
            false => Effect::Failed,
        },
        Some(Meaning::Lost) => Effect::Lost,
        Some(Meaning::Trouble) => Effect::NoTd,
        _ => Effect::TurnsOff,
    }
}

fn is_of_update(line: &str) -> bool {
    let name = klog::failed_seamcall(line).and_then(|failed| failed.name);
    name.is_some_and(|name| OF_AN_UPDATE.contains(&name.as_str()))
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
        Meaning::Consequence | Meaning::Lost if cure_by_errno(line).is_some() => {
            Some(Weight::Errno)
        }
        Meaning::Consequence | Meaning::Lost => Some(Weight::Consequence),
        Meaning::Initialised | Meaning::KeyIds | Meaning::Note => None,
    }
}

/// Remedy for a failure that begins with this line.
fn cure(line: &str, failed: Option<&FailedSeamcall>) -> String {
    const UNKNOWN: &str = "update the TDX module and the firmware; the lines before this one in the \
        kernel log may say more";
    match failed.and_then(|failed| failed.status) {
        Some(CallStatus::Module(status)) => return cure_by_class(status.class()).to_owned(),
        Some(CallStatus::Loader(status)) => return cure_by_loader(status.about()).to_owned(),
        None => {}
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
