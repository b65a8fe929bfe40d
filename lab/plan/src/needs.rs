//! Whether host and design offer what a plan needs.

use tdxlab_protocol::addr::PageLevel;

use crate::conversion_holes::ConversionHoles;
use crate::design::Design;
use crate::host::HostProfile;
use crate::op::{Action, Kind, Op};
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
        .or_else(|| hole_of_a_conversion(plan, offer.design))
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

/// Why no design can meet `needs`; `None` if one does.
pub fn impossible(needs: &Needs) -> Option<String> {
    let mut twins = Design::converting_otherwise().iter();
    if twins.any(|design| design.meets(needs).is_ok()) {
        return None;
    }
    let mut unmet = Vec::new();
    for design in Design::all() {
        match design.meets(needs) {
            Ok(()) => return None,
            Err(why) => unmet.push(format!("`{}` is not met: {}", why.need, why.offers)),
        }
    }
    Some(unmet.join("\n"))
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
    let mut ops = plan.steps.iter().flat_map(|step| step.action.ops());
    if !host.kind.is_software() && ops.any(is_for_software) {
        return Some(NO_VMM_OF_ITS_OWN.to_owned());
    }
    let logs = |op: &Op| matches!(op, Op::DirtyLog { .. });
    let mut ops = plan.steps.iter().flat_map(|step| step.action.ops());
    if !host.kind.is_software() && !host.plain && ops.any(logs) {
        return Some(NO_DIRTY_LOG.to_owned());
    }
    let memory = plan.guest.memory;
    let leaves = |op: &Op| {
        matches!(
            op,
            Op::Accept { .. } | Op::Convert { .. } | Op::SetAttributes { .. }
        ) && op.range().is_some_and(|range| range.end() > memory.end())
    };
    let mut ops = plan.steps.iter().flat_map(|step| step.action.ops());
    if !host.kind.is_software() && ops.any(leaves) {
        return Some(NO_END_OF_MEMORY.to_owned());
    }
    fixed_slots(plan).filter(|_| host.fixed_slots)
}

/// Pinned pages, slots that go, and what the VMM answers: nothing in QEMU can be told to do these.
fn is_for_software(op: &Op) -> bool {
    matches!(op.kind(), Kind::Host(op) if op.is_for_software())
}

/// QEMU blocks the migration of a TD, and takes KVM's refusal of a flag for its own bug.
const NO_DIRTY_LOG: &str =
    "needs a VMM that lives on when KVM refuses dirty logging, which ends QEMU; soft and sim do";

const NO_END_OF_MEMORY: &str =
    "needs that nothing follows test memory; in QEMU more memory may. soft and sim do";

const NO_VMM_OF_ITS_OWN: &str =
    "needs a VMM that pins, deletes slots or refuses at will, which QEMU does not; soft and sim do";

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

fn hole_of_a_conversion(plan: &Plan, design: &Design) -> Option<String> {
    let mut holes = ConversionHoles::of(design);
    let mut ops = plan.steps.iter().flat_map(|step| step.action.ops());
    ops.any(|op| !holes.allow(op)).then(|| {
        let alignment = design.hole_alignment;
        format!(
            "needs conversions of less than {alignment}; the hole that the VMM punches for one is \
             refused, since {} punches at {alignment}",
            design.name
        )
    })
}

const NO_PREFAULT: &str =
    "needs prefault; on tdx KVM takes it from QEMU only, which has no command for it";

const NO_RACING_CONVERSION: &str = "needs a conversion that races; on tdx QEMU maps what it converts, and nobody predicts that race";

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
    use tdxlab_protocol::message::{Side, VcpuId};
    use tdxlab_protocol::pattern::Generation;

    use super::*;
    use crate::expect::Expect;
    use crate::host::HostKind;
    use crate::op::Size;
    use crate::plan::{LOW_BASE, Step, VERSION};

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

    fn op(text: &str, start: u64, len: u64) -> Op {
        let range = GpaRange::with_len(Gpa::new(LOW_BASE.as_u64() + start), len).unwrap();
        let vcpu = VcpuId(0);
        match text {
            "share" => Op::Convert {
                range,
                to: Side::Shared,
                vcpu,
            },
            "unshare" => Op::Convert {
                range,
                to: Side::Private,
                vcpu,
            },
            "accept" => Op::Accept {
                range,
                size: Size::Size4K,
                vcpu,
            },
            _ => Op::Fill {
                range,
                generation: Generation::MAX,
                side: Side::Shared,
                vcpu,
            },
        }
    }

    const M: u64 = 1 << 20;

    #[rstest]
    #[case::whole(&[("share", 2 * M, 4 * M), ("fill", 3 * M, M)], true)]
    #[case::head(&[("share", M, 3 * M)], false)]
    #[case::tail(&[("share", 2 * M, M)], false)]
    #[case::back(&[("share", 2 * M, 2 * M), ("unshare", 3 * M, 4096)], true)]
    #[case::implicit(&[("fill", 2 * M, 4096)], false)]
    #[case::private_again(&[("share", 0, 2 * M), ("accept", M, 4096), ("fill", M, 4096)], false)]
    fn conversions_whose_hole_is_refused(#[case] ops: &[(&str, u64, u64)], #[case] can: bool) {
        let memory = GpaRange::with_len(LOW_BASE, 16 << 20).unwrap();
        let steps = ops.iter().map(|(text, start, len)| Step {
            line: 0,
            action: Action::One(op(text, *start, *len)),
            expect: Expect::default(),
        });
        let plan = Plan {
            version: VERSION,
            name: "conversions".to_owned(),
            about: String::new(),
            seed: 0,
            needs: Needs::default(),
            guest: Guest::over(memory),
            steps: steps.collect(),
        };
        for design in Design::all().iter().chain(Design::converting_otherwise()) {
            let host = HostProfile::of(HostKind::Tdx);
            let why = unmet(&plan, &HostAndDesign { host, design });
            let refused = matches!(design.name, "v3-attributes" | "v5-attributes");
            assert_eq!(why.is_none(), can || !refused, "{}: {why:?}", design.name);
        }
    }
}
