//! Whether host and design offer what a plan needs.

use crate::plan::{Guest, HostKind, Needs};
use crate::predict::Design;

/// What there is: a host, and the design of its KVM.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The host.
    pub host: HostKind,
    /// The design played or expected.
    pub design: &'static Design,
}

/// The first need that is not met, and what is there instead; `None` where all are met.
pub fn unmet(needs: &Needs, offer: &Offer) -> Option<String> {
    if !needs.hosts.is_empty() && !needs.hosts.contains(&offer.host) {
        let names: Vec<&str> = needs.hosts.iter().map(|host| host.name()).collect();
        return Some(format!(
            "needs host {}; this is {}",
            names.join(" or "),
            offer.host.name()
        ));
    }
    match offer.design.meets(needs) {
        Ok(()) => None,
        Err(unmet) => Some(format!("needs {}; {}", unmet.need, unmet.offers)),
    }
}

/// What the guest needs of the host: its kind of memory.
pub fn unmet_guest(guest: &Guest, host: HostKind) -> Option<String> {
    match (guest.backing, host) {
        (None, HostKind::Kvm) => {
            Some("needs private memory; plain VMs, as on kvm, have none".to_owned())
        }
        (Some(backing), HostKind::Tdx | HostKind::Soft | HostKind::Sim) => Some(format!(
            "needs a plain VM (backing {}), which only host kvm has; this is {}",
            backing.name(),
            host.name()
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::addr::PageLevel;

    fn v3() -> Offer {
        Offer {
            host: HostKind::Soft,
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
        assert_eq!(unmet(&needs, &v3()).as_deref(), why);
    }
}
