//! Dimensions of coverage: operations, states of memory, alignments, and which combinations are
//! possible.

use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::{Design, HostProfile, Op};

use super::ops::{OPERATIONS, PLAIN_OPERATIONS, counted_as};

/// Rows and columns of a coverage map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoverageModel {
    /// For TDs.
    Td,
    /// For plain VMs.
    Plain,
}

/// Names of the states a 2M region of a TD can be in when it is touched.
const STATES: [&str; 10] = [
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

/// Names of the states of a 2M region of a plain VM. While dirty pages are logged, there is no leaf.
const PLAIN_STATES: [&str; 7] = [
    "empty",
    "4K",
    "mixed",
    "2M leaf",
    "empty, logged",
    "4K, logged",
    "mixed, logged",
];

/// Rows and columns of combinations that are not always possible.
const ACCEPT_2M: usize = 1;
const ACCEPT_1G: usize = 2;
const PREFAULT: usize = 18;
const LEAF_PENDING: usize = 1;
const LEAF_ACCEPTED: usize = 2;

/// The row of all operations that race.
pub(super) const RACE: usize = OPERATIONS.len() - 1;

/// Most rows and columns of a chart.
pub(super) const MOST_ROWS: usize = OPERATIONS.len();
pub(super) const MOST_STATES: usize = STATES.len();

/// Alignment of an end of a range: on a 2M boundary, one page beside one, or other.
pub const ENDS: [&str; 3] = ["2M", "2M\u{b1}4K", "4K"];

/// Classes of both ends.
pub const ALIGNMENTS: usize = ENDS.len() * ENDS.len();

impl CoverageModel {
    /// Of the guests of a host.
    pub const fn of(host: HostProfile) -> CoverageModel {
        match host.plain {
            true => CoverageModel::Plain,
            false => CoverageModel::Td,
        }
    }

    /// Names of the rows.
    pub const fn operations(self) -> &'static [&'static str] {
        match self {
            CoverageModel::Td => &OPERATIONS,
            CoverageModel::Plain => &PLAIN_OPERATIONS,
        }
    }

    /// Names of the columns.
    pub const fn states(self) -> &'static [&'static str] {
        match self {
            CoverageModel::Td => &STATES,
            CoverageModel::Plain => &PLAIN_STATES,
        }
    }

    /// The row of an operation that does not race.
    pub fn row(self, op: &Op) -> usize {
        match self {
            CoverageModel::Td => row(&OPERATIONS, op),
            CoverageModel::Plain => row(&PLAIN_OPERATIONS, op),
        }
    }
}

/// The row of this name, or of its first word. An operation without a row is never drawn.
fn row(operations: &[&str], op: &Op) -> usize {
    let name = counted_as(op);
    let first = name.split([' ', ',']).next().unwrap_or(name);
    let at = |name| operations.iter().position(|row| *row == name);
    at(name).or_else(|| at(first)).unwrap_or(0)
}

/// Target of a hunt, which determines the possible combinations.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The host.
    pub host: HostProfile,
    /// The design, emulated or expected.
    pub design: &'static Design,
}

impl Target {
    /// The chart of its guests.
    pub const fn chart(self) -> CoverageModel {
        CoverageModel::of(self.host)
    }

    /// Whether a combination is possible.
    pub fn possible(self, row: usize, state: usize, alignment: usize) -> bool {
        match self.chart() {
            CoverageModel::Td => self.possible_in_td(row, state, alignment),
            CoverageModel::Plain => possible_in_plain_vm(row, state, alignment),
        }
    }

    /// An ACCEPT at 2M or 1G has both ends on 2M boundaries; a design that maps 4K has no 2M
    /// leaves; a VMM without a command for it cannot prefault. All other combinations occurred in
    /// long hunts.
    fn possible_in_td(self, row: usize, state: usize, alignment: usize) -> bool {
        let accepts_leaves = matches!(row, ACCEPT_2M | ACCEPT_1G);
        let in_leaf = matches!(state, LEAF_PENDING | LEAF_ACCEPTED);
        let lies = !accepts_leaves || alignment == 0;
        let is_there = !in_leaf || self.design.private_leaf >= PageLevel::Size2M;
        let is_done = row != PREFAULT || !self.host.fixed_slots;
        lies && is_there && is_done
    }

    /// Number of possible combinations.
    pub fn combinations(self) -> usize {
        let rows = 0..self.chart().operations().len();
        let states = 0..self.chart().states().len();
        let each = rows.flat_map(|row| states.clone().map(move |state| (row, state)));
        each.map(|(row, state)| self.alignments(row, state).count())
            .sum()
    }

    /// The possible alignments of an operation on a state.
    pub fn alignments(self, row: usize, state: usize) -> impl Iterator<Item = usize> {
        (0..ALIGNMENTS).filter(move |alignment| self.possible(row, state, *alignment))
    }
}

fn possible_in_plain_vm(row: usize, state: usize, alignment: usize) -> bool {
    let logged = state >= 4;
    match row {
        0..=5 => true,
        // Logging begins where there was none, and ends where there was.
        6 => !logged && alignment == 0,
        7 => logged && alignment == 0,
        _ => alignment == 0,
    }
}
