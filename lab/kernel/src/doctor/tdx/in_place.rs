//! Whether KVM keeps the private attribute in the guest_memfd, so that memory converts in place.
//!
//! Source: the parameter of `virt/kvm/kvm_main.c` in the series that brings conversion in place; up
//! to v7 it had another name and the opposite sense.

use std::fmt;

use crate::doctor::machine::ThisMachine;
use crate::doctor::qemu;

/// The parameter, and its name before, which meant the opposite.
const NAMES: [(&str, bool); 2] = [
    ("gmem_in_place_conversion", true),
    ("vm_memory_attributes", false),
];

/// The object that a QEMU has which converts in place.
const OBJECT: &str = "memory-backend-guest-memfd";

/// A kernel's parameter that decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    name: &'static str,
    value: String,
    /// Whether memory converts in place.
    pub(super) on: bool,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kvm.{}={}", self.name, self.value)
    }
}

impl Switch {
    /// Setting for the opposite mode.
    pub(super) fn other_way(&self) -> String {
        let yes = matches!(self.value.as_str(), "Y" | "1");
        format!("{}={}", self.name, if yes { "N" } else { "Y" })
    }
}

/// The parameter of this machine's kernel; `None` where it has neither.
pub(super) fn switch(machine: &ThisMachine) -> Option<Switch> {
    NAMES.into_iter().find_map(|(name, sense)| {
        let value = machine
            .read(&format!("/sys/module/kvm/parameters/{name}"))
            .ok()?;
        let yes = matches!(value.as_str(), "Y" | "1");
        Some(Switch {
            name,
            on: yes == sense,
            value,
        })
    })
}

/// Whether its QEMU surely does not convert in place.
pub(super) fn qemu_cannot(machine: &ThisMachine) -> bool {
    let Ok(installed) = machine.qemu(qemu::TDX) else {
        return false;
    };
    let objects = machine.qemu_objects(&installed);
    objects.is_ok_and(|objects| !objects.is_empty() && !objects.contains(OBJECT))
}
