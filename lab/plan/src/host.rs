//! Kinds of hosts, and the properties of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tdx_module::TdxModule;

/// Where a plan runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// A TD on a TDX host.
    Tdx,
    /// A plain VM on a real KVM.
    Kvm,
    /// QEMU, with a software KVM and TDX module in the lab.
    Soft,
    /// The same software KVM and TDX module, with an in-process guest.
    Sim,
}

impl HostKind {
    /// Whether KVM and TDX module are software of the lab.
    pub const fn is_software(self) -> bool {
        matches!(self, HostKind::Soft | HostKind::Sim)
    }

    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            HostKind::Tdx => "tdx",
            HostKind::Kvm => "kvm",
            HostKind::Soft => "soft",
            HostKind::Sim => "sim",
        }
    }
}

/// What a host promises about itself. Written into the first line of a journal, so that a recorded
/// run is judged again by what its host was, and not by what that kind of host is today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostProfile {
    /// Which kind it is.
    pub kind: HostKind,
    /// Test memory is the ordinary memory of a plain VM; else the private memory of a TD.
    pub plain: bool,
    /// Who decides the order of operations that race.
    pub races: Races,
    /// Guests to boot at the same time unless the user says otherwise; `None` for one a processor.
    /// One where a witness, such as a line of the kernel log, does not name its guest.
    pub guests_at_a_time: Option<u16>,
    /// The VMM has KVM map what a guest has converted with MapGPA, as QEMU does.
    pub maps_conversions: bool,
    /// The VMM lays out memory slots and takes no KVM_PRE_FAULT_MEMORY from outside.
    pub fixed_slots: bool,
    /// Every guest is a process of its own, or a real kernel takes part: a boot costs.
    pub boots_cost: bool,
    /// The TDX module that it plays, for plans that need none in particular; `None` where the machine
    /// has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<TdxModule>,
}

/// Who decides the order of operations that race.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Races {
    /// The host: the order is drawn from the seed and can be followed again.
    Drawn,
    /// The kernel: operations are started at recorded times, and then go as they like.
    Started,
}

impl HostProfile {
    /// Guests to boot at the same time where this machine has so many processors.
    pub fn jobs(&self, processors: usize) -> usize {
        self.guests_at_a_time.map_or(processors, usize::from)
    }

    /// The profile of a kind of host.
    pub const fn of(kind: HostKind) -> HostProfile {
        let software = HostProfile {
            kind,
            plain: false,
            races: Races::Drawn,
            guests_at_a_time: None,
            maps_conversions: false,
            fixed_slots: false,
            boots_cost: false,
            module: None,
        };
        match kind {
            HostKind::Sim => software,
            HostKind::Soft => HostProfile {
                boots_cost: true,
                ..software
            },
            HostKind::Kvm => HostProfile {
                plain: true,
                races: Races::Started,
                boots_cost: true,
                ..software
            },
            HostKind::Tdx => HostProfile {
                races: Races::Started,
                guests_at_a_time: Some(1),
                maps_conversions: true,
                fixed_slots: true,
                boots_cost: true,
                ..software
            },
        }
    }
}
