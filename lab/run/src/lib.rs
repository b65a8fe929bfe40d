//! Plans on a host: control, steps, evidence, one guest after the other or several side by side.
//!
//! Invariant: a run leaves a journal (or events in memory) and evidence; it knows no report.
//!
//! | file | what it does |
//! |---|---|
//! | `executor` | boots a guest for a plan, does its steps, leaves evidence |
//! | `perform` | does the positive control and a step |
//! | `workers` | takes plan after plan with a few workers |
//! | `hooks` | somebody who looks on between steps |
//! | `confirm` | runs a plan that failed again |
//! | `trial` | runs a plan and says what is said of it, without any files |
//! | `resume` | the rest of a run that was ended early |
//! | `scribe` | whoever takes events down |

mod confirm;
pub mod executor;
pub mod hooks;
mod in_memory;
pub mod perform;
mod resume;
mod sink;
mod workers;

use std::time::Duration;

pub use executor::{KeepEvidence, MakeOracle, NoProgress, Outcome, Progress, RunContext, TestCase};
pub use hooks::{Hooks, NoHooks, StepContext};
pub use in_memory::InMemoryRunner;
pub use resume::{Resumable, ResumeError};
pub use sink::{EventSink, PlanResult};
pub use workers::{PANICKED, PoolOptions, run, run_some};

/// Longest a single operation may take, unless said otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);
