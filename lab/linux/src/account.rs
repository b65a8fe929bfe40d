//! The guest kernel's account of its memory, and of its end. Guest text is bounded when read, and no
//! format is assumed.

use std::collections::BTreeMap;

use tdxlab_l1::without_time;
use tdxlab_protocol::addr::{Gpa, GpaRange};

/// `/proc/meminfo`, in KiB by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemInfo(BTreeMap<String, u64>);

impl MemInfo {
    /// Reads it. Lines of another form are left out.
    pub fn parse(text: &[u8]) -> MemInfo {
        let text = String::from_utf8_lossy(text);
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let kibibytes = value.trim().trim_end_matches(" kB").parse().ok()?;
            Some((name.trim().to_owned(), kibibytes))
        };
        MemInfo(text.lines().filter_map(field).collect())
    }

    /// Bytes of a field; `None` where the kernel has no such field.
    pub fn bytes(&self, name: &str) -> Option<u64> {
        self.0
            .get(name)
            .map(|kibibytes| kibibytes.saturating_mul(1024))
    }

    /// Memory that Linux has and has not accepted yet; `None` in a kernel that knows no such.
    pub fn unaccepted(&self) -> Option<u64> {
        self.bytes("Unaccepted")
    }
}

/// A line of `/proc/iomem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The address range.
    pub range: GpaRange,
    /// Nesting depth.
    pub depth: usize,
    /// Linux's name of the resource.
    pub name: String,
}

/// `/proc/iomem`, in its order.
pub fn iomem(text: &[u8]) -> Vec<Resource> {
    let text = String::from_utf8_lossy(text);
    let resource = |line: &str| {
        let (range, name) = line.trim_start().split_once(" : ")?;
        let (start, last) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let end = number(last)?.checked_add(1)?;
        Some(Resource {
            range: GpaRange::new(Gpa::new(number(start)?), Gpa::new(end))?,
            depth: (line.len() - line.trim_start().len()) / 2,
            name: name.to_owned(),
        })
    };
    text.lines().filter_map(resource).collect()
}

/// The innermost resource at an address.
pub fn at(resources: &[Resource], gpa: Gpa) -> Option<&Resource> {
    let inside = resources
        .iter()
        .filter(|resource| resource.range.contains(gpa));
    inside.max_by_key(|resource| resource.depth)
}

/// RAM according to Linux.
pub fn system_ram(resources: &[Resource]) -> u64 {
    let ram = resources
        .iter()
        .filter(|resource| resource.name == "System RAM");
    ram.map(|resource| resource.range.bytes()).sum()
}

/// How a line begins that may tell why a kernel ends: its own faults, and what it is told to panic on.
/// Sources: `report_bug()`, `oops_begin()`, lockdep, the hung task and lock-up detectors,
/// `oom_kill_process()` and RCU's stall detector.
const CAUSES: [&str; 21] = [
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "Oops[",
    "general protection fault",
    "stack segment:",
    "invalid opcode:",
    "divide error:",
    "Kernel panic - not syncing",
    "INFO: task ",
    "INFO: rcu",
    "rcu: INFO: rcu",
    "watchdog: BUG",
    "INFO: possible ",
    "Out of memory: ",
    "unchecked MSR access error",
    "EXT4-fs error",
    "possible circular locking",
    "mce: [Hardware Error]",
    "page allocation failure",
    "virtio_console: probe",
];

/// The console line with the cause of the kernel's end: the oops before the panic, if there is one.
pub fn cause(console: &str) -> Option<String> {
    let may_be = |line: &&str| {
        CAUSES.iter().any(|cause| line.starts_with(cause))
            || line.contains(": page allocation failure: ")
    };
    let mut lines = console.lines().map(without_time);
    lines.find(may_be).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn meminfo_gives_bytes_and_what_is_missing_is_not_zero() {
        let info =
            MemInfo::parse(b"MemTotal:  489172 kB\nUnaccepted:  2048 kB\nHugePages_Total: 7\n");
        assert_eq!(info.bytes("MemTotal"), Some(489_172 << 10));
        assert_eq!(info.unaccepted(), Some(2 << 20));
        assert_eq!(MemInfo::parse(b"MemTotal: 1 kB\n").unaccepted(), None);
    }

    #[test]
    fn iomem_says_what_lies_where() {
        let text = b"00000000-00000fff : Reserved\n00001000-1fffffff : System RAM\n\
            \x20 01000000-01e02a2f : Kernel code\n";
        let resources = iomem(text);
        assert_eq!(
            at(&resources, Gpa::new(0x100_0000)).unwrap().name,
            "Kernel code"
        );
        assert_eq!(at(&resources, Gpa::new(0x1000)).unwrap().name, "System RAM");
        assert_eq!(at(&resources, Gpa::new(1 << 40)), None);
        assert_eq!(system_ram(&resources), 0x1fff_f000);
    }

    #[test]
    fn the_cause_stands_before_the_panic() {
        let console = "[    1.0] WARNING: x\n[    1.1] BUG: unable to handle page fault for address: 8\n\
            [    1.2] Kernel panic - not syncing: Fatal exception\n";
        assert!(cause(console).unwrap().starts_with("BUG: unable"));
        let oom = "[    1.0] Out of memory: Killed process 1 (init)\n\
            [    1.1] Kernel panic - not syncing: Attempted to kill init!\n";
        assert!(cause(oom).unwrap().starts_with("Out of memory"));
        assert_eq!(cause("nothing"), None);
    }

    proptest! {
        #[test]
        fn no_text_is_beyond_reading(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = MemInfo::parse(&bytes);
            let _ = iomem(&bytes);
        }

        #[test]
        fn numbers_of_any_size_are_no_panic(a in "[0-9a-f]{1,20}", b in "[0-9a-f]{1,20}", n in "[0-9]{1,25}") {
            let _ = iomem(format!("{a}-{b} : x\n").as_bytes());
            let _ = MemInfo::parse(format!("Unaccepted: {n} kB\n").as_bytes()).unaccepted();
        }
    }
}
