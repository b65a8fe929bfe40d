//! Rows of the file.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

/// One call, or one step of the environment, with its results. Columns as in the file.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) step: u64,
    pub(crate) options: String,
    pub(crate) module: String,
    pub(crate) setup: String,
    pub(crate) op: String,
    pub(crate) gpa: String,
    pub(crate) level: String,
    pub(crate) args: String,
    pub(crate) state_before: String,
    pub(crate) outcome: String,
    pub(crate) rax: String,
    pub(crate) exit_reason: String,
    pub(crate) exit_gpa: String,
    pub(crate) exit_qual: String,
    pub(crate) eeq: String,
    pub(crate) vector: String,
    pub(crate) state_after: String,
    pub(crate) out_rcx: String,
    pub(crate) out_rdx: String,
    pub(crate) note: String,
}

impl Row {
    /// The step in words: operation, then its operands.
    pub(crate) fn words(&self) -> Vec<&str> {
        [&self.op, &self.gpa, &self.level, &self.args]
            .into_iter()
            .flat_map(|column| column.split_whitespace())
            .collect()
    }

    /// The result columns, by name.
    pub(crate) fn results(&self) -> [(&'static str, &str); 12] {
        [
            ("state_before", &self.state_before),
            ("outcome", &self.outcome),
            ("rax", &self.rax),
            ("exit_reason", &self.exit_reason),
            ("exit_gpa", &self.exit_gpa),
            ("exit_qual", &self.exit_qual),
            ("eeq", &self.eeq),
            ("vector", &self.vector),
            ("state_after", &self.state_after),
            ("out_rcx", &self.out_rcx),
            ("out_rdx", &self.out_rdx),
            ("note", &self.note),
        ]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} step {} [{}] {}: {}; {}",
            self.case,
            self.step,
            self.options,
            self.module,
            self.setup,
            self.words().join(" ")
        )
    }
}

/// Reads a file of rows.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>, csv::Error> {
    csv::Reader::from_path(path)?.deserialize().collect()
}
