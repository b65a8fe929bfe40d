//! QEMU's errors when it cannot create a TD, each with a remedy.
//!
//! Source: error texts of QEMU 10.1 to 11.1 (accel/kvm/kvm-all.c, target/i386/kvm/tdx.c,
//! hw/i386/tdvf.c) and of `arch/x86/kvm/vmx/tdx.c`. Those of the ioctls were seen in rehearsals.

use tdxlab_journal::seamcall::SeamcallStatus;

/// A text in QEMU's stderr, and the remedy.
struct Refusal {
    text: &'static str,
    /// Another text required in the same line, where the error number matters.
    with: &'static str,
    advice: &'static str,
}

const fn refusal(text: &'static str, advice: &'static str) -> Refusal {
    Refusal {
        text,
        with: "",
        advice,
    }
}

const fn of_ioctl(text: &'static str, with: &'static str, advice: &'static str) -> Refusal {
    Refusal { text, with, advice }
}

const OLD_QEMU: &str =
    "this QEMU is older than 10.1 or was built without TDX; name another in TDXLAB_QEMU";
const NO_TDX: &str =
    "KVM runs no TDs here: boot with kvm_intel.tdx=1 nohibernate, then see `tdxlab doctor`";
const OTHER_ABI: &str = "QEMU and kernel speak different versions of KVM's TDX ioctls, as trees from before TDX was \
    merged do: take QEMU 10.1 and Linux 6.16, or newer ones, together";
const NO_FEATURE: &str = "the TDX module or KVM does not know what QEMU asks of this TD: QEMU, kernel and module do \
    not go together; try a newer kernel or an older QEMU";
const DAMAGED: &str = "the image's TDVF metadata is damaged: rebuild tdxlab";
// QEMU before TDX was merged says them without "TDX ioctl".
const INIT_VM: &str = "KVM_TDX_INIT_VM failed";
const INIT_MEM_REGION: &str = "KVM_TDX_INIT_MEM_REGION failed";

/// The first that fits counts: causes before what follows from them.
const REFUSALS: [Refusal; 61] = [
    refusal("vm-type TDX not supported by KVM", NO_TDX),
    refusal("vm-type tdx not supported by KVM", NO_TDX),
    of_ioctl("KVM_TDX_", "Inappropriate ioctl", OTHER_ABI),
    refusal(
        "cannot set up private guest memory for tdx-guest: KVM required",
        "the QEMU in use runs TCG for a TD; use one with KVM, or name it in TDXLAB_QEMU",
    ),
    refusal(
        "invalid accelerator kvm",
        "this QEMU was built without KVM; name another in TDXLAB_QEMU",
    ),
    refusal(
        "unsupported machine type",
        "this QEMU has no such machine: take one for x86_64, built with q35 (and microvm)",
    ),
    refusal(
        "seccomp",
        "a seccomp filter keeps QEMU from starting: take -sandbox off, or start it outside of the service",
    ),
    of_ioctl(
        "tdx-guest",
        "is unexpected",
        "this QEMU's tdx-guest has no such property: QEMU and tdxlab do not go together; name another in \
         TDXLAB_QEMU",
    ),
    of_ioctl(
        "tdx-guest",
        "not found",
        "this QEMU's tdx-guest has no such property: QEMU and tdxlab do not go together; name another in \
         TDXLAB_QEMU",
    ),
    refusal("invalid object type: tdx-guest", OLD_QEMU),
    refusal("does not accept value 'tdx-guest'", OLD_QEMU),
    refusal(
        "could not load PC BIOS",
        "the image is missing or no multiple of 64 KiB: rebuild tdxlab, and check memory limits",
    ),
    refusal(
        "Cannot find TDX_METADATA_OFFSET_GUID",
        "the image has no TDVF table: it is not the lab's micro guest",
    ),
    refusal("Invalid TDVF signature in metadata", DAMAGED),
    refusal("Invalid number of fw entries", DAMAGED),
    refusal("TDVF metadata len", DAMAGED),
    refusal("Broken metadata RawDataSize", DAMAGED),
    refusal("not page aligned", DAMAGED),
    refusal("section with RawDataSize", DAMAGED),
    refusal("unsupported section type", DAMAGED),
    refusal("TDVF metadata doesn't specify TD_HOB location", DAMAGED),
    refusal("TD_HOB overrun", DAMAGED),
    refusal("failed to parse TDVF", DAMAGED),
    refusal(
        "Failed to mmap memory for TDVF section",
        "the machine is out of memory for the guest's initial image",
    ),
    refusal(
        "Failed to accept memory for TDVF section",
        "a range of guest.image lies outside of RAM, or in two pieces of it",
    ),
    refusal(
        "Named cpu model is not supported for TDX",
        "a TD needs -cpu host; report this with the command line in qemu.sh",
    ),
    refusal(
        "TDX VM requires kernel_irqchip to be split",
        "report this with the command line in qemu.sh",
    ),
    refusal(
        "TDX VM doesn't support",
        "report this with the command line in qemu.sh",
    ),
    refusal("TDX doesn't support requested feature", NO_FEATURE),
    refusal("Invalid attributes 0x", NO_FEATURE),
    refusal("Invalid XFAM 0x", NO_FEATURE),
    refusal(
        "TDX requires guest CPU physical bits",
        "take host-phys-bits=off and phys-bits= out of QEMU's command line: a TD has those of the host",
    ),
    refusal(
        "exceeds the maximum cpus supported by KVM",
        "a TD has at most as many vCPUs as the host has processors: use fewer in the scenario",
    ),
    refusal(
        "KVM_CREATE_VCPU IOCTL failed",
        "a vCPU could not be made: see dmesg, and whether the host has memory left",
    ),
    of_ioctl(
        "ioctl(KVM_CREATE_VM) failed",
        "Device or resource busy",
        "another hypervisor has VMX on this machine: end it, then load kvm_intel again",
    ),
    refusal(
        "ioctl(KVM_CREATE_VM) failed",
        "KVM made no VM: see dmesg for what it said, and whether a processor of every package is online",
    ),
    refusal(
        "KVM_SET_USER_MEMORY_REGION2 failed",
        "KVM did not take guest memory: see dmesg; QEMU and kernel may not go together",
    ),
    refusal(
        "Insufficient free host memory pages",
        "the hugetlb pool has no page left: echo 64 > /proc/sys/vm/nr_hugepages, or free some",
    ),
    refusal(
        "discard currently blocked",
        "something holds guest memory: a TD cannot have assigned devices that block discard",
    ),
    refusal(
        "ardware RNG",
        "the processor's random number generator gave nothing for long; try again later",
    ),
    of_ioctl(
        INIT_VM,
        "Resource temporarily unavailable",
        "the TDX module found no entropy, or was busy, in 10000 tries; try again later",
    ),
    of_ioctl(
        INIT_VM,
        "No space left on device",
        "no private key id is left, each running TD holds one: end other TDs",
    ),
    of_ioctl(
        INIT_VM,
        "Invalid argument",
        "KVM does not take attributes, XFAM, CPUID or TSC frequency of this TD: QEMU and kernel do \
         not go together; try a newer QEMU",
    ),
    of_ioctl(
        INIT_VM,
        "",
        "the TDX module did not make the TD: see dmesg for its status code, and how many key ids \
         `tdxlab doctor` counts",
    ),
    of_ioctl(
        INIT_MEM_REGION,
        "Device or resource busy",
        "another TD got in the way of adding the initial image; run again, with --jobs 1, on Linux \
         6.19 or newer",
    ),
    of_ioctl(
        INIT_MEM_REGION,
        "Resource temporarily unavailable",
        "the TDX module was busy with something else for as long as QEMU tried: run again, with --jobs 1",
    ),
    of_ioctl(
        INIT_MEM_REGION,
        "",
        "the initial image could not be added: see dmesg for the TDX module's status code",
    ),
    of_ioctl(
        "KVM_TDX_CAPABILITIES failed",
        "",
        "KVM does not say what its TDs can do: QEMU and kernel do not go together; try a newer QEMU",
    ),
    of_ioctl(
        "KVM_TDX_INIT_VCPU failed",
        "",
        "a vCPU could not be made: a TD has at most as many as the host has processors; else see \
         dmesg",
    ),
    refusal(
        "TDX ioctl KVM_TDX_",
        "KVM refused a step of making the TD: the text names it; see dmesg for the TDX module's \
         status code",
    ),
    refusal(
        "Too many open files",
        "raise the limit of open files (ulimit -n): each vCPU and each piece of memory takes some",
    ),
    refusal(
        "Error creating KVM guest_memfd",
        "KVM could not make private memory: see dmesg and free memory",
    ),
    refusal(
        "KVM does not support guest_memfd",
        "KVM keeps no attributes of a VM's memory (kvm.gmem_in_place_conversion=Y, or \
         kvm.vm_memory_attributes=N in early series, which huge private pages need): take a QEMU that \
         converts in place, or load kvm with the parameter the other way for design stock",
    ),
    refusal(
        "failed to set memory",
        "KVM did not make guest memory private: see dmesg and free memory",
    ),
    refusal(
        "mlock: ",
        "QEMU may lock too little memory: raise RLIMIT_MEMLOCK (ulimit -l)",
    ),
    refusal(
        "RLIMIT_MEMLOCK",
        "QEMU may lock too little memory: raise RLIMIT_MEMLOCK (ulimit -l)",
    ),
    refusal(
        "Cannot allocate memory",
        "the machine is out of memory for a guest of this size",
    ),
    refusal(
        "Could not access KVM kernel module",
        "/dev/kvm is missing or may not be opened by this user: load kvm_intel, join group kvm",
    ),
    refusal(
        "failed to initialize kvm: No such device",
        "/dev/kvm has no KVM behind it: turn VT-x on in the firmware, load kvm_intel, and do not start \
         this inside of a VM without nested virtualisation",
    ),
    refusal(
        "is not a multiple of 25MHz",
        "leave the TSC frequency of a TD to KVM",
    ),
    refusal(
        "Permission denied",
        "this user may not do what QEMU does: see the line itself, or run as root",
    ),
];

/// The line of `stderr` with the reason why QEMU gave up, and the remedy.
pub fn explain(stderr: &str) -> Option<(String, &'static str)> {
    REFUSALS.iter().find_map(|refusal| {
        let fits = |line: &&str| line.contains(refusal.text) && line.contains(refusal.with);
        let line = stderr.lines().find(fits)?;
        // Everything before the last program name is of no help.
        let line = line
            .rsplit_once("qemu-system-x86_64: ")
            .map_or(line, |(_, line)| line);
        let line = line.trim();
        let text = match status(line) {
            Some(status) => format!("{line} ({status})"),
            None => line.to_owned(),
        };
        Some((text, refusal.advice))
    })
}

/// The TDX module's status in what QEMU says of an ioctl: `hw_errors: 0xc000...`.
fn status(line: &str) -> Option<SeamcallStatus> {
    let (_, rest) = line.split_once("hw_errors: 0x")?;
    let end = rest.find(|c: char| !c.is_ascii_hexdigit());
    let status = u64::from_str_radix(&rest[..end.unwrap_or(rest.len())], 16).ok()?;
    (status != 0).then_some(SeamcallStatus(status))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// QEMU's stderr, and a word of the advice.
    const TEXTS: [(&str, &str); 61] = [
        (
            "qemu-system-x86_64: vm-type tdx not supported by KVM\n",
            "kvm_intel.tdx=1",
        ),
        (
            "qemu-system-x86_64: -accel kvm: get_tdx_capabilities: KVM_TDX_CAPABILITIES failed: \
             Inappropriate ioctl for device\n",
            "different versions",
        ),
        (
            "qemu-system-x86_64: KVM_TDX_INIT_MEM_REGION failed Resource temporarily unavailable\n",
            "--jobs 1",
        ),
        (
            "qemu-system-x86_64: -accel kvm: failed to initialize kvm: No such device\n",
            "VT-x",
        ),
        (
            "qemu-system-x86_64: -accel kvm: invalid accelerator kvm\n",
            "without KVM",
        ),
        (
            "qemu-system-x86_64: -machine q35: unsupported machine type\n",
            "no such machine",
        ),
        (
            "failed to install seccomp syscall filter in the kernel: Operation not permitted\n",
            "-sandbox",
        ),
        (
            "qemu-system-x86_64: -object tdx-guest,id=td,x=on: Parameter 'x' is unexpected\n",
            "no such property",
        ),
        (
            "qemu-system-x86_64: -object tdx-guest,id=td,x=on: Property 'tdx-guest.x' not found\n",
            "no such property",
        ),
        (
            "qemu-system-x86_64: mlock: Cannot allocate memory\nlocking memory failed\n",
            "ulimit -l",
        ),
        (
            "vfio_dma_map failed: Cannot allocate memory, check RLIMIT_MEMLOCK\n",
            "ulimit -l",
        ),
        (
            "Error creating KVM guest_memfd: Too many open files\n",
            "ulimit -n",
        ),
        (
            "ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy\n",
            "another hypervisor",
        ),
        (
            "qemu-system-x86_64: -accel kvm: vm-type TDX not supported by KVM\n",
            "kvm_intel.tdx=1",
        ),
        (
            "qemu-system-x86_64: cannot set up private guest memory for tdx-guest: KVM required\n",
            "TCG",
        ),
        (
            "qemu-system-x86_64: -object: invalid object type: tdx-guest\n",
            "10.1",
        ),
        (
            "qemu: -object tdx-guest,id=td: Parameter 'qom-type' does not accept value 'tdx-guest'\n",
            "10.1",
        ),
        ("qemu: could not load PC BIOS '/proc/self/fd/9'\n", "64 KiB"),
        (
            "qemu-system-x86_64: Cannot find TDX_METADATA_OFFSET_GUID\n\
             qemu-system-x86_64: failed to parse TDVF for TDX VM\n",
            "no TDVF table",
        ),
        (
            "Invalid TDVF signature in metadata!\nfailed to parse TDVF for TDX VM\n",
            "rebuild",
        ),
        (
            "Invalid number of fw entries (1) in TDVF Metadata\n",
            "rebuild",
        ),
        (
            "TDVF metadata len (0x30) mismatch, expected (0x50)\n",
            "rebuild",
        ),
        (
            "Broken metadata RawDataSize 0x2000 MemoryDataSize 0x1000\n",
            "rebuild",
        ),
        ("MemoryAddress 0x1001 not page aligned\n", "rebuild"),
        ("3 section with RawDataSize 0x10 != 0\n", "rebuild"),
        ("TDVF contains unsupported section type 7\n", "rebuild"),
        (
            "TDVF metadata doesn't specify TD_HOB location.\n",
            "rebuild",
        ),
        ("TD_HOB overrun, size = 0x10\n", "rebuild"),
        ("failed to parse TDVF for TDX VM\n", "rebuild"),
        (
            "Failed to mmap memory for TDVF section 2\n",
            "out of memory",
        ),
        (
            "Failed to accept memory for TDVF section 3\n",
            "guest.image",
        ),
        (
            "qemu-system-x86_64: Named cpu model is not supported for TDX yet!\n",
            "-cpu host",
        ),
        (
            "qemu-system-x86_64: TDX VM requires kernel_irqchip to be split\n",
            "qemu.sh",
        ),
        (
            "qemu-system-x86_64: TDX VM doesn't support SMM\n",
            "qemu.sh",
        ),
        (
            "qemu-system-x86_64: TDX doesn't support requested feature: CPUID.01H:ECX.vmx\n",
            "do not go together",
        ),
        (
            "qemu-system-x86_64: Invalid attributes 0x10000001 for TDX VM (KVM supported: 0x10000000)\n",
            "do not go together",
        ),
        (
            "qemu-system-x86_64: Invalid XFAM 0x7 for TDX VM (supported: 0x3))\n",
            "do not go together",
        ),
        (
            "qemu-system-x86_64: TDX requires guest CPU physical bits (46) to match host CPU physical \
             bits (52)\n",
            "phys-bits",
        ),
        (
            "Number of SMP cpus requested (64) exceeds the maximum cpus supported by KVM (8)\n",
            "fewer",
        ),
        (
            "qemu-system-x86_64: KVM_CREATE_VCPU IOCTL failed for vCPU 3 (Cannot allocate memory)\n",
            "vCPU could not be made",
        ),
        (
            "ioctl(KVM_CREATE_VM) failed: Input/output error\n",
            "every package",
        ),
        (
            "kvm_set_user_memory_region: KVM_SET_USER_MEMORY_REGION2 failed, slot=0, start=0x0\n",
            "did not take guest memory",
        ),
        (
            "qemu-system-x86_64: Insufficient free host memory pages available to allocate guest RAM\n",
            "hugetlb pool",
        ),
        (
            "cannot set up private guest memory: discard currently blocked\n\
             Are you using assigned devices?\n",
            "assigned devices",
        ),
        (
            "Hardware RNG (Random Number Generator) is busy\n",
            "random number",
        ),
        (
            "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: Resource temporarily unavailable\n",
            "entropy",
        ),
        (
            "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: No space left on device\n",
            "key id",
        ),
        (
            "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: Invalid argument\n",
            "newer QEMU",
        ),
        (
            "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0xc000080200000000: Input/output error\n",
            "dmesg",
        ),
        (
            "TDX ioctl KVM_TDX_INIT_MEM_REGION failed, hw_errors: 0x0: Device or resource busy\n",
            "--jobs 1",
        ),
        (
            "TDX ioctl KVM_TDX_INIT_MEM_REGION failed, hw_errors: 0x0: Input/output error\n",
            "initial image",
        ),
        (
            "TDX ioctl KVM_TDX_CAPABILITIES failed, hw_errors: 0x0: Input/output error\n",
            "newer QEMU",
        ),
        (
            "TDX ioctl KVM_TDX_INIT_VCPU failed, hw_errors: 0x0: Invalid argument\n",
            "as many as the host",
        ),
        (
            "TDX ioctl KVM_TDX_FINALIZE_VM failed, hw_errors: 0x0: Invalid argument\n",
            "refused a step",
        ),
        (
            "qemu-system-x86_64: Error creating KVM guest_memfd: Cannot allocate memory\n",
            "private memory",
        ),
        (
            "qemu-system-x86_64: KVM does not support guest_memfd\n",
            "converts in place",
        ),
        (
            "kvm_set_memory_attributes: failed to set memory (0x0+0x1000) with attr 0x8 error '-12'\n",
            "private: see dmesg",
        ),
        (
            "cannot set up guest memory: Cannot allocate memory\n",
            "out of memory",
        ),
        (
            "Could not access KVM kernel module: No such file or directory\n",
            "/dev/kvm",
        ),
        (
            "requested TSC frequency is not a multiple of 25MHz\n",
            "leave the TSC",
        ),
        ("open /dev/kvm: Permission denied\n", "root"),
    ];

    #[test]
    fn each_text_says_what_to_do() {
        for (stderr, advice) in TEXTS {
            let (line, said) = explain(stderr).unwrap_or_else(|| panic!("{stderr}"));
            assert!(said.contains(advice), "{stderr}: {said}");
            assert!(
                !line.contains('\n') && !line.starts_with("qemu-system"),
                "{line}"
            );
        }
    }

    /// No refusal is hidden behind another.
    #[test]
    fn each_refusal_has_a_text() {
        for refusal in &REFUSALS {
            let fits = |line: &str| line.contains(refusal.text) && line.contains(refusal.with);
            let found = TEXTS.iter().find(|(stderr, _)| {
                stderr.lines().any(fits) && explain(stderr).unwrap().1 == refusal.advice
            });
            assert!(found.is_some(), "{} {}", refusal.text, refusal.with);
        }
    }

    /// Reports the cause, not its consequences.
    #[test]
    fn causes_come_first() {
        let stderr = "qemu-system-x86_64: Invalid TDVF signature in metadata!\n\
                      qemu-system-x86_64: failed to parse TDVF for TDX VM\n";
        let (line, _) = explain(stderr).unwrap();
        assert_eq!(line, "Invalid TDVF signature in metadata!");
    }

    #[rstest]
    #[case("qemu-system-x86_64: something new\n")]
    #[case("")]
    fn an_unknown_text_is_left_as_it_is(#[case] stderr: &str) {
        assert_eq!(explain(stderr), None);
    }

    #[test]
    fn the_modules_status_is_decoded() {
        let said =
            "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x8000020000000080: Input/output error";
        let (line, _) = explain(said).unwrap();
        assert!(line.contains("OPERAND_BUSY"), "{line}");
        let (line, _) = explain(&said.replace("8000020000000080", "0")).unwrap();
        assert!(!line.contains('('), "{line}");
    }
}
