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
    /// The plan, or the scenario with its plans; `None` where nothing reaches it.
    pub(super) plan: Option<&'static str>,
    pub(super) witness: Option<Witness>,
    /// Why nothing can reach it on this host.
    pub(super) why_not: Option<&'static str>,
}

/// `BUG => WITNESS PLAN;`, with `on HOST` if that is not `Tdx`, or `BUG not WHY;`.
macro_rules! reaches {
    ($($bug:literal $(=> $witness:ident $plan:literal)? $(on $host:ident)? $(not $why:literal)?;)*) => {
        &[$(Reach {
            bug: $bug,
            host: reaches!(@ $($host)?),
            plan: reaches!(? $($plan)?),
            witness: reaches!(? $(Witness::$witness)?),
            why_not: reaches!(? $($why)?),
        }),*]
    };
    (@ $host:ident) => { HostKind::$host };
    (@) => { HostKind::Tdx };
    (? $value:expr) => { Some($value) };
    (?) => { None };
}

/// In the order of the modules' list.
pub(super) const REACHES: &[Reach] = reaches! {
    "head-not-split" => Splits "punch/head-and-tail";
    "tail-not-split" => Splits "punch/head-and-tail";
    "tail-off-by-one" => Splits "punch/aligned[one-leaf]";
    "covered-leaves-split" => Splits "punch/aligned[one-leaf]";
    "next-leaf-split" => Splits "punch/aligned[one-leaf]";
    "split-by-file-offset" not
        "QEMU lays memory slots so that frame number and file offset are aligned alike";
    "split-only-first-slot" not "a range of test memory lies in one slot of QEMU's";
    "split-wrong-root" => Splits "punch/head-and-tail";
    "split-after-zap" => Debugfs "punch/head-and-tail";
    "over-zap" => Debugfs "punch/head-and-tail";
    "zap-from-leaf-start" => Debugfs "punch/head-and-tail";
    "zap-short" => Debugfs "punch/head-and-tail";
    "error-as-one" => Debugfs "punch/head-and-tail";
    "error-swallowed" => Splits "punch/head-and-tail";
    "error-after-zap" => Errno "punch/head-and-tail";
    "hole-not-zapped" => Debugfs "punch/aligned[one-leaf]";
    "hole-not-truncated" => Populated "punch/aligned[one-leaf]";
    "hole-takes-folio" => Populated "punch/head-and-tail";
    "inhibit-missing" => Debugfs "accept/inhibit-stays-with-its-region";
    "inhibit-wrong-level" => Debugfs "accept/inhibit-stays-with-its-region";
    "inhibit-wrong-range" => Debugfs "accept/inhibit-stays-with-its-region";
    "inhibit-before-split" => Td "accept/4k-inside-pending-2m[first]";
    "accept-level-ignored" => Td "accept/4k-inside-pending-2m[first]";
    "accept-splits-neighbour" => Splits "accept/4k-inside-pending-2m[first]";
    "promotion" => Td "punch/table-stays";
    "sept-not-removed" => Status "punch/aligned[one-leaf]";
    "demote-lost" => KernelLog "punch/head-and-tail";
    "demote-without-track" => KernelLog "punch/translations-of-a-part";
    "remove-without-track" => KernelLog "punch/translations-of-a-leaf";
    "leaf-left-blocked" => KernelLog "punch/head-and-tail";
    "parts-not-counted" => Debugfs "punch/head-and-tail";
    "leaf-stays-counted" => Debugfs "punch/head-and-tail";
    "event-missing" => Splits "punch/head-and-tail";
    "event-twice" => Splits "punch/head-and-tail";
    "conversion-not-split" => Splits "convert/part-of-one-leaf[head]";
    "page-not-logged" => DirtyLog "kvm/dirty-log-pages" on Kvm;
};

impl Reach {
    pub(super) fn items(&self) -> Result<Vec<TestCase>, CliError> {
        let Some(plan) = self.plan else {
            return Ok(Vec::new());
        };
        let which = Scenarios {
            paths: vec![plan.into()],
            seed: None,
        };
        load::items_for(&which, self.host)
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
