//! Kernel messages during a step.

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_journal::{Reading, klog};
use thiserror::Error;

use super::findings::Findings;

/// Known lines of the kernel log that are allowed.
///
/// One text per line; a log line passes if it contains it. Empty lines and lines that start with
/// `#` are ignored.
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
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
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

/// Every complaint of the kernel that is not allowed is a finding, though others may be lost.
pub(super) fn lines(reading: &Reading<Vec<String>>, allowed: &AllowList, findings: &mut Findings) {
    findings.one(Witness::KernelLog, reading);
    for line in reading.left().into_iter().flatten() {
        let Some(complaint) = klog::complaint(line).filter(|_| !allowed.passes(line)) else {
            continue;
        };
        findings.find(Finding::wrong(
            Witness::KernelLog,
            "no complaint of the kernel",
            complaint.of(line),
        ));
    }
}
