//! QEMU's last error message about a guest that cannot continue, and the side at fault.
//!
//! Source: error texts of QEMU 10.1 to 11.1 (accel/kvm/kvm-all.c, target/i386/kvm/kvm.c,
//! system/physmem.c), and of which side of KVM_RUN returns an errno (`virt/kvm/kvm_main.c`,
//! `arch/x86/kvm/`).

use tdxlab_journal::{Killer, Reading};

use super::refusal::errors_first;

/// An error text of QEMU, and its meaning.
struct Words {
    text: &'static str,
    /// Another text required in the same line.
    with: &'static str,
    by: Killer,
    means: &'static str,
}

/// `TEXT => KILLER MEANING;` or `TEXT with TEXT => KILLER MEANING;`.
macro_rules! last_words {
    ($($text:tt $(with $with:tt)? => $by:ident $means:expr;)*) => {
        &[$(Words {
            text: $text,
            with: last_words!(@ $($with)?),
            by: Killer::$by,
            means: $means,
        }),*]
    };
    (@ $with:tt) => { $with };
    (@) => { "" };
}

const RUN: &str = "kvm run failed";
const NO_MEMORY: &str = "KVM found no memory on the host";
const HOLE: &str = "Failed to fallocate";
const ATTRIBUTES: &str = "failed to set memory";
const EIO: &str = "Input/output error";
const BUGGED: &str = "EIO: KVM refuses every call for a VM that a KVM_BUG_ON has ended";
const SUBERROR: &str = "KVM internal error. Suberror: ";

/// The first that fits counts.
const LAST_WORDS: &[Words] = last_words! {
    HOLE with "(-12)" => HostMemory "the kernel found no memory for a hole that QEMU punched";
    "Failed to discard range" with "(-12)" => HostMemory
        "the kernel found no memory for a hole that QEMU punched";
    HOLE with "ram_block_discard_guest_memfd_range" => Vmm
        "QEMU punches a hole for each conversion, and this kernel refuses it: take a QEMU that \
        converts in place, as designs with huge pages need";
    "Hardware memory error" => HostMemory "the hardware found memory of QEMU broken";
    "Guest MCE Memory Error" => HostMemory "the hardware found memory of the guest broken";
    "Convert non guest_memfd backed memory region" => Guest
        "the guest made private what has no private memory behind it, such as MMIO";
    "KVM_EXIT_MEMORY_FAULT: Unknown flag" => Vmm
        "this QEMU does not know what KVM asks of it: take a newer one";
    ATTRIBUTES with "-12" => HostMemory NO_MEMORY;
    ATTRIBUTES with "Cannot allocate memory" => HostMemory NO_MEMORY;
    ATTRIBUTES => KvmBug "KVM did not change whether memory is private";
    "KVM: unknown exit" => KvmBug "KVM handed out an exit that QEMU does not know";
    "KVM: entry failed, hardware error" => KvmBug
        "the processor or the TDX module refused to enter the guest";
    "KVM: exception " => KvmBug "KVM handed out an exception that it has to handle";
    "Encountered a notify exit with invalid context in guest" => Guest
        "the guest kept the processor from taking events";
    SUBERROR with ": 1" => KvmBug "KVM could not emulate an instruction of the guest";
    SUBERROR with ": 2" => KvmBug "two exceptions at once";
    SUBERROR with ": 3" => KvmBug "an exit while an event was delivered";
    SUBERROR with ": 4" => KvmBug "KVM does not handle the reason for which the guest exited";
    SUBERROR => KvmBug "KVM gave up";
    RUN with "Bad address" => Vmm
        "EFAULT: there is no memory behind a guest page; QEMU mapped none there, or took it away";
    RUN with "Cannot allocate memory" => HostMemory NO_MEMORY;
    RUN with "No space left on device" => HostMemory NO_MEMORY;
    RUN with "Memory page has hardware error" => HostMemory
        "the hardware found memory of the guest broken";
    RUN with "Invalid argument" => Vmm
        "EINVAL: QEMU ran a vCPU that is not set up, or not for this TD";
    RUN with "Exec format error" => Vmm "QEMU ran a vCPU whose registers it had not set";
    RUN with "Operation not permitted" => Vmm
        "EPERM: QEMU may not run vCPUs (a seccomp filter, or a security module)";
    "Failed to get registers" with EIO => KvmBug BUGGED;
    "Failed to put registers" with EIO => KvmBug BUGGED;
    "Failed to get registers" => Vmm "QEMU asked KVM for registers that it does not give";
    "mlock: " => Vmm "QEMU may lock too little memory (RLIMIT_MEMLOCK)";
    "Cannot allocate memory" => HostMemory NO_MEMORY;
    "Failed to discard range" => Vmm "the kernel did not take back memory that QEMU gave up";
    "error registering slot" => Vmm "QEMU laid out memory as KVM does not take it";
    "Failed to put registers" => Vmm "QEMU set registers as KVM does not take them";
    "Too many open files" => Vmm "QEMU may open too few files (ulimit -n)";
    "qemu: hardware error:" => Vmm "QEMU gave up over one of its own devices";
    "terminating on signal" => Vmm "a signal from outside the lab told QEMU to end";
    "qemu_prealloc_mem: preallocating memory failed" => HostMemory
        "the host had no page for memory that QEMU reserved (an empty hugetlb pool, a full tmpfs)";
    "Insufficient free host memory pages" => HostMemory "the hugetlb pool has no page left";
};

/// Whether a kernel message says that the machine, and not only a cgroup or a large allocation of
/// somebody else's, had no page.
fn is_of_no_page(line: &str) -> bool {
    let of_qemu = ["qemu", "CPU "].iter().any(|comm| line.starts_with(comm));
    line.starts_with("Out of memory: ")
        || line.contains("constraint=CONSTRAINT_NONE")
        || line.contains("invoked oom-killer") && of_qemu
        || line.contains("page allocation failure") && (of_qemu || line.contains("order:0,"))
}

/// The side at fault by QEMU's last error, and the line with its meaning; `None` if it is not about
/// the guest. `log` is the kernel log.
pub(super) fn last_words(stderr: &str, log: &Reading<Vec<String>>) -> Option<(Killer, String)> {
    errors_first(stderr, |lines| words_in(lines, log))
}

fn words_in(lines: &[&str], log: &Reading<Vec<String>>) -> Option<(Killer, String)> {
    let known = LAST_WORDS.iter().find_map(|words| {
        let fits = |line: &&&str| line.contains(words.text) && line.contains(words.with);
        Some((words, lines.iter().find(fits)?.trim()))
    });
    if let Some((words, line)) = known {
        let mut said = log.left().into_iter().flatten();
        let no_pages = said.find(|line| is_of_no_page(line));
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
        Reading::Read(_) => {
            "the kernel log says nothing about it: a warning that fired since boot may not show again"
        }
        Reading::Missing { .. } => "the kernel log, which would say why, cannot be read",
        Reading::Incomplete { .. } => "of the kernel log, which would say why, a part is lost",
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
        let (found, text) = last_words(stderr, &Reading::Read(Vec::new())).unwrap();
        assert_eq!(found, by, "{text}");
        assert!(text.contains(says), "{text}");
    }

    #[test]
    fn a_machine_without_memory_is_blamed_for_a_missing_page() {
        let log = ["qemu-system-x86: page allocation failure: order:0, mode:0x0".to_owned()];
        let log = Reading::Read(log.to_vec());
        let (by, text) = last_words("error: kvm run failed Bad address", &log).unwrap();
        assert_eq!(by, Killer::HostMemory);
        assert!(text.contains("order:0"), "{text}");
    }

    #[test]
    fn what_is_not_about_the_guest_blames_nobody() {
        let log = Reading::Read(Vec::new());
        assert_eq!(last_words("qemu: warning: old option\n", &log), None);
        assert_eq!(last_words("", &Reading::missing("no log")), None);
    }
}
