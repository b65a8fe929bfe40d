//! Seeded faults: every known way for KVM or the TDX module to get huge pages wrong, one at a time.
//!
//! A lab that only ever reported "pass" has proved nothing. Each fault is a policy of the software
//! host that makes one decision wrongly, as a real kernel did or could; the default scenario set
//! must catch every one (`tdxlab qualify`).
//!
//! Invariant: nothing but policies of the software KVM and TDX module. Hosts are handed a policy and
//! a name; none knows a fault.
//!
//! [`catalogue`] lists the known failure modes, one per row; the other files hold the faults.
//!
//! | file | what goes wrong |
//! |---|---|
//! | `range` | pages a hole or a conversion covers, and leaves it splits |
//! | `order` | stages in the wrong order, forgotten, or given up half way |
//! | `split` | result of a split |
//! | `accept` | the host's part of ACCEPT |
//! | `level` | the size at which memory is mapped |
//! | `tlb` | translations used after they are gone |
//! | `module` | SEAMCALLs that fail, or are made too early |
//! | `guest` | results reported to the guest, and the content it finds |
//! | `count` | counters and events |
//! | `resource` | allocation failures, errors swallowed, memory kept or lost |

mod accept;
pub mod catalogue;
mod count;
mod guest;
mod level;
mod module;
mod order;
mod range;
mod resource;
mod split;
mod tlb;

use tdxlab_journal::Witness;
use tdxlab_journal::journal::SeededFault;
use tdxlab_softkvm::policy::Policy;

/// One fault of the catalogue.
#[derive(Clone, Copy)]
pub struct Fault {
    /// Name on the command line: `head-split-missing`.
    pub name: &'static str,
    /// The wrong behaviour of a kernel (or module), in one line.
    pub wrong: &'static str,
    /// Where it was seen or feared.
    pub source: &'static str,
    /// Rows of the [`catalogue`] that it seeds; empty if it goes beyond it.
    pub rows: &'static [u8],
    /// The design under which it shows.
    pub design: &'static str,
    /// Witnesses that one would expect to notice, the best one first.
    pub witnesses: &'static [Witness],
    /// Makes a fresh one.
    pub make: fn() -> Box<dyn Policy>,
}

impl Fault {
    /// The fault as a software host takes it: its name for the journal, and a constructor of its
    /// policy.
    pub fn seeded(&self) -> (SeededFault, fn() -> Box<dyn Policy>) {
        let fault = SeededFault {
            name: self.name.to_owned(),
            wrong: self.wrong.to_owned(),
        };
        (fault, self.make)
    }

    /// The rows of the catalogue that it seeds: `rows 20, 22`; empty if it goes beyond it.
    pub fn rows_in_words(&self) -> String {
        let rows: Vec<String> = self.rows.iter().map(u8::to_string).collect();
        match rows.len() {
            0 => String::new(),
            1 => format!("row {}", rows[0]),
            _ => format!("rows {}", rows.join(", ")),
        }
    }
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Faults of the same kind.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    /// What the faults have in common.
    pub about: &'static str,
    /// The faults.
    pub faults: &'static [Fault],
}

/// The catalogue, topic by topic.
pub const TOPICS: &[Topic] = &[
    topic("Which pages, which leaves", range::FAULTS),
    topic("Order of stages", order::FAULTS),
    topic("What a split makes of a leaf", split::FAULTS),
    topic("The host's part of ACCEPT", accept::FAULTS),
    topic("The size of a mapping", level::FAULTS),
    topic("Translations used after they are gone", tlb::FAULTS),
    topic("SEAMCALLs that fail or are left out", module::FAULTS),
    topic(
        "What the guest is told, and the content it finds",
        guest::FAULTS,
    ),
    topic("Counters and events", count::FAULTS),
    topic("Allocation, errors, memory kept or lost", resource::FAULTS),
];

const fn topic(about: &'static str, faults: &'static [Fault]) -> Topic {
    Topic { about, faults }
}

/// Every fault, by topic.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    TOPICS.iter().flat_map(|topic| topic.faults)
}

/// The fault of that name.
pub fn named(name: &str) -> Option<&'static Fault> {
    all().find(|fault| fault.name == name)
}

/// Declares the faults of a file: name, wrong behaviour, source, rows of the catalogue, design,
/// witnesses; then the fields of the policy, if any, and its wrong decisions.
macro_rules! faults {
    ($(
        $name:literal: $wrong:literal
        ($source:literal $(, rows $($row:literal)+)?, under $design:literal, seen by $($witness:ident)+)
        $policy:ident { $($field:ident: $type:ty),* } { $($answers:tt)* }
    )+) => {
        $(
            #[derive(Default)]
            struct $policy { $($field: $type),* }
            impl ::tdxlab_softkvm::policy::Policy for $policy { $($answers)* }
        )+

        /// The faults of this file.
        pub(super) const FAULTS: &[$crate::Fault] = &[$(
            $crate::Fault {
                name: $name,
                wrong: $wrong,
                source: $source,
                rows: &[$($($row),+)?],
                design: $design,
                witnesses: &[$(::tdxlab_journal::Witness::$witness),+],
                make: || Box::new($policy::default()),
            }
        ),+];
    };
}
use faults;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_readable() {
        let mut seen = BTreeSet::new();
        for fault in all() {
            assert!(seen.insert(fault.name), "{} twice", fault.name);
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(fault.name.chars().all(fine), "{}", fault.name);
            assert!(!fault.wrong.ends_with('.'), "{}", fault.name);
            assert!(tdxlab_plan::Design::named(fault.design).is_some());
        }
        assert!(seen.len() >= 60, "only {} faults", seen.len());
    }
}
