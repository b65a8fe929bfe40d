//! Whether host and design offer what a plan needs.

use crate::addr::PageLevel;
use crate::plan::{HostKind, Needs};

/// What a host under a design offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The host.
    pub host: HostKind,
    /// Name of the design.
    pub design: String,
    /// Its largest private leaf.
    pub private_leaf: PageLevel,
    /// The finest alignment of holes it allows.
    pub hole_alignment: PageLevel,
}

/// The first need that is not met, and what is there instead; `None` where all are met.
pub fn unmet(needs: &Needs, offer: &Offer) -> Option<String> {
    let Offer {
        host,
        design,
        private_leaf,
        hole_alignment,
    } = offer;
    if !needs.hosts.is_empty() && !needs.hosts.contains(host) {
        let names: Vec<&str> = needs.hosts.iter().map(|host| host.name()).collect();
        return Some(format!(
            "needs host {}; this is {}",
            names.join(" or "),
            host.name()
        ));
    }
    if let Some(level) = needs.private_leaf
        && *private_leaf < level
    {
        return Some(format!(
            "needs private_leaf {level}; {design} has {private_leaf}"
        ));
    }
    if let Some(level) = needs.private_leaf_at_most
        && *private_leaf > level
    {
        return Some(format!(
            "needs private_leaf_at_most {level}; {design} has {private_leaf}"
        ));
    }
    if let Some(level) = needs.hole_alignment
        && *hole_alignment > level
    {
        return Some(format!(
            "needs hole_alignment {level}; {design} has {hole_alignment}"
        ));
    }
    if let Some(level) = needs.hole_alignment_at_least
        && *hole_alignment < level
    {
        return Some(format!(
            "needs hole_alignment_at_least {level}; {design} has {hole_alignment}"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn v3() -> Offer {
        Offer {
            host: HostKind::Soft,
            design: "v3".to_owned(),
            private_leaf: PageLevel::Size2M,
            hole_alignment: PageLevel::Size2M,
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
        Some("needs private_leaf_at_most 4K; v3 has 2M")
    )]
    #[case::holes_too_coarse(
        Needs { hole_alignment: Some(PageLevel::Size4K), ..Needs::default() },
        Some("needs hole_alignment 4K; v3 has 2M")
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
