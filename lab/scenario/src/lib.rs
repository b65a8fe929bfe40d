//! Scenarios: YAML files that become plans, or diagnostics that show the line.
//!
//! Invariant: the only crate that reads YAML.
//!
//! A file is read in four passes, each of which reports all it finds:
//!
//! 1. `yaml` reads it, bounded, and keeps the position of every key and value;
//! 2. `shape` checks it against the schema of its own types (`model`, `scalar`): unknown, missing
//!    and doubled keys;
//! 3. `expand` gives every variable its value (`variant`, `expr`) and every range its address
//!    (`guest`, `operation`);
//! 4. [`check()`] checks with the predictor that `expect` can be met.

mod check;
mod draw;
mod error;
mod excerpt;
mod expand;
mod expr;
mod files;
mod guest;
mod header;
mod linux;
mod model;
mod operation;
mod picks;
mod read;
mod read_file;
mod scalar;
mod schema;
mod shape;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod type_schema;
mod variant;
mod vars;
mod yaml;

pub use error::{Problem, ScenarioError, Wrong};
pub use files::{
    embedded, embedded_files, find, find_all, find_linux, is_of_linux, load_linux, named,
};
pub use linux::parse_linux;
pub use read_file::{check, expand, load, parse};
pub use schema::schema;
pub use source::Scenario;
