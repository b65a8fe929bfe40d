//! What is counted of a step, and its values over the repeats.

use crate::model::Numbers;

/// Something that a step costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// VM exits of any kind.
    Exits,
    /// EPT violations of type ACCEPT.
    AcceptExits,
    /// Other EPT violations on private memory.
    AccessExits,
    /// Hypercalls.
    Vmcalls,
    /// Pages of any size that were AUGed.
    Auged,
    /// Pages of 4K that were AUGed.
    Auged4K,
    /// Pages of 2M that were AUGed.
    Auged2M,
    /// Pages of 1G that were AUGed.
    Auged1G,
    /// Leaves that were split.
    Splits,
    /// Leaves that were zapped.
    Zapped,
    /// TLB kicks.
    Kicks,
    /// 4K pages of the guest_memfd that are populated after the step.
    Populated,
    /// 4K pages of shared memory that lie elsewhere after the step.
    SharedApart,
    /// Microseconds.
    Micros,
}

impl Metric {
    /// All of them, in the order in which they are printed.
    pub const ALL: [Metric; 14] = [
        Metric::Exits,
        Metric::AcceptExits,
        Metric::AccessExits,
        Metric::Vmcalls,
        Metric::Auged,
        Metric::Auged4K,
        Metric::Auged2M,
        Metric::Auged1G,
        Metric::Splits,
        Metric::Zapped,
        Metric::Kicks,
        Metric::Populated,
        Metric::SharedApart,
        Metric::Micros,
    ];

    /// Those that decide whether two steps cost the same.
    pub(super) const COUNTED: [Metric; 6] = [
        Metric::Exits,
        Metric::Vmcalls,
        Metric::Auged4K,
        Metric::Auged2M,
        Metric::Zapped,
        Metric::Kicks,
    ];

    /// Its name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Exits => "exits",
            Metric::AcceptExits => "accept_exits",
            Metric::AccessExits => "access_exits",
            Metric::Vmcalls => "vmcalls",
            Metric::Auged => "auged",
            Metric::Auged4K => "auged_4k",
            Metric::Auged2M => "auged_2m",
            Metric::Auged1G => "auged_1g",
            Metric::Splits => "splits",
            Metric::Zapped => "leaves_zapped",
            Metric::Kicks => "tlb_kicks",
            Metric::Populated => "populated",
            Metric::SharedApart => "shared_apart",
            Metric::Micros => "micros",
        }
    }

    /// The heading of its column.
    pub const fn heading(self) -> &'static str {
        match self {
            Metric::Exits => "exits",
            Metric::AcceptExits => "ACCEPT exits",
            Metric::AccessExits => "access exits",
            Metric::Vmcalls => "hypercalls",
            Metric::Auged => "AUGs",
            Metric::Auged4K => "AUG 4K",
            Metric::Auged2M => "AUG 2M",
            Metric::Auged1G => "AUG 1G",
            Metric::Splits => "splits",
            Metric::Zapped => "zaps",
            Metric::Kicks => "kicks",
            Metric::Populated => "guest_memfd",
            Metric::SharedApart => "elsewhere",
            Metric::Micros => "µs",
        }
    }

    /// What a step has counted of it; `None` where it could not be seen. Times are not among the
    /// counts.
    pub(super) fn of(self, numbers: &Numbers) -> Option<u64> {
        match self {
            Metric::Exits => numbers.exits,
            Metric::AcceptExits => numbers.accept_exits,
            Metric::AccessExits => numbers.access_exits,
            Metric::Vmcalls => numbers.vmcalls,
            Metric::Auged => {
                let large = numbers.auged_2m?.checked_add(numbers.auged_1g?)?;
                numbers.auged_4k?.checked_add(large)
            }
            Metric::Auged4K => numbers.auged_4k,
            Metric::Auged2M => numbers.auged_2m,
            Metric::Auged1G => numbers.auged_1g,
            Metric::Splits => numbers.splits,
            Metric::Zapped => numbers.leaves_zapped,
            Metric::Kicks => numbers.tlb_kicks,
            Metric::Populated => numbers.populated,
            Metric::SharedApart => numbers.shared_apart,
            Metric::Micros => None,
        }
    }
}

/// Values over the repeats of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many there are.
    pub repeats: usize,
}

impl Spread {
    /// `None` of no values.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Spread {
            median,
            min,
            max,
            repeats: values.len(),
        })
    }

    /// From the smallest to the largest.
    pub fn width(&self) -> f64 {
        self.max - self.min
    }
}
