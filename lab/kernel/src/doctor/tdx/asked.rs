//! Whether KVM was asked for TDX, and has it.

use super::{is_on, kvm, tdx_parameter};
use crate::doctor::machine::ThisMachine;

/// TDX in KVM.
#[derive(Clone, Copy, Debug)]
pub(super) struct InKvm {
    /// Whether KVM offers TDX VMs, which it does with an initialised module only.
    pub(super) offered: bool,
    /// Whether kvm_intel was loaded with TDX; `None` where that cannot be read.
    pub(super) switched_on: Option<bool>,
    pub(super) asked: Asked,
}

impl InKvm {
    /// That of a machine.
    pub(super) fn of(machine: &ThisMachine) -> InKvm {
        InKvm {
            offered: kvm::offers_tdx(machine),
            switched_on: tdx_parameter(machine).ok().map(|value| is_on(&value)),
            asked: Asked::of(machine),
        }
    }
}

/// What the command line says of kvm_intel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It turns TDX on.
    On,
    /// It turns TDX off.
    Off,
    /// Nothing.
    NotSaid,
}

impl Asked {
    fn of(machine: &ThisMachine) -> Asked {
        let words = machine.read("/proc/cmdline").unwrap_or_default();
        // The last one counts.
        let last = words.split_whitespace().filter_map(value).next_back();
        match last.and_then(truth) {
            Some(true) => Asked::On,
            Some(false) => Asked::Off,
            None => Asked::NotSaid,
        }
    }
}

/// The value that a word gives to the parameter. The kernel takes `-` for `_` in names.
fn value(word: &str) -> Option<&str> {
    let (name, value) = word.split_once('=').unwrap_or((word, "1"));
    (name.replace('-', "_") == "kvm_intel.tdx").then_some(value)
}

/// As `kstrtobool()` reads it.
fn truth(value: &str) -> Option<bool> {
    let lower = value.to_ascii_lowercase();
    match lower.as_bytes() {
        [b'y' | b't' | b'1', ..] | [b'o', b'n', ..] => Some(true),
        [b'n' | b'f' | b'0', ..] | [b'o', b'f', ..] => Some(false),
        _ => None,
    }
}
