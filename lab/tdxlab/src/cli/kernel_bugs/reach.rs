//! Which plans of the default set reach a bug in KVM, and which witness must contradict it.

use tdxlab_journal::Witness;
use tdxlab_plan::HostKind;
use tdxlab_run::TestCase;

use crate::cli::error::CliError;
use crate::cli::load;
use crate::cli::options::Scenarios;

/// What of the default set reaches a bug, the best first, and who is expected to contradict it.
pub(super) struct Reach {
    pub(super) bug: &'static str,
    /// The host that runs them: of TDs, or of plain VMs.
    pub(super) host: HostKind,
    pub(super) plans: &'static [&'static str],
    pub(super) witness: Option<Witness>,
    /// Why nothing can reach it on this host.
    pub(super) why_not: Option<&'static str>,
}

const fn reach(bug: &'static str, witness: Witness, plans: &'static [&'static str]) -> Reach {
    Reach {
        bug,
        host: HostKind::Tdx,
        plans,
        witness: Some(witness),
        why_not: None,
    }
}

const fn out_of_reach(bug: &'static str, why: &'static str) -> Reach {
    Reach {
        bug,
        host: HostKind::Tdx,
        plans: &[],
        witness: None,
        why_not: Some(why),
    }
}

/// In the order of the modules' list.
pub(super) const REACHES: &[Reach] = &[
    reach("head-not-split", Witness::Splits, &["punch/head-and-tail"]),
    reach("tail-not-split", Witness::Splits, &["punch/head-and-tail"]),
    reach(
        "tail-off-by-one",
        Witness::Splits,
        &["punch/aligned[one-leaf]"],
    ),
    reach(
        "covered-leaves-split",
        Witness::Splits,
        &["punch/aligned[one-leaf]"],
    ),
    reach(
        "next-leaf-split",
        Witness::Splits,
        &["punch/aligned[one-leaf]"],
    ),
    out_of_reach(
        "split-by-file-offset",
        "QEMU lays memory slots so that frame number and file offset are aligned alike",
    ),
    out_of_reach(
        "split-only-first-slot",
        "a range of test memory lies in one slot of QEMU's",
    ),
    reach(
        "split-wrong-root",
        Witness::Splits,
        &["punch/head-and-tail"],
    ),
    reach(
        "split-after-zap",
        Witness::Debugfs,
        &["punch/head-and-tail"],
    ),
    reach("over-zap", Witness::Debugfs, &["punch/head-and-tail"]),
    reach(
        "zap-from-leaf-start",
        Witness::Debugfs,
        &["punch/head-and-tail"],
    ),
    reach("zap-short", Witness::Debugfs, &["punch/head-and-tail"]),
    reach("error-as-one", Witness::Debugfs, &["punch/head-and-tail"]),
    reach("error-swallowed", Witness::Splits, &["punch/head-and-tail"]),
    reach("error-after-zap", Witness::Errno, &["punch/head-and-tail"]),
    reach(
        "hole-not-zapped",
        Witness::Debugfs,
        &["punch/aligned[one-leaf]"],
    ),
    reach(
        "hole-not-truncated",
        Witness::Populated,
        &["punch/aligned[one-leaf]"],
    ),
    reach(
        "hole-takes-folio",
        Witness::Populated,
        &["punch/head-and-tail"],
    ),
    reach(
        "inhibit-missing",
        Witness::Debugfs,
        &["accept/inhibit-stays-with-its-region"],
    ),
    reach(
        "inhibit-wrong-level",
        Witness::Debugfs,
        &["accept/inhibit-stays-with-its-region"],
    ),
    reach(
        "inhibit-wrong-range",
        Witness::Debugfs,
        &["accept/inhibit-stays-with-its-region"],
    ),
    reach(
        "inhibit-before-split",
        Witness::Td,
        &["accept/4k-inside-pending-2m[first]"],
    ),
    reach(
        "accept-level-ignored",
        Witness::Td,
        &["accept/4k-inside-pending-2m[first]"],
    ),
    reach(
        "accept-splits-neighbour",
        Witness::Splits,
        &["accept/4k-inside-pending-2m[first]"],
    ),
    reach("promotion", Witness::Td, &["punch/table-stays"]),
    reach(
        "sept-not-removed",
        Witness::Status,
        &["punch/aligned[one-leaf]"],
    ),
    reach("demote-lost", Witness::KernelLog, &["punch/head-and-tail"]),
    reach(
        "demote-without-track",
        Witness::KernelLog,
        &["punch/translations-of-a-part"],
    ),
    reach(
        "remove-without-track",
        Witness::KernelLog,
        &["punch/translations-of-a-leaf"],
    ),
    reach(
        "leaf-left-blocked",
        Witness::KernelLog,
        &["punch/head-and-tail"],
    ),
    reach(
        "parts-not-counted",
        Witness::Debugfs,
        &["punch/head-and-tail"],
    ),
    reach(
        "leaf-stays-counted",
        Witness::Debugfs,
        &["punch/head-and-tail"],
    ),
    reach("event-missing", Witness::Splits, &["punch/head-and-tail"]),
    reach("event-twice", Witness::Splits, &["punch/head-and-tail"]),
    reach(
        "conversion-not-split",
        Witness::Splits,
        &["convert/part-of-one-leaf[head]"],
    ),
    Reach {
        host: HostKind::Kvm,
        ..reach(
            "page-not-logged",
            Witness::DirtyLog,
            &["kvm/dirty-log-pages"],
        )
    },
];

impl Reach {
    pub(super) fn items(&self) -> Result<Vec<TestCase>, CliError> {
        let mut items = Vec::new();
        for plan in self.plans {
            let which = Scenarios {
                paths: vec![plan.into()],
                seed: None,
            };
            items.extend(load::items_for(&which, self.host)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_plans_that_reach_it_and_they_are_of_the_default_set() {
        let bugs: Vec<&str> = tdxlab_softtdx::bugs().iter().map(|bug| bug.name).collect();
        let reaches: Vec<&str> = REACHES.iter().map(|reach| reach.bug).collect();
        assert_eq!(bugs, reaches);
        for reach in REACHES {
            let items = reach.items().unwrap();
            assert_eq!(items.is_empty(), reach.why_not.is_some(), "{}", reach.bug);
        }
    }
}
