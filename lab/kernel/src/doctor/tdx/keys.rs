//! Number of TDs the machine can still start: each uses a private key id.
//!
//! Source: the resource "tdx" of the misc controller, Documentation/admin-guide/cgroup-v2.rst.

use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;

const NAME: &str = "tdx.key_ids";
const CGROUPS: &str = "/sys/fs/cgroup";
const RESOURCE: &str = "tdx";

/// `offered` where KVM offers TDX VMs.
pub(super) fn fact(machine: &ThisMachine, offered: bool) -> Fact {
    let Ok(capacity) = machine.read(&format!("{CGROUPS}/misc.capacity")) else {
        return Fact::limited(NAME, "the misc controller of cgroups does not count them").advise(
            "mount cgroup2 on /sys/fs/cgroup (CONFIG_CGROUP_MISC); without, a TD that cannot be made \
             may be one too many",
        );
    };
    let capacity = match value(&capacity) {
        Some(0) | None if !offered => {
            return Fact::limited(NAME, "misc.capacity counts none: KVM has TDX turned off");
        }
        None => {
            return Fact::limited(
                NAME,
                "this kernel does not count them: misc.capacity has no line tdx",
            )
            .advise("a TD that cannot be made may be one too many: count those that run");
        }
        Some(capacity) => capacity,
    };
    let Some(used) = used(machine) else {
        return Fact::limited(
            NAME,
            format!("{capacity} for TDs; how many are in use is unknown"),
        );
    };
    let left = capacity.saturating_sub(used);
    let found = format!("{left} of {capacity} private key ids are free");
    if left == 0 {
        Fact::unusable(NAME, found).advise("end other TDs: each holds one")
    } else {
        Fact::usable(NAME, found)
    }
}

/// Those in use: the root's own count, else the sum of its children's.
fn used(machine: &ThisMachine) -> Option<u64> {
    let current = |folder: &str| {
        let text = machine.read(&format!("{folder}/misc.current")).ok()?;
        Some(value(&text).unwrap_or(0))
    };
    if let Some(all) = current(CGROUPS) {
        return Some(all);
    }
    let children = machine.list(CGROUPS).ok()?;
    let counts: Vec<u64> = children
        .iter()
        .filter_map(|name| current(&format!("{CGROUPS}/{name}")))
        .collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// The line `tdx 31`.
fn value(text: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == RESOURCE).then(|| value.trim().parse().ok())?
    })
}
