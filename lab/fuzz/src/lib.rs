//! Random scenarios worth running: plans drawn by the state of memory and by coverage so far,
//! judged step by step, and shrunk if they fail.
//!
//! Invariant: plans are judged by the same steps as in a run.
//!
//! | file | what it does |
//! |---|---|
//! | `harness` | a guest, its predictor and its judge, without files and journal |
//! | `draw` | draws guests and steps |
//! | `places` | draws ranges: boundaries, one page around them |
//! | `plain` | draws guests and steps of plain VMs |
//! | `coverage_model` | operations, states, alignments, and possible combinations |
//! | `coverage` | how often each occurred |
//! | `table` | the counts as a table with its holes |
//! | `shrink`, `reductions` | the smallest plan that fails for the same witness |
//! | `yaml` | a plan as a scenario file |
//! | `campaign` | draws plans until one fails or time is up |
//! | `qualify` | shows that the default set catches every seeded fault |
//! | `shared_guest` | many plans in one guest, each in its own memory |

mod campaign;
pub mod coverage;
mod coverage_model;
mod draw;
pub mod harness;
mod ops;
mod places;
mod plain;
pub mod qualify;
mod reductions;
mod shared_guest;
mod shrink;
mod steps;
mod table;
#[cfg(test)]
mod tests;
mod yaml;

pub use campaign::{
    Budget, CONFIRMATIONS, Found, Fuzz, FuzzError, FuzzProgress, Interrupted, Outcome, most_guests,
};
pub use coverage::Coverage;
pub use coverage_model::{ALIGNMENTS, CoverageModel, ENDS, Target};
pub use draw::{CANDIDATES, Draw};
pub use harness::{Failure, Harness, Orders, Part, Stepped, attempt};
pub use plain::left_out;
pub use shrink::{Shrunk, setup, shrink};
pub use table::{chart, markdown};
pub use yaml::scenario;
