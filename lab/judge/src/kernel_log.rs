//! What the kernel said in the window of a step.

use tdxlab_journal::Sample;
use tdxlab_journal::verdict::{Finding, Witness};
use thiserror::Error;

use super::findings::Findings;

/// What a kernel prints when something of it is broken, and what to call it.
const SPLATS: &[(&str, &str)] = &[
    ("WARNING: possible circular locking", "lockdep splat"),
    ("WARNING: possible recursive locking", "lockdep splat"),
    ("WARNING: possible irq lock inversion", "lockdep splat"),
    ("WARNING: inconsistent lock state", "lockdep splat"),
    ("WARNING: suspicious RCU usage", "lockdep splat"),
    ("INFO: possible", "lockdep splat"),
    ("INFO: task ", "hung task"),
    ("WARNING: ", "WARN"),
    ("kernel BUG at", "BUG"),
    ("BUG: ", "BUG"),
    ("Oops: ", "oops"),
    ("general protection fault", "oops"),
    ("UBSAN: ", "UBSAN splat"),
    ("new suspected memory leaks", "memory leak"),
    ("Kernel panic", "panic"),
    ("rcu: INFO: rcu_", "RCU stall"),
    ("watchdog: ", "watchdog"),
];

/// Lines of the kernel log that are known and let pass.
///
/// One text per line; a log line passes if it contains it. Empty lines and lines that start with
/// `#` say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    texts: Vec<String>,
}

/// An allow list that would hide everything.
#[derive(Debug, Error, miette::Diagnostic)]
#[error("line {line} of the allow list is {text:?}, which would let nearly every log line pass")]
#[diagnostic(help(
    "write at least {} characters of the line that is to pass",
    AllowList::SHORTEST
))]
pub struct AllowListError {
    line: usize,
    text: String,
}

impl AllowList {
    const SHORTEST: usize = 8;

    /// Reads an allow list.
    pub fn parse(text: &str) -> Result<AllowList, AllowListError> {
        let mut texts = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.chars().count() < Self::SHORTEST {
                return Err(AllowListError {
                    line: index + 1,
                    text: line.to_owned(),
                });
            }
            texts.push(line.to_owned());
        }
        Ok(AllowList { texts })
    }

    /// The texts.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    fn passes(&self, line: &str) -> bool {
        self.texts.iter().any(|text| line.contains(text.as_str()))
    }
}

/// Every splat that is not allowed is a finding.
pub(super) fn lines(sample: &Sample, allowed: &AllowList, findings: &mut Findings) {
    let Some(lines) = findings.one(Witness::KernelLog, &sample.kernel_log) else {
        return;
    };
    for line in lines {
        if let Some(what) = splat(line)
            && !allowed.passes(line)
        {
            findings.find(Finding::wrong(
                Witness::KernelLog,
                "no complaint of the kernel",
                format!("{what}: {}", line.trim()),
            ));
        }
    }
}

fn splat(line: &str) -> Option<&'static str> {
    SPLATS
        .iter()
        .find(|(text, _)| line.contains(text))
        .map(|(_, what)| *what)
}
