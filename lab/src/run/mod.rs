//! Executes plans, judges every step, keeps the journal.

pub mod judge;
pub mod names;
pub mod verdict;

pub use judge::{AllowList, ContentSpan, Evidence, Judge, PageClass};
pub use verdict::{Finding, FindingKind, Judgement, MissingWitness, Verdict, Witness};
