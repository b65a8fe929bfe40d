//! Known failure modes of S-EPT huge pages, one per row: bugs, races and risks named in the public
//! review of the patch series from 2022 to 2026.
//!
//! Each row is covered by faults that name it, or by scenarios, or says why a software host cannot
//! emulate it. A test checks this.

use super::{Fault, all};

/// How a row can be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A defect that can be seeded.
    Fault,
    /// A risky situation: it takes a scenario.
    Scenario,
    /// Both.
    Both,
}

impl Kind {
    /// Its letters in a table.
    pub const fn letters(self) -> &'static str {
        match self {
            Kind::Fault => "F",
            Kind::Scenario => "S",
            Kind::Both => "S, F",
        }
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its number, from 1.
    pub row: u8,
    /// How it is covered.
    pub kind: Kind,
    /// One-line description.
    pub about: &'static str,
    /// Scenarios of the default set that bring it about.
    pub scenarios: &'static [&'static str],
    /// The part that cannot be emulated, and why.
    pub not_played: Option<&'static str>,
}

impl Known {
    /// The faults that seed it.
    pub fn faults(&self) -> impl Iterator<Item = &'static Fault> {
        all().filter(|fault| fault.rows.contains(&self.row))
    }
}

/// `ROW KIND ABOUT;`, with `by SCENARIO...` where scenarios of the default set bring it about, and
/// `not WHY` where a part of it cannot be emulated.
macro_rules! rows {
    ($($row:literal $kind:ident $about:literal $(by $($scenario:literal)+)? $(not $why:literal)?;)*) => {
        &[$(Known {
            row: $row,
            kind: $kind,
            about: $about,
            scenarios: &[$($($scenario),+)?],
            not_played: rows!(@ $($why)?),
        }),*]
    };
    (@ $why:literal) => { Some($why) };
    (@) => { None };
}

use Kind::{Both, Fault as F, Scenario as S};

/// The rows, in order.
pub const ROWS: &[Known] = rows! {
    // Range arithmetic and coverage.
    1 F "a leaf that sticks out of a range is zapped instead of split";
    2 F "the split at the head, or at the tail, is missing";
    3 F "head and tail in one leaf are taken for two";
    4 F "the leaf after a range that ends on a boundary is split";
    5 F "leaves that are covered whole are split";
    6 F "alignment is computed on file offsets, not on guest frames";
    7 F "a range is clipped wrongly at a memory slot, or fails at the second slot or file"
        by "punch/two-slots-in-one-call" "punch/over-slots"
        not "several VMs on one inode: a software host runs one VM, so the file of another is \
            that of the positive control";
    8 S "the cost of a hole grows with the hole, though little of it is mapped"
        by "scale/twelve-terabyte-hole" "scale/hole-growth" "scale/aligned-hole-growth";
    9 F "a 1G leaf is split to 4K as a whole" by "kvm/dirty-log-1g"
        not "a private leaf of 1G cannot exist: AUG and ACCEPT take 4K and 2M only";
    10 F "the test for a wholly private region looks at the wrong index";
    // Order and atomicity.
    11 F "the split comes after the zap";
    12 Both "a later split of a call fails when earlier ranges are zapped"
        by "convert/starts-inside-a-leaf" "scale/long-conversion";
    13 F "an error comes after the point of no return: the guest's memory is gone";
    14 F "the backend takes a folio apart or away while the S-EPT maps it";
    15 F "the guest_memfd cannot merge folios again, so 2M never comes back";
    16 S "memory failure of one page zaps the whole folio"
        not "the lab injects no memory failure; its hosts offer no call for it";
    17 F "mirror and S-EPT diverge: DEMOTE failed and the error was lost";
    18 F "counters or trace move though the S-EPT did not";
    // Accept handling.
    19 F "the split for an ACCEPT goes to the shared root";
    20 F "the inhibit bit says done, and nothing was split";
    21 F "the inhibit bit is not set: map and split take turns";
    22 F "the inhibit bit bars the wrong level or range, is kept too long, or is lost"
        by "accept/inhibit-stays-with-its-region"
        not "a lost bit alone shows nowhere, for a 4K ACCEPT leaves a table that bars 2M as well; \
            slots are never made anew while a guest runs";
    23 S "two vCPUs accept different sizes in one region at once"
        by "race/two-sizes" "race/two-sizes-apart" "race/split-once";
    24 S "access first and 4K ACCEPT later; prefault and then 4K ACCEPT"
        by "accept/touch-before-accept" "accept/prefault-then-4k";
    25 S "a page is converted between exit and handling; no memory slot serves the address"
        by "race/convert-against-accept" "race/convert-against-fill"
        not "addresses without a slot: a scenario that goes there is refused";
    26 F "an error of the handler is lost or read as `resume`";
    27 S "KVM expects a guest never to accept less than is mapped"
        by "accept/4k-inside-pending-2m" "accept/prefault-then-4k";
    // Locks, races, progress.
    28 S "a fault maps pages inside a hole between zap and truncate"
        by "race/punch-against-accept" "race/hole-against-new-leaves";
    29 S "the lock is dropped in the middle, and others split, zap or map meanwhile"
        by "race/two-sizes-apart" "race/unaligned-punch-against-accept"
        not "splits are one stage of the software host: others come in between a look-up and its \
            map, and between the stages of a hole";
    30 S "TDX_OPERAND_BUSY, and a second one after the kick"
        by "race/punch-against-accept" "race/prefault-against-accept"
        not "BUSY from the entry of a vCPU: calls of the software host do not overlap, so BUSY \
            comes only where a fault says so";
    31 Both "zero-step mitigation counts faults of one instruction, keeps a vCPU out while they \
        would recur, and takes the S-EPT lock at TD entry"
        by "module/one-instruction" "module/instruction-by-turns";
    32 S "interrupts keep an old module from ever finishing DEMOTE" by "module/interrupted-demote"
        not "a DEMOTE that never ends: the faults give it up, since no run may last for ever";
    33 F "DEMOTE of one TD meets PAMT.ADD of another"
        not "the side of PAMT.ADD: there is one TD";
    34 F "S-EPT pages are freed from an RCU callback with the wrong lock";
    35 F "dynamic PAMT in RFC v5: cache size, missing PAMT get, RCU use, mutex_init"
        not "a mutex that was never initialised, and a root that is never put: locks and \
            reference counts of the kernel, of which nothing outside shows but the log";
    36 F "a split without a running vCPU uses the vCPU's cache";
    37 F "the PAMT reference count is not 512 after a split";
    38 Both "a conversion meets a folio that is held: EAGAIN with error_offset"
        by "convert/held-page" "convert/host-attributes-held";
    39 S "every zapped leaf costs block, track and kick"
        by "scale/long-conversion" "scale/scattered";
    40 F "the S-EPT is told of one split twice";
    // State kept too long.
    41 S "a table stays after a split, so pages_2m never recovers"
        by "convert/whole-after-split" "mixed/churn" "accept/2m-on-split";
    42 S "ranges of the initial image stay 4K" by "accept/image-range" "punch/image";
    43 F "a 2M leaf replaces a table";
    // Guest-visible.
    44 S "reused memory must be zero, memory outside whole, pending pages pending"
        by "punch/accepted-again" "punch/pending-leaf" "mixed/neighbours";
    45 S "SIZE_MISMATCH and ALREADY_ACCEPTED with the right level"
        by "accept/2m-on-table" "accept/4k-on-accepted-2m" "accept/linux-fallback";
    46 F "a leaf stays blocked after a split that was given up";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_from_one() {
        assert_eq!(ROWS.len(), 46);
        for (index, known) in ROWS.iter().enumerate() {
            assert_eq!(usize::from(known.row), index + 1);
        }
        for fault in all() {
            let known = fault.rows.iter().all(|row| (1..=46).contains(row));
            assert!(known, "{}: {:?}", fault.name, fault.rows);
        }
    }

    #[test]
    fn every_row_is_seeded_or_met_or_says_why_not() {
        for known in ROWS {
            let seeded = known.faults().next().is_some();
            let met = !known.scenarios.is_empty();
            let answered = match known.kind {
                Kind::Fault => seeded,
                Kind::Scenario => met,
                Kind::Both => seeded && met,
            };
            assert!(
                answered || known.not_played.is_some(),
                "row {} ({}) has no answer",
                known.row,
                known.about
            );
        }
    }

    #[test]
    fn scenarios_of_the_rows_exist() {
        let names: Vec<String> = tdxlab_scenario::embedded()
            .unwrap()
            .iter()
            .map(|file| file.name().to_string())
            .collect();
        for name in ROWS.iter().flat_map(|known| known.scenarios) {
            assert!(names.iter().any(|one| one == name), "no scenario {name}");
        }
    }
}
