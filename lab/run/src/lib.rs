//! Plans on a host: control, steps, evidence, one guest after the other or several side by side.
//!
//! Invariant: a run leaves a journal (or events in memory) and evidence; it knows no report.
//!
//! | file | what it does |
//! |---|---|
//! | `executor` | boots a guest for a plan, does its steps, leaves evidence |
//! | `pool` | takes plan after plan with a few workers |
//! | `guide` | somebody who looks on between steps |
//! | `confirm` | runs a plan that failed again |
//! | `trial` | runs a plan and says what is said of it, without any files |
//! | `resume` | the rest of a run that was ended early |
//! | `scribe` | whoever takes events down |

mod confirm;
pub mod executor;
pub mod guide;
mod pool;
mod resume;
mod scribe;
mod trial;

use std::time::Duration;

pub use executor::{Item, Keep, Lab, MakeOracle, Outcome, Silence, Watcher};
pub use guide::{Guide, Stand, Unguided};
pub use pool::{Drive, PANICKED, run, run_some};
pub use resume::{Progress, ResumeError};
pub use scribe::{Scribe, Tried};
pub use trial::Trial;

/// Longest a single operation may take, unless said otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);
