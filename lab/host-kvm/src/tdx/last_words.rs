//! QEMU's last error message about a guest that cannot continue, and the side at fault.
//!
//! Source: error texts of QEMU 10.1 to 11.1 (accel/kvm/kvm-all.c, target/i386/kvm/kvm.c,
//! system/physmem.c), and of which side of KVM_RUN returns an errno (`virt/kvm/kvm_main.c`,
//! `arch/x86/kvm/`).

use tdxlab_journal::Killer;

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
    words("Cannot allocate memory", Killer::HostMemory, NO_MEMORY),
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
    let known = LAST_WORDS.iter().find_map(|words| {
        let line = stderr
            .lines()
            .find(|line| line.contains(words.text) && line.contains(words.with))?;
        Some((words, line.trim()))
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
    let line = stderr.lines().find(|line| line.contains(RUN))?;
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
