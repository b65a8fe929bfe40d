//! Reports made from a journal: the summary on the terminal, and files in several formats.
//!
//! Invariant: reads only the journal. This crate names plans, journals and the protocol.
//!
//! `build` makes a [`Report`] from a journal; each format has a file that renders it.

mod build;
pub mod cost;
pub mod diff;
mod ends;
mod files;
pub mod github;
pub mod html;
pub mod junit;
pub mod kcidb;
pub mod kernels;
pub mod ktap;
pub mod ktap_stream;
pub mod lava;
pub mod merge;
mod model;
mod observed;
pub mod table;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod timeline;
pub mod trend;
mod work;

pub use build::{by_topic, from_journal, from_recording, topic};
pub use files::{REPORT_FILES, write_all};
pub use model::{
    Confirmation, ContentReport, ControlReport, Fact, FindingReport, Numbers, Report,
    ScenarioReport, StepReport, StepWork, VERSION, VerdictCounts, schema,
};
