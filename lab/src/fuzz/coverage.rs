//! What has been exercised: the state of each touched region x the operation with its level x how
//! both ends of the range are aligned, for one design.

use serde::Serialize;

use crate::addr::{Gpa, GpaRange, PageLevel};
use crate::plan::{AccessKind, Gone, OnVe, Op, Side, Size};
use crate::predict::{Predictor, RegionState};

/// Names of the states a 2M region can be in when it is touched.
pub const STATES: [&str; 10] = [
    "empty",
    "2M pending",
    "2M accepted",
    "table",
    "4K pending",
    "4K accepted",
    "shared",
    "shared 4K",
    "mixed",
    "raced",
];

/// Names of operations.
pub const OPERATIONS: [&str; 20] = [
    "accept 4K",
    "accept 2M",
    "accept linux",
    "touch read",
    "touch write",
    "touch, accepting",
    "touch shared",
    "fill",
    "fill shared",
    "verify",
    "verify ends",
    "verify every",
    "verify shared",
    "convert to shared",
    "convert to private",
    "probe",
    "punch",
    "prefault",
    "allocate",
    "in a race",
];

/// Rows of the map.
pub const ROWS: usize = OPERATIONS.len();

/// How an end of a range lies: on a 2M boundary, one page beside one, or anywhere else.
pub const ENDS: [&str; 3] = ["2M", "2M\u{b1}4K", "4K"];

/// Classes of both ends.
pub const ALIGNMENTS: usize = ENDS.len() * ENDS.len();

const CELLS: usize = ROWS * STATES.len() * ALIGNMENTS;

/// How often each combination came, for one design.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    cells: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage {
            cells: vec![0; CELLS],
        }
    }
}

impl Coverage {
    /// How often a combination came.
    pub fn count(&self, row: usize, state: usize, alignment: usize) -> u64 {
        let cell = place(row, state, alignment);
        self.cells.get(cell).copied().unwrap_or(0)
    }

    /// Combinations that came at least once.
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

    /// How often the rarest combination came that an operation would come to.
    pub fn rarest(&self, row: usize, states: States, range: GpaRange) -> u64 {
        let alignment = alignment(range);
        let counts = states.each().map(|state| self.count(row, state, alignment));
        counts.min().unwrap_or(u64::MAX)
    }

    /// Takes in what another has counted.
    pub fn merge(&mut self, other: &Coverage) {
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            *mine += theirs;
        }
    }
}

const fn place(row: usize, state: usize, alignment: usize) -> usize {
    (row * STATES.len() + state) * ALIGNMENTS + alignment
}

/// A set of states, by their place in [`STATES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u16);

impl States {
    /// The states of the regions a range touches, as the predictor knows them.
    pub fn of(predictor: &Predictor, range: GpaRange, memory: GpaRange) -> States {
        let mut states = States::default();
        for region in range.pages(PageLevel::Size2M).take(MOST_REGIONS) {
            if let Some(window) = region.page(PageLevel::Size2M).intersect(memory) {
                states.0 |= 1 << state(predictor, window);
            }
        }
        states
    }

    fn each(self) -> impl Iterator<Item = usize> {
        (0..STATES.len()).filter(move |state| self.0 & (1 << state) != 0)
    }
}

/// Most regions of one range that are looked at.
const MOST_REGIONS: usize = 8;

/// The state of one region.
fn state(predictor: &Predictor, region: GpaRange) -> usize {
    const MIXED: usize = 8;
    match predictor.state_map(region, 2).as_slice() {
        [] => 0,
        [(range, one)] if *range == region => match one {
            RegionState::Empty => 0,
            RegionState::LeafPending => 1,
            RegionState::LeafAccepted => 2,
            RegionState::TableFree => 3,
            RegionState::PagePending => 4,
            RegionState::PageAccepted => 5,
            RegionState::Shared => 6,
            RegionState::SharedMapped => 7,
            RegionState::Unknown => 9,
        },
        _ => MIXED,
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

/// The row of an operation that does not race.
pub fn row(op: &Op) -> usize {
    match op {
        Op::Accept { size, .. } => match size {
            Size::Size4K => 0,
            Size::Size2M | Size::Size1G => 1,
            Size::Linux => 2,
        },
        Op::Touch {
            side: Side::Shared, ..
        } => 6,
        Op::Touch {
            on_ve: OnVe::Accept,
            ..
        } => 5,
        Op::Touch { access, .. } => match access {
            AccessKind::Read => 3,
            AccessKind::Write => 4,
        },
        Op::Fill { side, .. } => match side {
            Side::Private => 7,
            Side::Shared => 8,
        },
        Op::Verify {
            side: Side::Shared, ..
        } => 12,
        Op::Verify { gone, .. } => match gone {
            Gone::Skip => 9,
            Gone::Ends => 10,
            Gone::Every => 11,
        },
        Op::Convert { to, .. } => match to {
            Side::Shared => 13,
            Side::Private => 14,
        },
        Op::Probe { .. } => 15,
        Op::Punch { .. } => 16,
        Op::Prefault { .. } => 17,
        Op::Allocate { .. } | Op::DirtyLog { .. } | Op::Stop | Op::Cont => 18,
    }
}

/// The row of all operations that race.
pub const RACE: usize = ROWS - 1;

/// Whether a combination can come at all: an ACCEPT at 2M has both ends on 2M boundaries.
pub const fn possible(row: usize, alignment: usize) -> bool {
    row != 1 || alignment == 0
}
