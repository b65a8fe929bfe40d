//! Number of TDs the machine can still start: each uses a private key id.
//!
//! Source: the resource "tdx" of the misc controller, Documentation/admin-guide/cgroup-v2.rst.

use std::fs;
use std::path::Path;

use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;

const NAME: &str = "tdx.key_ids";
const CGROUPS: &str = "/sys/fs/cgroup";
const RESOURCE: &str = "tdx";

/// `offered` where KVM offers TDX VMs.
pub(super) fn fact(machine: &ThisMachine, offered: bool) -> Fact {
    let path = format!("{CGROUPS}/misc.capacity");
    if let Some(unknown) = machine.unrecorded(NAME, &path) {
        return unknown;
    }
    let Ok(capacity) = machine.read(&path) else {
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
        let current = format!("{CGROUPS}/misc.current");
        if let Some(unknown) = machine.unrecorded(NAME, &current) {
            return unknown;
        }
        return Fact::limited(
            NAME,
            format!("{capacity} for TDs; how many are in use is unknown"),
        );
    };
    let left = capacity.saturating_sub(used);
    let found = format!("{left} of {capacity} private key ids are free");
    if left == 0 {
        return Fact::unusable(NAME, found).advise("end other TDs: each holds one");
    }
    match room_in_cgroup(machine) {
        Some(0) => Fact::unusable(
            NAME,
            format!("{found}; the cgroup of this process, or one above it, allows no more TDs"),
        )
        .advise("raise the limit: echo 'tdx max' > misc.max in /sys/fs/cgroup, where it is less; or end its other TDs"),
        Some(room) if room < left => Fact::usable(
            NAME,
            format!("{found}; cgroups allow this process {room} more TDs"),
        ),
        _ => Fact::usable(NAME, found),
    }
}

/// How many more TDs the cgroup of this process and those above it allow; `None` without a limit.
/// KVM_TDX_INIT_VM fails with EBUSY where there is none (`misc_cg_try_charge()`).
fn room_in_cgroup(machine: &ThisMachine) -> Option<u64> {
    let room = machine.answer("/answers/key-ids-of-cgroup", || {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = Path::new(CGROUPS).join(own.unwrap_or_default());
        let line = |folder: &Path, file: &str| value(&fs::read_to_string(folder.join(file)).ok()?);
        let room = own
            .ancestors()
            .take_while(|folder| folder.starts_with(CGROUPS))
            .filter_map(|folder| {
                let used = line(folder, "misc.current").unwrap_or(0);
                Some(line(folder, "misc.max")?.saturating_sub(used))
            })
            .min();
        Ok(room.map_or_else(|| "max".to_owned(), |room| room.to_string()))
    });
    room.ok()?.parse().ok()
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
