//! What is made of a journal: the summary on the terminal, and files for people and machines.
//!
//! `build` makes a [`Report`] of a journal; every format is made from that, by one file each.

mod build;
mod files;
pub mod junit;
pub mod ktap;
mod model;
mod seen;
pub mod table;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod words;

pub use build::{by_topic, from_journal};
pub use files::{REPORT_FILES, write_all};
pub use model::{
    ContentReport, ControlReport, Fact, FindingReport, Numbers, Report, ScenarioReport, StepReport,
    VERSION, VerdictCounts, schema,
};
