//! Who says what a step must show.

use super::map::MemoryMap;
use crate::addr::GpaRange;
use crate::plan::Action;
use crate::predict::{Expectation, Predictor};

/// Follows one plan, step by step. The predictor is one; tests have others.
pub trait Oracle {
    /// What the next step must show; or why nobody can say.
    fn foresee(&mut self, action: &Action) -> Result<Expectation, String>;

    /// How `memory` must look after the last step that was foreseen.
    fn map(&self, memory: GpaRange) -> MemoryMap;
}

impl Oracle for Predictor {
    fn foresee(&mut self, action: &Action) -> Result<Expectation, String> {
        self.step(action)
            .map_err(|error| format!("{error}; {}", error.advice))
    }

    fn map(&self, memory: GpaRange) -> MemoryMap {
        let mut extents = self.state_map(memory, MemoryMap::MAX_EXTENTS + 1);
        let cut = extents.len() > MemoryMap::MAX_EXTENTS;
        extents.truncate(MemoryMap::MAX_EXTENTS);
        MemoryMap { extents, cut }
    }
}
