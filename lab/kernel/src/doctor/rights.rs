//! The witnesses that need privileges: whether this user may read them.

use super::machine::{Access, MEMLOCK};
use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;
use crate::meminfo::field_kib;

/// Names of facts, the path that each looks at, and the look.
type Look = fn(&ThisMachine, &str, &str) -> Fact;
const FACTS: [(&str, &str, Look); 8] = [
    ("debugfs", "/sys/kernel/debug/kvm", debugfs),
    (
        "tracefs",
        "/sys/kernel/tracing/events/kvmmmu/kvm_mmu_split_huge_page/enable",
        tracefs,
    ),
    ("kernel log", "/dev/kmsg", kernel_log),
    (
        "one-shot warnings",
        "/sys/kernel/debug/clear_warn_once",
        one_shot_warnings,
    ),
    ("ptrace", "/proc/sys/kernel/yama/ptrace_scope", yama),
    ("lockdown", "/sys/kernel/security/lockdown", lockdown),
    ("memlock", MEMLOCK, memlock),
    (
        "hugetlb",
        "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
        hugetlb,
    ),
];

pub(super) fn facts(machine: &ThisMachine) -> Vec<Fact> {
    let fact = |&(name, path, look): &(&str, &str, Look)| {
        machine
            .unrecorded(name, path)
            .unwrap_or_else(|| look(machine, name, path))
    };
    FACTS.iter().map(fact).collect()
}

fn debugfs(machine: &ThisMachine, name: &str, path: &str) -> Fact {
    match machine.may_list(path) {
        Ok(_) => Fact::usable(name, "/sys/kernel/debug/kvm can be read"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Fact::limited(name, "/sys/kernel/debug may not be read by this user")
                .advise("run as root; page counters come from query-stats alone otherwise")
        }
        Err(_) => Fact::limited(name, "no /sys/kernel/debug/kvm")
            .advise("mount -t debugfs none /sys/kernel/debug, with kvm loaded"),
    }
}

fn tracefs(machine: &ThisMachine, name: &str, path: &str) -> Fact {
    match machine.may_open(path, Access::Write) {
        Ok(_) => Fact::usable(name, "split events can be recorded"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Fact::limited(name, "/sys/kernel/tracing may not be written by this user")
                .advise("run as root; there are no split events otherwise")
        }
        Err(_) => Fact::limited(name, "no event kvmmmu:kvm_mmu_split_huge_page").advise(
            "mount -t tracefs none /sys/kernel/tracing, with kvm loaded and CONFIG_EVENT_TRACING",
        ),
    }
}

fn kernel_log(machine: &ThisMachine, name: &str, path: &str) -> Fact {
    match machine.may_open(path, Access::Read) {
        Ok(_) => Fact::usable(name, "/dev/kmsg can be read"),
        Err(error) => Fact::limited(name, format!("/dev/kmsg cannot be read: {error}"))
            .advise("run as root, or sysctl kernel.dmesg_restrict=0"),
    }
}

/// Whether one-shot warnings (WARN_ON_ONCE, KVM_BUG_ON) can be re-armed; opening the file changes
/// nothing.
fn one_shot_warnings(machine: &ThisMachine, name: &str, path: &str) -> Fact {
    match machine.may_open(path, Access::Write) {
        Ok(_) => Fact::usable(name, "fire again for each guest"),
        Err(error) => Fact::limited(
            name,
            format!("each shows once a boot: clear_warn_once cannot be written: {error}"),
        )
        .advise(
            "run as root, with debugfs on /sys/kernel/debug and lockdown=none; else what kills a second \
             guest may go unseen",
        ),
    }
}

fn yama(machine: &ThisMachine, name: &str, path: &str) -> Fact {
    match machine.read(path) {
        Err(_) => Fact::usable(name, "not restricted (no Yama)"),
        Ok(scope) if scope == "0" || scope == "1" => Fact::usable(
            name,
            format!("Yama scope {scope}: QEMU's files can be taken"),
        ),
        Ok(scope) if scope == "2" && machine.is_root() => {
            Fact::usable(name, "Yama scope 2, and this is root")
        }
        Ok(scope) => Fact::unusable(
            name,
            format!("Yama scope {scope}: QEMU's memory files cannot be taken"),
        )
        .advise(match scope.as_str() {
            "3" => "start the machine with another kernel.yama.ptrace_scope: 3 stays until then",
            _ => "sysctl kernel.yama.ptrace_scope=1",
        }),
    }
}

fn lockdown(machine: &ThisMachine, name: &str, path: &str) -> Fact {
    match machine.read(path) {
        Ok(text) if text.contains("[none]") => Fact::usable(name, "none"),
        Ok(text) => Fact::limited(name, text).advise(
            "parts of debugfs and tracefs are closed; boot with lockdown=none to open them",
        ),
        Err(_) => Fact::usable(name, "this kernel has none, or securityfs is not mounted"),
    }
}

fn memlock(machine: &ThisMachine, name: &str, _: &str) -> Fact {
    match machine.memlock() {
        Ok(u64::MAX) => Fact::usable(name, "unlimited"),
        Ok(bytes) if bytes < 64 << 20 => Fact::limited(name, format!("{} KiB", bytes >> 10))
            .advise("ulimit -l unlimited, before TDs with locked memory are run"),
        Ok(bytes) => Fact::usable(name, format!("{} MiB", bytes >> 20)),
        Err(error) => Fact::limited(name, format!("unknown: {error}")),
    }
}

fn hugetlb(machine: &ThisMachine, name: &str, path: &str) -> Fact {
    const LARGE: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages";
    let pool = |path: &str| machine.read(path).ok()?.parse::<u64>().ok();
    let large = match pool(LARGE) {
        Some(free) => format!(", {free} of 1G"),
        None => ", no pool of 1G".to_owned(),
    };
    match pool(path) {
        Some(0) => Fact::limited(name, format!("no free 2M page in the pool{large}"))
            .advise("echo 64 > /proc/sys/vm/nr_hugepages, for scenarios backed by hugetlb"),
        Some(free) => Fact::usable(name, format!("{free} free 2M pages in the pool{large}")),
        None => {
            let size = machine
                .read("/proc/meminfo")
                .ok()
                .and_then(|text| field_kib(&text, "Hugepagesize:"));
            match size {
                Some(kib) => {
                    Fact::limited(name, format!("no 2M pool; huge pages of {kib} KiB{large}"))
                }
                None => Fact::limited(name, "this kernel has no hugetlb pages"),
            }
        }
    }
}
