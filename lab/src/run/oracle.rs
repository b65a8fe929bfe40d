//! Who says what a step must show.

use super::map::MemoryMap;
use crate::plan::Action;
use crate::predict::Expectation;

/// Follows one plan, step by step. The predictor is one; tests have others.
pub trait Oracle {
    /// What the next step must show; or why nobody can say.
    fn foresee(&mut self, action: &Action) -> Result<Expectation, String>;

    /// How memory must look after the last step that was foreseen.
    fn map(&self) -> MemoryMap;
}
