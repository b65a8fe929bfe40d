//! What is counted of a step, and its values over the repeats.

use crate::model::Numbers;

/// `VARIANT "name" "heading" NUMBERS => COUNT;` for each metric.
macro_rules! metrics {
    ($($(#[$about:meta])* $metric:ident $name:literal $heading:literal $numbers:pat => $count:expr;)*) => {
        /// Something that a step costs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Metric {
            $($(#[$about])* $metric,)*
        }

        impl Metric {
            /// All of them, in the order in which they are printed.
            pub const ALL: &[Metric] = &[$(Metric::$metric),*];

            /// Its name for programs.
            pub const fn name(self) -> &'static str {
                match self { $(Metric::$metric => $name,)* }
            }

            /// The heading of its column.
            pub const fn heading(self) -> &'static str {
                match self { $(Metric::$metric => $heading,)* }
            }

            /// What a step has counted of it; `None` where it could not be seen. Times are not among
            /// the counts.
            pub(super) fn of(self, numbers: &Numbers) -> Option<u64> {
                match (self, numbers) { $((Metric::$metric, $numbers) => $count,)* }
            }
        }
    };
}

metrics! {
    /// VM exits of any kind.
    Exits "exits" "exits" n => n.exits;
    /// EPT violations of type ACCEPT.
    AcceptExits "accept_exits" "ACCEPT exits" n => n.accept_exits;
    /// Other EPT violations on private memory.
    AccessExits "access_exits" "access exits" n => n.access_exits;
    /// Hypercalls.
    Vmcalls "vmcalls" "hypercalls" n => n.vmcalls;
    /// Pages of any size that were AUGed.
    Auged "auged" "AUGs" n => n.auged();
    /// Pages of 4K that were AUGed.
    Auged4K "auged_4k" "AUG 4K" n => n.auged_4k;
    /// Pages of 2M that were AUGed.
    Auged2M "auged_2m" "AUG 2M" n => n.auged_2m;
    /// Pages of 1G that were AUGed.
    Auged1G "auged_1g" "AUG 1G" n => n.auged_1g;
    /// Leaves that were split.
    Splits "splits" "splits" n => n.splits;
    /// Leaves that were zapped.
    Zapped "leaves_zapped" "zaps" n => n.leaves_zapped;
    /// TLB kicks.
    Kicks "tlb_kicks" "kicks" n => n.tlb_kicks;
    /// 4K pages of the guest_memfd that are populated after the step.
    Populated "populated" "guest_memfd" n => n.populated;
    /// 4K pages of shared memory that lie elsewhere after the step.
    SharedApart "shared_apart" "elsewhere" n => n.shared_apart;
    /// Microseconds.
    Micros "micros" "µs" _ => None;
}

impl Metric {
    /// Those that decide whether two steps cost the same.
    pub(super) const COUNTED: [Metric; 6] = [
        Metric::Exits,
        Metric::Vmcalls,
        Metric::Auged4K,
        Metric::Auged2M,
        Metric::Zapped,
        Metric::Kicks,
    ];
}

impl Numbers {
    /// Pages of any size that were AUGed.
    fn auged(&self) -> Option<u64> {
        let large = self.auged_2m?.checked_add(self.auged_1g?)?;
        self.auged_4k?.checked_add(large)
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
