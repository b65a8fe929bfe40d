//! Which lines of a kernel log are complaints: of the host's kernel and of the guest's.

use std::collections::BTreeSet;

use tdxlab_journal::klog;

/// What a guest's kernel says, too, where it lacks what a scenario must give it: memory, a sound
/// machine, its disk, the agent's port. Sources: `oom_kill_process()`, `warn_alloc()`, `__ext4_error()`, `virtio_dev_probe()`.
const OF_GUESTS: [(&str, &str); 5] = [
    ("", "Out of memory: "),
    ("", "page allocation failure"),
    ("mce: [Hardware Error]", ""),
    ("EXT4-fs error", ""),
    ("virtio_console: probe", ""),
];

/// How the software TDX module begins to say which call it refuses, and where (`told()`).
const REFUSED: &str = "softtdx: TDH.";

/// A line of the host's log, with its kind, if its kernel complains in it or gives up a TD; of a TD also
/// which side that puts in the wrong.
fn of_host(line: &str) -> Option<String> {
    let side = if klog::used_before_accept(line).is_some() {
        "KVM has taken memory that was accepted, or the guest never accepted it"
    } else if line.contains(REFUSED) {
        "the TDX module refuses what KVM asks for"
    } else {
        return Some(klog::complaint(line)?.of(line));
    };
    Some(format!("{}: {side}", line.trim()))
}

/// Complaints in the host's log. Of each call that the software module refuses only the first is told:
/// at the end of a TD that went wrong, every page is refused.
pub(crate) fn in_host_log(lines: &[String]) -> Vec<String> {
    let mut refused = BTreeSet::new();
    let mut complaints = Vec::new();
    for line in lines {
        let call = line.split_once(REFUSED);
        let call = call.and_then(|(_, call)| call.split(' ').next());
        if call.is_none_or(|call| refused.insert(call)) {
            complaints.extend(of_host(line));
        }
    }
    complaints
}

/// A line of the guest's log, if its kernel complains in it.
pub(crate) fn of_guest(line: &str) -> Option<String> {
    let is = |(start, says): &(&str, &str)| line.starts_with(start) && line.contains(says);
    match of_host(line) {
        None if OF_GUESTS.iter().any(is) => Some(line.to_owned()),
        known => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::warning("WARNING: CPU: 0 PID: 1 at mm/x.c:3", Some("WARN: WARNING: "))]
    #[case::seamcall(
        "kvm_intel: SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0x8000020000000000",
        Some("failed SEAMCALL: ")
    )]
    #[case::taken(
        "kvm_intel: Guest access before accepting 0x7e000 on vCPU 0",
        Some("kvm_intel: Guest access before accepting 0x7e000 on vCPU 0: KVM has taken")
    )]
    #[case::refused(
        "softtdx: TDH.MEM.RANGE.BLOCK of 0x16607000, level 0: 0xc0000b0d00000001, entry 0x0, state 0x0",
        Some("softtdx: TDH.MEM.RANGE.BLOCK of 0x16607000, level 0: ")
    )]
    #[case::program("traps: prog[1] general protection fault ip:1 sp:2 error:0", None)]
    #[case::no_complaint("Out of memory: Killed process 3 (x)", None)]
    fn the_host_complains_of_itself(#[case] line: &str, #[case] starts: Option<&str>) {
        let told = of_host(line);
        assert_eq!(told.is_some(), starts.is_some(), "{told:?}");
        assert!(
            told.unwrap_or_default()
                .starts_with(starts.unwrap_or_default())
        );
    }

    #[test]
    fn pages_that_are_refused_one_after_the_other_are_told_once() {
        let refused = |call: &str, page: u64| format!("softtdx: {call} of {page:#x}, level 0: 0x1");
        let log = [
            refused("TDH.MEM.PAGE.REMOVE", 0x1000),
            refused("TDH.MEM.PAGE.REMOVE", 0x2000),
            refused("TDH.MEM.RANGE.BLOCK", 0x2000),
            "Linux version 7.3".to_owned(),
        ];
        let told = in_host_log(&log);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("REMOVE of 0x1000") && told[1].contains("BLOCK of 0x2000"));
    }

    #[rstest::rstest]
    #[case("Out of memory: Killed process 3 (x)")]
    #[case("mce: [Hardware Error]: Machine check events logged")]
    #[case("init: page allocation failure: order:9, mode:0x1")]
    #[case("virtio_console: probe of virtio0 failed with error -5")]
    #[case("BUG: unable to handle page fault for address: 8")]
    fn a_guest_may_not_lack_what_a_scenario_gives_it(#[case] line: &str) {
        assert!(of_guest(line).is_some());
        assert_eq!(of_guest("Linux version 7.3"), None);
    }
}
