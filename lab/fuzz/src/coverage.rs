//! Coverage for one design: state of each touched region x operation with its level x alignment of
//! both ends of the range.

use tdxlab_plan::RegionState;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_predict::Predictor;

use super::coverage_model::{ALIGNMENTS, CoverageModel, ENDS, MOST_ROWS, MOST_STATES};

const CELLS: usize = MOST_ROWS * MOST_STATES * ALIGNMENTS;

/// Count of each combination, for one design.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The rows and columns.
    pub model: CoverageModel,
    cells: Vec<u64>,
}

impl Coverage {
    /// An empty map.
    pub fn new(model: CoverageModel) -> Coverage {
        Coverage {
            model,
            cells: vec![0; CELLS],
        }
    }

    /// Count of a combination.
    pub fn count(&self, row: usize, state: usize, alignment: usize) -> u64 {
        let cell = place(row, state, alignment);
        self.cells.get(cell).copied().unwrap_or(0)
    }

    /// Number of combinations that occurred.
    pub fn reached(&self) -> usize {
        self.cells.iter().filter(|count| **count > 0).count()
    }

    /// Counts an operation in memory of these states.
    pub fn add(&mut self, row: usize, states: States, range: GpaRange) {
        let alignment = alignment(range);
        for state in states.each() {
            if let Some(cell) = self.cells.get_mut(place(row, state, alignment)) {
                *cell += 1;
            }
        }
    }

    /// Count of the rarest combination in an operation.
    pub fn rarest(&self, row: usize, states: States, range: GpaRange) -> u64 {
        let alignment = alignment(range);
        let counts = states.each().map(|state| self.count(row, state, alignment));
        counts.min().unwrap_or(u64::MAX)
    }

    /// Adds the counts of another map of the same model.
    pub fn merge(&mut self, other: &Coverage) {
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            *mine += theirs;
        }
    }
}

const fn place(row: usize, state: usize, alignment: usize) -> usize {
    (row * MOST_STATES + state) * ALIGNMENTS + alignment
}

/// A set of states, by their place in the chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u16);

impl States {
    /// The states of the regions of a TD that a range touches, as the predictor knows them.
    pub fn of(predictor: &Predictor, range: GpaRange, memory: GpaRange) -> States {
        States::by(range, memory, |window| state(predictor, window))
    }

    /// The same of a plain VM.
    pub fn of_plain(
        predictor: &Predictor,
        range: GpaRange,
        memory: GpaRange,
        logging: bool,
    ) -> States {
        States::by(range, memory, |window| {
            plain_state(predictor, window, logging)
        })
    }

    fn by(range: GpaRange, memory: GpaRange, state: impl Fn(GpaRange) -> usize) -> States {
        let mut states = States::default();
        for region in range.pages(PageLevel::Size2M).take(MOST_REGIONS) {
            if let Some(window) = region.page(PageLevel::Size2M).intersect(memory) {
                states.0 |= 1 << state(window);
            }
        }
        states
    }

    fn each(self) -> impl Iterator<Item = usize> {
        (0..MOST_STATES).filter(move |state| self.0 & (1 << state) != 0)
    }
}

/// Bound on the regions counted of one range.
const MOST_REGIONS: usize = 8;

/// The state of one region of a TD.
fn state(predictor: &Predictor, region: GpaRange) -> usize {
    const MIXED: usize = 8;
    match predictor.state_all_over(region) {
        None => MIXED,
        Some(RegionState::Empty) => 0,
        Some(RegionState::LeafPending) => 1,
        Some(RegionState::LeafAccepted) => 2,
        Some(RegionState::TableFree) => 3,
        Some(RegionState::PagePending) => 4,
        Some(RegionState::PageAccepted) => 5,
        Some(RegionState::Shared) => 6,
        Some(RegionState::SharedMapped) => 7,
        Some(RegionState::Unknown) => 9,
    }
}

/// The state of one region of a plain VM.
fn plain_state(predictor: &Predictor, region: GpaRange, logging: bool) -> usize {
    let mapped = match predictor.state_all_over(region) {
        Some(RegionState::Empty) => 0,
        Some(RegionState::LeafAccepted) => 3,
        Some(_) => 1,
        None => 2,
    };
    match (mapped, logging) {
        (3, _) | (_, false) => mapped,
        (_, true) => 4 + mapped,
    }
}

fn end(gpa: Gpa) -> usize {
    let page = PageLevel::Size4K.bytes();
    match gpa.as_u64() % PageLevel::Size2M.bytes() {
        0 => 0,
        offset if offset == page || offset == PageLevel::Size2M.bytes() - page => 1,
        _ => 2,
    }
}

fn alignment(range: GpaRange) -> usize {
    end(range.start()) * ENDS.len() + end(range.end())
}
