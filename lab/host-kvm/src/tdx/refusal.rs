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

/// `TEXT => ADVICE;` or `TEXT with TEXT => ADVICE;`.
macro_rules! refusals {
    ($($text:tt $(with $with:literal)? => $advice:expr;)*) => {
        &[$(Refusal { text: $text, with: concat!($($with)?), advice: $advice }),*]
    };
}

const OLD_QEMU: &str =
    "this QEMU is older than 10.1 or was built without TDX; name another in TDXLAB_QEMU";
const NO_TDX: &str =
    "KVM runs no TDs here: boot with kvm_intel.tdx=1 nohibernate, then see `tdxlab doctor`";
const OTHER_ABI: &str = "QEMU and kernel speak different versions of KVM's TDX ioctls, as trees from before TDX was \
    merged do: take QEMU 10.1 and Linux 6.16, or newer ones, together";
const NO_FEATURE: &str = "the TDX module or KVM does not know what QEMU asks of this TD: QEMU, kernel and module do \
    not go together; try a newer kernel or an older QEMU";
const OLD_KERNEL: &str =
    "this kernel is older than what this QEMU asks of it: take a newer kernel, or an older QEMU";
const CLOCK: &str = "leave the TSC frequency of a TD to KVM; if QEMU's command line has none, this kernel is too old \
    for it";
const DAMAGED: &str = "the image's TDVF metadata is damaged: rebuild tdxlab";
// QEMU before TDX was merged says them without "TDX ioctl".
const INIT_VM: &str = "KVM_TDX_INIT_VM failed";
const INIT_MEM_REGION: &str = "KVM_TDX_INIT_MEM_REGION failed";

/// The first that fits counts: causes before what follows from them.
const REFUSALS: &[Refusal] = refusals! {
    "vm-type TDX not supported by KVM" => NO_TDX;
    "vm-type tdx not supported by KVM" => NO_TDX;
    "KVM_TDX_" with "Inappropriate ioctl" => OTHER_ABI;
    "cannot set up private guest memory for tdx-guest: KVM required" =>
        "the QEMU in use runs TCG for a TD; use one with KVM, or name it in TDXLAB_QEMU";
    "invalid accelerator kvm" => "this QEMU was built without KVM; name another in TDXLAB_QEMU";
    "unsupported machine type" =>
        "this QEMU has no such machine: take one for x86_64, built with q35 (and microvm)";
    "seccomp" =>
        "a seccomp filter keeps QEMU from starting: take -sandbox off, or start it outside of the \
        service";
    "tdx-guest" with "is unexpected" =>
        "this QEMU's tdx-guest has no such property: QEMU and tdxlab do not go together; name \
        another in TDXLAB_QEMU";
    "tdx-guest" with "not found" =>
        "this QEMU's tdx-guest has no such property: QEMU and tdxlab do not go together; name \
        another in TDXLAB_QEMU";
    "invalid object type: tdx-guest" => OLD_QEMU;
    "does not accept value 'tdx-guest'" => OLD_QEMU;
    "could not load PC BIOS" =>
        "the image is missing or no multiple of 64 KiB: rebuild tdxlab, and check memory limits";
    "Cannot find TDX_METADATA_OFFSET_GUID" =>
        "the image has no TDVF table: it is not the lab's micro guest";
    "Invalid TDVF signature in metadata" => DAMAGED;
    "Invalid number of fw entries" => DAMAGED;
    "TDVF metadata len" => DAMAGED;
    "Broken metadata RawDataSize" => DAMAGED;
    "not page aligned" => DAMAGED;
    "section with RawDataSize" => DAMAGED;
    "unsupported section type" => DAMAGED;
    "Unsupported TDVF section" => DAMAGED;
    "TDVF metadata doesn't specify TD_HOB location" => DAMAGED;
    "TD_HOB overrun" => DAMAGED;
    "failed to parse TDVF" => DAMAGED;
    "Failed to mmap memory for TDVF section" =>
        "the machine is out of memory for the guest's initial image";
    "Failed to accept memory for TDVF section" =>
        "a range of guest.image lies outside of RAM, or in two pieces of it";
    "Named cpu model is not supported for TDX" =>
        "a TD needs -cpu host; report this with the command line in qemu.sh";
    "TDX VM requires kernel_irqchip to be split" => "report this with the command line in qemu.sh";
    "TDX VM doesn't support" => "report this with the command line in qemu.sh";
    "TDX doesn't support requested feature" => NO_FEATURE;
    "unsupported TD attribute bits" => NO_FEATURE;
    "Invalid attributes 0x" => NO_FEATURE;
    "Invalid XFAM 0x" => NO_FEATURE;
    "TDX requires guest CPU physical bits" =>
        "take host-phys-bits=off and phys-bits= out of QEMU's command line: a TD has those of the \
        host";
    "exceeds the maximum cpus supported by KVM" =>
        "a TD has at most as many vCPUs as the host has processors: use fewer in the scenario";
    "KVM_CREATE_VCPU IOCTL failed" =>
        "a vCPU could not be made: see dmesg, and whether the host has memory left";
    "ioctl(KVM_CREATE_VM) failed" with "Device or resource busy" =>
        "another hypervisor has VMX on this machine: end it, then load kvm_intel again";
    "ioctl(KVM_CREATE_VM) failed" =>
        "KVM made no VM: see dmesg for what it said, and whether a processor of every package is \
        online";
    "KVM_SET_USER_MEMORY_REGION2 failed" =>
        "KVM did not take guest memory: see dmesg; QEMU and kernel may not go together";
    "Insufficient free host memory pages" =>
        "the hugetlb pool has no page left: echo 64 > /proc/sys/vm/nr_hugepages, or free some";
    "discard currently blocked" =>
        "something holds guest memory: a TD cannot have assigned devices that block discard";
    "ardware RNG" =>
        "the processor's random number generator gave nothing for long; try again later";
    INIT_VM with "Resource temporarily unavailable" =>
        "the TDX module found no entropy, or was busy, in 10000 tries; try again later";
    INIT_VM with "Device or resource busy" =>
        "a cgroup allows no more TDs: raise misc.max of QEMU's cgroup and of those above it \
        (`tdxlab doctor` counts them), or end other TDs in it";
    INIT_VM with "No space left on device" =>
        "no private key id is left, each running TD holds one: end other TDs";
    INIT_VM with "Invalid argument" =>
        "KVM does not take attributes, XFAM, CPUID or TSC frequency of this TD: QEMU and kernel \
        do not go together; try a newer QEMU";
    INIT_VM =>
        "the TD was not made: see dmesg for what KVM or the TDX module says of it, and how many key \
        ids `tdxlab doctor` counts";
    INIT_MEM_REGION with "Device or resource busy" =>
        "another TD got in the way of adding the initial image; run again, with --jobs 1, on \
        Linux 6.19 or newer";
    INIT_MEM_REGION with "Resource temporarily unavailable" =>
        "the TDX module was busy with something else for as long as QEMU tried: run again, with \
        --jobs 1";
    INIT_MEM_REGION =>
        "the initial image could not be added: see dmesg for the TDX module's status code";
    "KVM_TDX_CAPABILITIES failed" =>
        "KVM does not say what its TDs can do: QEMU and kernel do not go together; try a newer \
        QEMU";
    "KVM_TDX_INIT_VCPU failed" =>
        "a vCPU could not be made: a TD has at most as many as the host has processors; else see \
        dmesg";
    "TDX ioctl KVM_TDX_" =>
        "KVM refused a step of making the TD: the text names it; see dmesg for the TDX module's \
        status code";
    "Too many open files" =>
        "raise the limit of open files (ulimit -n): each vCPU and each piece of memory takes some";
    "Error creating KVM guest_memfd" =>
        "KVM could not make private memory: see dmesg and free memory";
    "KVM does not support guest_memfd" =>
        "KVM keeps no attributes of a VM's memory (kvm.gmem_in_place_conversion=Y, or \
        kvm.vm_memory_attributes=N in early series, which huge private pages need): take a QEMU \
        that converts in place, or load kvm with the parameter the other way for design stock";
    "failed to set memory" => "KVM did not make guest memory private: see dmesg and free memory";
    "mlock: " => "QEMU may lock too little memory: raise RLIMIT_MEMLOCK (ulimit -l)";
    "RLIMIT_MEMLOCK" => "QEMU may lock too little memory: raise RLIMIT_MEMLOCK (ulimit -l)";
    "Cannot allocate memory" => "the machine is out of memory for a guest of this size";
    "Could not access KVM kernel module" =>
        "/dev/kvm is missing or may not be opened by this user: load kvm_intel, join group kvm";
    "failed to initialize kvm: No such device" =>
        "/dev/kvm has no KVM behind it: turn VT-x on in the firmware, load kvm_intel, and do not \
        start this inside of a VM without nested virtualisation";
    "Invalid TSC " => CLOCK;
    "Unable to set TSC frequency" => CLOCK;
    "Unable to set core crystal clock" => CLOCK;
    "KVM_CAP_X86_APIC_BUS_CYCLES_NS" => OLD_KERNEL;
    "KVM_HC_MAP_GPA_RANGE not enabled" => OLD_KERNEL;
    "failed to initialize kvm: Operation not supported" =>
        "KVM does not make VMs of this kind here: see `tdxlab doctor`, and dmesg";
    "Permission denied" =>
        "this user may not do what QEMU does: see the line itself, or run as root";
};

/// The line of `stderr` with the reason why QEMU gave up, and the remedy.
pub fn explain(stderr: &str) -> Option<(String, &'static str)> {
    errors_first(stderr, explain_lines)
}

/// What these lines say, or what QEMU only warns of, which it goes on after.
pub(super) fn errors_first<'a, T>(
    stderr: &'a str,
    explain: impl Fn(&[&'a str]) -> Option<T>,
) -> Option<T> {
    let is_warning = |line: &&str| {
        let mut marks = [": warning: ", ": info: "].iter();
        marks.any(|mark| line.contains(mark)) || line.starts_with("warning: ")
    };
    let (warnings, errors): (Vec<&str>, Vec<&str>) = stderr.lines().partition(is_warning);
    explain(&errors).or_else(|| explain(&warnings))
}

fn explain_lines(lines: &[&str]) -> Option<(String, &'static str)> {
    REFUSALS.iter().find_map(|refusal| {
        let fits = |line: &&&str| line.contains(refusal.text) && line.contains(refusal.with);
        let line = lines.iter().find(fits)?;
        // Everything before the last program name is of no help.
        let line = line
            .rsplit_once("qemu-system-x86_64: ")
            .map_or(*line, |(_, line)| line);
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

    macro_rules! texts {
        ($($stderr:literal => $advice:literal;)*) => { &[$(($stderr, $advice)),*] };
    }

    /// QEMU's stderr, and a word of the advice.
    const TEXTS: &[(&str, &str)] = texts! {
        "qemu-system-x86_64: vm-type tdx not supported by KVM\n" => "kvm_intel.tdx=1";
        "qemu-system-x86_64: -accel kvm: get_tdx_capabilities: KVM_TDX_CAPABILITIES failed: \
            Inappropriate ioctl for device\n"
            => "different versions";
        "qemu-system-x86_64: KVM_TDX_INIT_MEM_REGION failed Resource temporarily unavailable\n"
            => "--jobs 1";
        "qemu-system-x86_64: -accel kvm: failed to initialize kvm: No such device\n" => "VT-x";
        "qemu-system-x86_64: -accel kvm: invalid accelerator kvm\n" => "without KVM";
        "qemu-system-x86_64: -machine q35: unsupported machine type\n" => "no such machine";
        "failed to install seccomp syscall filter in the kernel: Operation not permitted\n"
            => "-sandbox";
        "qemu-system-x86_64: -object tdx-guest,id=td,x=on: Parameter 'x' is unexpected\n"
            => "no such property";
        "qemu-system-x86_64: -object tdx-guest,id=td,x=on: Property 'tdx-guest.x' not found\n"
            => "no such property";
        "qemu-system-x86_64: mlock: Cannot allocate memory\nlocking memory failed\n" => "ulimit -l";
        "vfio_dma_map failed: Cannot allocate memory, check RLIMIT_MEMLOCK\n" => "ulimit -l";
        "Error creating KVM guest_memfd: Too many open files\n" => "ulimit -n";
        "ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy\n" => "another hypervisor";
        "qemu-system-x86_64: -accel kvm: vm-type TDX not supported by KVM\n" => "kvm_intel.tdx=1";
        "qemu-system-x86_64: cannot set up private guest memory for tdx-guest: KVM required\n"
            => "TCG";
        "qemu-system-x86_64: -object: invalid object type: tdx-guest\n" => "10.1";
        "qemu: -object tdx-guest,id=td: Parameter 'qom-type' does not accept value 'tdx-guest'\n"
            => "10.1";
        "qemu: could not load PC BIOS '/proc/self/fd/9'\n" => "64 KiB";
        "qemu-system-x86_64: Cannot find TDX_METADATA_OFFSET_GUID\nqemu-system-x86_64: failed to \
            parse TDVF for TDX VM\n"
            => "no TDVF table";
        "Invalid TDVF signature in metadata!\nfailed to parse TDVF for TDX VM\n" => "rebuild";
        "Invalid number of fw entries (1) in TDVF Metadata\n" => "rebuild";
        "TDVF metadata len (0x30) mismatch, expected (0x50)\n" => "rebuild";
        "Broken metadata RawDataSize 0x2000 MemoryDataSize 0x1000\n" => "rebuild";
        "MemoryAddress 0x1001 not page aligned\n" => "rebuild";
        "3 section with RawDataSize 0x10 != 0\n" => "rebuild";
        "TDVF contains unsupported section type 7\n" => "rebuild";
        "TDVF metadata doesn't specify TD_HOB location.\n" => "rebuild";
        "TD_HOB overrun, size = 0x10\n" => "rebuild";
        "failed to parse TDVF for TDX VM\n" => "rebuild";
        "Failed to mmap memory for TDVF section 2\n" => "out of memory";
        "Failed to accept memory for TDVF section 3\n" => "guest.image";
        "qemu-system-x86_64: Named cpu model is not supported for TDX yet!\n" => "-cpu host";
        "qemu-system-x86_64: TDX VM requires kernel_irqchip to be split\n" => "qemu.sh";
        "qemu-system-x86_64: TDX VM doesn't support SMM\n" => "qemu.sh";
        "qemu-system-x86_64: TDX doesn't support requested feature: CPUID.01H:ECX.vmx\n"
            => "do not go together";
        "qemu-system-x86_64: Invalid attributes 0x10000001 for TDX VM (KVM supported: 0x10000000)\n"
            => "do not go together";
        "qemu-system-x86_64: Invalid XFAM 0x7 for TDX VM (supported: 0x3))\n"
            => "do not go together";
        "qemu-system-x86_64: TDX requires guest CPU physical bits (46) to match host CPU physical \
            bits (52)\n"
            => "phys-bits";
        "Number of SMP cpus requested (64) exceeds the maximum cpus supported by KVM (8)\n"
            => "fewer";
        "qemu-system-x86_64: KVM_CREATE_VCPU IOCTL failed for vCPU 3 (Cannot allocate memory)\n"
            => "vCPU could not be made";
        "ioctl(KVM_CREATE_VM) failed: Input/output error\n" => "every package";
        "kvm_set_user_memory_region: KVM_SET_USER_MEMORY_REGION2 failed, slot=0, start=0x0\n"
            => "did not take guest memory";
        "qemu-system-x86_64: Insufficient free host memory pages available to allocate guest RAM\n"
            => "hugetlb pool";
        "cannot set up private guest memory: discard currently blocked\nAre you using assigned \
            devices?\n"
            => "assigned devices";
        "Hardware RNG (Random Number Generator) is busy\n" => "random number";
        "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: Resource temporarily unavailable\n"
            => "entropy";
        "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: No space left on device\n" => "key id";
        "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: Invalid argument\n" => "newer QEMU";
        "TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0xc000080200000000: Input/output error\n"
            => "dmesg";
        "TDX ioctl KVM_TDX_INIT_MEM_REGION failed, hw_errors: 0x0: Device or resource busy\n"
            => "--jobs 1";
        "TDX ioctl KVM_TDX_INIT_MEM_REGION failed, hw_errors: 0x0: Input/output error\n"
            => "initial image";
        "TDX ioctl KVM_TDX_CAPABILITIES failed, hw_errors: 0x0: Input/output error\n"
            => "newer QEMU";
        "TDX ioctl KVM_TDX_INIT_VCPU failed, hw_errors: 0x0: Invalid argument\n"
            => "as many as the host";
        "TDX ioctl KVM_TDX_FINALIZE_VM failed, hw_errors: 0x0: Invalid argument\n"
            => "refused a step";
        "qemu-system-x86_64: Error creating KVM guest_memfd: Cannot allocate memory\n"
            => "private memory";
        "qemu-system-x86_64: KVM does not support guest_memfd\n" => "converts in place";
        "kvm_set_memory_attributes: failed to set memory (0x0+0x1000) with attr 0x8 error '-12'\n"
            => "private: see dmesg";
        "cannot set up guest memory: Cannot allocate memory\n" => "out of memory";
        "Could not access KVM kernel module: No such file or directory\n" => "/dev/kvm";
        "open /dev/kvm: Permission denied\n" => "root";
        "qemu-system-x86_64: Invalid TSC 2100001 KHz, it must be multiple of 25MHz\n" => "TSC";
        "qemu-system-x86_64: Unable to set TSC frequency to 2100000 kHz\n" => "TSC";
        "qemu-system-x86_64: Unable to set core crystal clock frequency to 25MHz\n" => "TSC";
        "qemu-system-x86_64: KVM doesn't support KVM_CAP_X86_APIC_BUS_CYCLES_NS\n"
            => "newer kernel";
        "qemu-system-x86_64: KVM_HC_MAP_GPA_RANGE not enabled for guest\n" => "newer kernel";
        "qemu-system-x86_64: -accel kvm: failed to initialize kvm: Operation not supported\n"
            => "doctor";
        "qemu-system-x86_64: Some QEMU unsupported TD attribute bits being requested: 0x1\n"
            => "do not go together";
        "qemu-system-x86_64: Unsupported TDVF section 7\n" => "rebuild";
        "qemu-system-x86_64: TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0x0: Device or resource busy\n"
            => "misc.max";
    };

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
        for refusal in REFUSALS {
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

    /// QEMU goes on after it.
    #[test]
    fn a_warning_is_no_reason_where_there_is_an_error() {
        let warning = "qemu-system-x86_64: warning: TDX doesn't support requested feature: CPUID.07H.EBX.hle\n";
        let error = "qemu-system-x86_64: TDX ioctl KVM_TDX_INIT_MEM_REGION failed, \
                     hw_errors: 0x8000020000000092: Device or resource busy\n";
        let (line, _) = explain(&format!("{warning}{error}")).unwrap();
        assert!(
            line.starts_with("TDX ioctl") && line.contains("SEPT_TREE"),
            "{line}"
        );
        assert!(explain(warning).is_some());
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
