//! Runs plans on a host: control, steps, evidence; one guest at a time or several in parallel.
//!
//! Invariant: a run leaves a journal (or events in memory) and evidence; it knows no report.
//!
//! | file | what it does |
//! |---|---|
//! | `context` | what all plans of a run share |
//! | `plan_run` | boots a guest for a plan, does its steps, writes evidence |
//! | `perform` | does the positive control and a step |
//! | `pool` | a few threads that go through a list |
//! | `workers` | runs plans on them |
//! | `hooks` | called around each step; may fix the order of a race |
//! | `confirm` | runs a plan that failed again |
//! | `shared`, `attempt`, `window` | several plans in one guest, each in a stretch of its memory |
//! | `in_memory` | runs a plan and keeps its judgements in memory |
//! | `resume` | continues an interrupted run |
//! | `sink` | receives the events of a run |

mod attempt;
mod confirm;
mod context;
pub mod hooks;
mod in_memory;
mod outcome;
pub mod perform;
mod plan_run;
mod pool;
mod resume;
mod shared;
mod sink;
mod window;
mod workers;

pub use context::{KeepEvidence, MakeOracle, NoProgress, Progress, RunContext, TestCase};
pub use hooks::{Hooks, NoHooks, StepContext};
pub use in_memory::InMemoryRunner;
pub use outcome::{Outcome, PANICKED, PATIENCE, micros, with_help};
pub use pool::in_parallel;
pub use resume::{AnyPlan, Resumable, ResumeError};
pub use sink::{Both, EventSink, PlanResult, skip};
pub use workers::{PoolOptions, or_panicked, run, run_some};
