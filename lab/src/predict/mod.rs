//! What a step must show, worked out from rules on ranges.
//!
//! The predictor never simulates page tables and knows nothing of the soft host: the two share
//! only [`crate::addr`], which is what makes their agreement evidence.

mod expectation;

pub use expectation::{
    AccessOutcome, Content, Expectation, Interval, PageDelta, ProbeRun, ReadPlan, SplitLeaf,
    StatusRun,
};
