//! Whether host and design offer what a plan needs.

use tdxlab_protocol::addr::PageLevel;

use crate::design::Design;
use crate::host::HostProfile;
use crate::op::{Action, Op};
use crate::plan::{Guest, Needs, Plan, Slot};

/// A host, and the design of its KVM.
#[derive(Clone, Copy, Debug)]
pub struct HostAndDesign {
    /// Properties of the host.
    pub host: HostProfile,
    /// The design played or expected.
    pub design: &'static Design,
}

/// Why a plan cannot run on this offer, in words; `None` where it can.
pub fn unmet(plan: &Plan, offer: &HostAndDesign) -> Option<String> {
    unmet_needs(&plan.needs, offer)
        .or_else(|| unmet_guest(&plan.guest, &offer.host))
        .or_else(|| out_of_reach(plan, &offer.host))
}

/// The first unmet need, and what is offered instead.
fn unmet_needs(needs: &Needs, offer: &HostAndDesign) -> Option<String> {
    let host = offer.host.kind;
    if !needs.hosts.is_empty() && !needs.hosts.contains(&host) {
        let names: Vec<&str> = needs.hosts.iter().map(|host| host.name()).collect();
        return Some(format!(
            "needs host {}; this is {}",
            names.join(" or "),
            host.name()
        ));
    }
    if let Some(module) = needs.module
        && !host.is_software()
    {
        return Some(format!(
            "needs TDX module {module}, which soft and sim can play; this is {}",
            host.name()
        ));
    }
    match offer.design.meets(needs) {
        Ok(()) => None,
        Err(unmet) => Some(format!("needs {}; {}", unmet.need, unmet.offers)),
    }
}

/// The guest's unmet need of the host: its kind of memory.
fn unmet_guest(guest: &Guest, host: &HostProfile) -> Option<String> {
    match (guest.backing, host.plain) {
        (None, true) => Some("needs private memory; plain VMs, as on kvm, have none".to_owned()),
        (Some(backing), false) => Some(format!(
            "needs a plain VM (backing {}), which only host kvm has; this is {}",
            backing.name(),
            host.kind.name()
        )),
        _ => None,
    }
}

/// A guest can give pages back only where KVM sets the TD's configuration flag for it, which none
/// does yet.
const NO_RELEASE: &str =
    "needs TDG.MEM.PAGE.RELEASE, which no KVM lets a TD use yet; soft and sim do";

/// Operations of a plan that the host cannot do under any design.
///
/// On `tdx`, QEMU decides on memory slots, and KVM accepts KVM_PRE_FAULT_MEMORY only from the QEMU
/// process, which has no command for it.
fn out_of_reach(plan: &Plan, host: &HostProfile) -> Option<String> {
    let releases = |op: &Op| matches!(op, Op::Release { .. });
    let mut ops = plan.steps.iter().flat_map(|step| step.action.ops());
    if !host.kind.is_software() && ops.any(releases) {
        return Some(NO_RELEASE.to_owned());
    }
    fixed_slots(plan).filter(|_| host.fixed_slots)
}

fn fixed_slots(plan: &Plan) -> Option<String> {
    if plan.guest.slots.len() > 1 {
        return Some("needs memory slots of its own layout; on tdx QEMU lays them out".to_owned());
    }
    let congruent = |slot: &Slot| {
        let distance = slot.range.start().as_u64().wrapping_sub(slot.gmem_offset);
        distance.is_multiple_of(PageLevel::Size1G.bytes())
    };
    if !plan.guest.slots.iter().all(congruent) {
        return Some("needs a slot of another alignment; on tdx QEMU lays slots out".to_owned());
    }
    for step in &plan.steps {
        let has = |is: fn(&Op) -> bool| step.action.ops().any(is);
        if has(|op| matches!(op, Op::Prefault { .. })) {
            return Some(NO_PREFAULT.to_owned());
        }
        let races = matches!(step.action, Action::Parallel(_));
        if races && has(|op| matches!(op, Op::Convert { .. })) {
            return Some(NO_RACING_CONVERSION.to_owned());
        }
    }
    None
}

const NO_PREFAULT: &str =
    "needs prefault; on tdx KVM takes it from QEMU only, which has no command for it";

const NO_RACING_CONVERSION: &str = "needs a conversion that races; on tdx QEMU maps what it converts, and nobody predicts that race";

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tdxlab_protocol::addr::PageLevel;

    use super::*;
    use crate::host::HostKind;

    fn v3() -> HostAndDesign {
        HostAndDesign {
            host: HostProfile::of(HostKind::Soft),
            design: Design::named("v3").unwrap(),
        }
    }

    #[rstest]
    #[case::nothing(Needs::default(), None)]
    #[case::leaf_met(
        Needs { private_leaf: Some(PageLevel::Size2M), ..Needs::default() },
        None
    )]
    #[case::leaf_too_large(
        Needs { private_leaf_at_most: Some(PageLevel::Size4K), ..Needs::default() },
        Some("needs private_leaf_at_most: 4K; v3 maps private memory at 2M")
    )]
    #[case::holes_too_coarse(
        Needs { hole_alignment: Some(PageLevel::Size4K), ..Needs::default() },
        Some("needs hole_alignment: 4K; v3 punches at 2M")
    )]
    #[case::holes_coarse_enough(
        Needs { hole_alignment_at_least: Some(PageLevel::Size2M), ..Needs::default() },
        None
    )]
    #[case::another_host(
        Needs { hosts: vec![HostKind::Tdx, HostKind::Kvm], ..Needs::default() },
        Some("needs host tdx or kvm; this is soft")
    )]
    fn a_need_that_is_not_met_is_named(#[case] needs: Needs, #[case] why: Option<&str>) {
        assert_eq!(unmet_needs(&needs, &v3()).as_deref(), why);
    }
}
