//! QEMU's last error message about a guest that cannot continue, and the side at fault.
//!
//! Source: error texts of QEMU 10.1 to 11.1 (accel/kvm/kvm-all.c, target/i386/kvm/kvm.c,
//! system/physmem.c), and of which side of KVM_RUN returns an errno (`virt/kvm/kvm_main.c`,
//! `arch/x86/kvm/`).

use tdxlab_journal::Killer;

use super::refusal::errors_first;

/// An error text of QEMU, and its meaning.
struct Words {
    text: &'static str,
    /// Another text required in the same line.
    with: &'static str,
    by: Killer,
    means: &'static str,
}

const fn words(text: &'static str, by: Killer, means: &'static str) -> Words {
    with(text, "", by, means)
}

const fn with(text: &'static str, with: &'static str, by: Killer, means: &'static str) -> Words {
    Words {
        text,
        with,
        by,
        means,
    }
}

const RUN: &str = "kvm run failed";
const NO_MEMORY: &str = "KVM found no memory on the host";
const HOLE: &str = "Failed to fallocate";
const ATTRIBUTES: &str = "failed to set memory";
const EIO: &str = "Input/output error";
const BUGGED: &str = "EIO: KVM refuses every call for a VM that a KVM_BUG_ON has ended";
const SUBERROR: &str = "KVM internal error. Suberror: ";

/// The first that fits counts.
const LAST_WORDS: &[Words] = &[
    with(
        HOLE,
        "(-12)",
        Killer::HostMemory,
        "the kernel found no memory for a hole that QEMU punched",
    ),
    with(
        "Failed to discard range",
        "(-12)",
        Killer::HostMemory,
        "the kernel found no memory for a hole that QEMU punched",
    ),
    with(
        HOLE,
        "ram_block_discard_guest_memfd_range",
        Killer::Vmm,
        "QEMU punches a hole for each conversion, and this kernel refuses it: take a QEMU that converts \
         in place, as designs with huge pages need",
    ),
    words(
        "Hardware memory error",
        Killer::HostMemory,
        "the hardware found memory of QEMU broken",
    ),
    words(
        "Guest MCE Memory Error",
        Killer::HostMemory,
        "the hardware found memory of the guest broken",
    ),
    words(
        "Convert non guest_memfd backed memory region",
        Killer::Guest,
        "the guest made private what has no private memory behind it, such as MMIO",
    ),
    words(
        "KVM_EXIT_MEMORY_FAULT: Unknown flag",
        Killer::Vmm,
        "this QEMU does not know what KVM asks of it: take a newer one",
    ),
    with(ATTRIBUTES, "-12", Killer::HostMemory, NO_MEMORY),
    with(
        ATTRIBUTES,
        "Cannot allocate memory",
        Killer::HostMemory,
        NO_MEMORY,
    ),
    words(
        ATTRIBUTES,
        Killer::KvmBug,
        "KVM did not change whether memory is private",
    ),
    words(
        "KVM: unknown exit",
        Killer::KvmBug,
        "KVM handed out an exit that QEMU does not know",
    ),
    words(
        "KVM: entry failed, hardware error",
        Killer::KvmBug,
        "the processor or the TDX module refused to enter the guest",
    ),
    words(
        "KVM: exception ",
        Killer::KvmBug,
        "KVM handed out an exception that it has to handle",
    ),
    words(
        "Encountered a notify exit with invalid context in guest",
        Killer::Guest,
        "the guest kept the processor from taking events",
    ),
    with(
        SUBERROR,
        ": 1",
        Killer::KvmBug,
        "KVM could not emulate an instruction of the guest",
    ),
    with(SUBERROR, ": 2", Killer::KvmBug, "two exceptions at once"),
    with(
        SUBERROR,
        ": 3",
        Killer::KvmBug,
        "an exit while an event was delivered",
    ),
    with(
        SUBERROR,
        ": 4",
        Killer::KvmBug,
        "KVM does not handle the reason for which the guest exited",
    ),
    words(SUBERROR, Killer::KvmBug, "KVM gave up"),
    with(
        RUN,
        "Bad address",
        Killer::Vmm,
        "EFAULT: there is no memory behind a guest page; QEMU mapped none there, or took it away",
    ),
    with(RUN, "Cannot allocate memory", Killer::HostMemory, NO_MEMORY),
    with(
        RUN,
        "No space left on device",
        Killer::HostMemory,
        NO_MEMORY,
    ),
    with(
        RUN,
        "Memory page has hardware error",
        Killer::HostMemory,
        "the hardware found memory of the guest broken",
    ),
    with(
        RUN,
        "Invalid argument",
        Killer::Vmm,
        "EINVAL: QEMU ran a vCPU that is not set up, or not for this TD",
    ),
    with(
        RUN,
        "Exec format error",
        Killer::Vmm,
        "QEMU ran a vCPU whose registers it had not set",
    ),
    with(
        RUN,
        "Operation not permitted",
        Killer::Vmm,
        "EPERM: QEMU may not run vCPUs (a seccomp filter, or a security module)",
    ),
    with("Failed to get registers", EIO, Killer::KvmBug, BUGGED),
    with("Failed to put registers", EIO, Killer::KvmBug, BUGGED),
    words(
        "Failed to get registers",
        Killer::Vmm,
        "QEMU asked KVM for registers that it does not give",
    ),
    words(
        "mlock: ",
        Killer::Vmm,
        "QEMU may lock too little memory (RLIMIT_MEMLOCK)",
    ),
    words("Cannot allocate memory", Killer::HostMemory, NO_MEMORY),
    words(
        "Failed to discard range",
        Killer::Vmm,
        "the kernel did not take back memory that QEMU gave up",
    ),
    words(
        "error registering slot",
        Killer::Vmm,
        "QEMU laid out memory as KVM does not take it",
    ),
    words(
        "Failed to put registers",
        Killer::Vmm,
        "QEMU set registers as KVM does not take them",
    ),
    words(
        "Too many open files",
        Killer::Vmm,
        "QEMU may open too few files (ulimit -n)",
    ),
    words(
        "qemu: hardware error:",
        Killer::Vmm,
        "QEMU gave up over one of its own devices",
    ),
    words(
        "terminating on signal",
        Killer::Vmm,
        "a signal from outside the lab told QEMU to end",
    ),
    words(
        "qemu_prealloc_mem: preallocating memory failed",
        Killer::HostMemory,
        "the host had no page for memory that QEMU reserved (an empty hugetlb pool, a full tmpfs)",
    ),
    words(
        "Insufficient free host memory pages",
        Killer::HostMemory,
        "the hugetlb pool has no page left",
    ),
];

/// Kernel messages of failed allocations for a process other than the one it kills.
const NO_PAGES: [&str; 3] = [
    "page allocation failure",
    "invoked oom-killer",
    "out of memory: ",
];

/// The side at fault by QEMU's last error, and the line with its meaning; `None` if it is not about
/// the guest. `log` is the kernel log, if readable.
pub(super) fn last_words(stderr: &str, log: Option<&[String]>) -> Option<(Killer, String)> {
    errors_first(stderr, |lines| words_in(lines, log))
}

fn words_in(lines: &[&str], log: Option<&[String]>) -> Option<(Killer, String)> {
    let known = LAST_WORDS.iter().find_map(|words| {
        let fits = |line: &&&str| line.contains(words.text) && line.contains(words.with);
        Some((words, lines.iter().find(fits)?.trim()))
    });
    if let Some((words, line)) = known {
        let no_pages = log.into_iter().flatten().find(|line| {
            let lower = line.to_lowercase();
            NO_PAGES.iter().any(|text| lower.contains(text))
        });
        return Some(match (words.with, no_pages) {
            // The page that is missing is one that the machine did not have.
            ("Bad address", Some(cause)) => (
                Killer::HostMemory,
                format!("{NO_MEMORY}: {line} (the kernel said: {cause})"),
            ),
            _ => (words.by, format!("{}: {line}", words.means)),
        });
    }
    let line = lines.iter().find(|line| line.contains(RUN))?;
    let unknown = match log {
        Some(_) => {
            "the kernel log says nothing about it: a warning that fired since boot may not show again"
        }
        None => "the kernel log, which would say why, cannot be read",
    };
    Some((Killer::KvmBug, format!("{line} ({unknown})")))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "KVM: unknown exit, hardware reason e0000091",
        Killer::KvmBug,
        "exit that QEMU does not know"
    )]
    #[case(
        "KVM: unknown exit reason 99",
        Killer::KvmBug,
        "exit that QEMU does not know"
    )]
    #[case(
        "error: kvm run failed Bad address",
        Killer::Vmm,
        "no memory behind a guest page"
    )]
    #[case(
        "error: kvm run failed Cannot allocate memory",
        Killer::HostMemory,
        "no memory on the host"
    )]
    #[case(
        "error: kvm run failed Memory page has hardware error",
        Killer::HostMemory,
        "broken"
    )]
    #[case("error: kvm run failed Invalid argument", Killer::Vmm, "not set up")]
    #[case(
        "error: kvm run failed Input/output error",
        Killer::KvmBug,
        "says nothing"
    )]
    #[case(
        "error: kvm run failed Function not implemented",
        Killer::KvmBug,
        "says nothing"
    )]
    #[case(
        "KVM: entry failed, hardware error 0x80000021",
        Killer::KvmBug,
        "refused to enter"
    )]
    #[case(
        "KVM internal error. Suberror: 4\nextra data[0]: 0x1",
        Killer::KvmBug,
        "reason for which the guest exited"
    )]
    #[case(
        "KVM internal error. Suberror: 1\nemulation failure",
        Killer::KvmBug,
        "emulate"
    )]
    #[case("KVM internal error. Suberror: 9", Killer::KvmBug, "gave up")]
    #[case(
        "qemu-system-x86_64: Convert non guest_memfd backed memory region (0xfee00000 ,+ 0x1000) to private",
        Killer::Guest,
        "MMIO"
    )]
    #[case("KVM_EXIT_MEMORY_FAULT: Unknown flag 0x10", Killer::Vmm, "newer")]
    #[case(
        "kvm_set_memory_attributes: failed to set memory (0x0+0x1000) with attr 0x8 error 'Cannot allocate memory'",
        Killer::HostMemory,
        "no memory on the host"
    )]
    #[case(
        "kvm_set_memory_attributes: failed to set memory (0x0+0x1000) with attr 0x8 error 'Device or resource busy'",
        Killer::KvmBug,
        "did not change"
    )]
    #[case(
        "qemu-system-x86_64: ram_block_discard_guest_memfd_range: Failed to fallocate ram:0 +1000 (-22)",
        Killer::Vmm,
        "converts in place"
    )]
    #[case(
        "qemu-system-x86_64: ram_block_discard_guest_memfd_range: Failed to fallocate ram:0 +1000 (-12)",
        Killer::HostMemory,
        "no memory for a hole"
    )]
    #[case(
        "qemu-system-x86_64: QEMU got Hardware memory error at addr 0x7f00",
        Killer::HostMemory,
        "broken"
    )]
    #[case(
        "qemu-system-x86_64: Insufficient free host memory pages available to allocate guest RAM",
        Killer::HostMemory,
        "hugetlb"
    )]
    #[case(
        "2026-11-20T09:30:01.123456Z qemu-system-x86_64: error: kvm run failed Operation not permitted",
        Killer::Vmm,
        "seccomp"
    )]
    #[case(
        "internal error: QEMU unexpectedly closed the monitor (vm='td'): error: kvm run failed Bad address",
        Killer::Vmm,
        "no memory behind a guest page"
    )]
    #[case(
        "qemu-system-x86_64: mlock: Cannot allocate memory\nqemu-system-x86_64: locking memory failed",
        Killer::Vmm,
        "RLIMIT_MEMLOCK"
    )]
    #[case(
        "qemu-system-x86_64: ram_block_discard_range: Failed to discard range ram:0 +1000 (-12)",
        Killer::HostMemory,
        "no memory for a hole"
    )]
    #[case(
        "qemu-system-x86_64: ram_block_discard_range: Failed to discard range ram:0 +1000 (-22)",
        Killer::Vmm,
        "take back"
    )]
    #[case(
        "kvm_set_user_memory_region: KVM_SET_USER_MEMORY_REGION2 failed, slot=3: Cannot allocate memory\n\
         kvm_set_phys_mem: error registering slot: Cannot allocate memory",
        Killer::HostMemory,
        "no memory on the host"
    )]
    #[case(
        "kvm_set_phys_mem: error registering slot: Invalid argument",
        Killer::Vmm,
        "laid out"
    )]
    #[case(
        "qemu-system-x86_64: kvm_gmem: Too many open files",
        Killer::Vmm,
        "ulimit -n"
    )]
    #[case("qemu: hardware error: pci: bad address", Killer::Vmm, "own devices")]
    #[case(
        "qemu-system-x86_64: Failed to get registers: Input/output error",
        Killer::KvmBug,
        "KVM_BUG_ON"
    )]
    #[case(
        "qemu-system-x86_64: Failed to put registers after init: Input/output error",
        Killer::KvmBug,
        "KVM_BUG_ON"
    )]
    #[case(
        "qemu-system-x86_64: Failed to put registers after init: Invalid argument",
        Killer::Vmm,
        "does not take them"
    )]
    #[case(
        "qemu-system-x86_64: terminating on signal 15 from pid 99 (libvirtd)",
        Killer::Vmm,
        "signal from outside"
    )]
    #[case(
        "qemu-system-x86_64: qemu_prealloc_mem: preallocating memory failed: Bad address",
        Killer::HostMemory,
        "hugetlb"
    )]
    #[case(
        "qemu-system-x86_64: Hardware memory error for memory used by QEMU itself instead of guest system!",
        Killer::HostMemory,
        "broken"
    )]
    fn words_blame_the_right_side(#[case] stderr: &str, #[case] by: Killer, #[case] says: &str) {
        let (found, text) = last_words(stderr, Some(&[])).unwrap();
        assert_eq!(found, by, "{text}");
        assert!(text.contains(says), "{text}");
    }

    #[test]
    fn a_machine_without_memory_is_blamed_for_a_missing_page() {
        let log = ["qemu-system-x86: page allocation failure: order:0, mode:0x0".to_owned()];
        let (by, text) = last_words("error: kvm run failed Bad address", Some(&log)).unwrap();
        assert_eq!(by, Killer::HostMemory);
        assert!(text.contains("order:0"), "{text}");
    }

    #[test]
    fn what_is_not_about_the_guest_blames_nobody() {
        assert_eq!(last_words("qemu: warning: old option\n", Some(&[])), None);
        assert_eq!(last_words("", None), None);
    }
}
