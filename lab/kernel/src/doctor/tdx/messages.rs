//! Kernel messages about the set-up of TDX, each with its meaning and remedy.
//!
//! Source: `arch/x86/virt/vmx/tdx/tdx.c` and `arch/x86/kvm/vmx/tdx.c`, Linux 6.16 to 7.3, and the
//! code they depend on, `arch/x86/kernel/cpu/{intel,feat_ctl}.c` and `arch/x86/kvm/vmx/vmx.c`.

use tdxlab_journal::seamldr::About;

/// Meaning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The module is initialised.
    Initialised,
    /// The firmware gave key ids to TDX.
    KeyIds,
    /// Harmless for running TDs.
    Note,
    /// TDX stays off, and the text says why.
    Cause,
    /// TDX stays off; the cause is an earlier message.
    Consequence,
    /// The module was shut down for an update that failed; the cause is an earlier message.
    Lost,
    /// One TD could not be made.
    Trouble,
}

/// A kernel message, its meaning, and the remedy.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) text: &'static str,
    pub(super) meaning: Meaning,
    pub(super) cure: &'static str,
}

const fn known(text: &'static str, meaning: Meaning) -> Known {
    Known {
        text,
        meaning,
        cure: "",
    }
}

const fn cause(text: &'static str, cure: &'static str) -> Known {
    Known {
        text,
        meaning: Meaning::Cause,
        cure,
    }
}

const fn consequence(text: &'static str, cure: &'static str) -> Known {
    Known {
        text,
        meaning: Meaning::Consequence,
        cure,
    }
}

const fn lost(text: &'static str) -> Known {
    Known {
        text,
        meaning: Meaning::Lost,
        cure: UPDATE_AGAIN,
    }
}

const FEATURE: &str = "this processor, or the machine that this kernel runs in, hides the feature: take \
    `clearcpuid=` off the kernel's command line, and look for it in the firmware";
const NO_XSAVE: &str = "do not boot with noxsave";
const FRAGMENTS: &str = "the machine's memory lies in more pieces than the TDX module takes: update the \
    module and the firmware, and turn off in the firmware what cuts memory up (CXL and persistent \
    memory, mirroring)";
const MORE_CPUS: &str = "this TDX module knows fewer processors than the machine has: update it, or boot \
    with nr_cpus= as many as it knows, or nosmt";
const UPDATE_AGAIN: &str = "boot the machine anew, which brings TDX back with the module of the firmware or the boot \
    loader; then update it again";
const SAME_TME: &str = "the firmware has set memory encryption up differently on some processors, or in a way that \
    this kernel does not know: update it, and set all sockets alike";
const TDX_ON: &str = "turn TDX on in the firmware";
const VT_X: &str = "turn VT-x (VMX) on in the firmware";
const HOST_PLATFORM: &str = "the kernel did not set TDX up at boot: if its log has no \"BIOS enabled: private \
    KeyID range\", give key ids to TDX in the firmware; if it has, boot with nohibernate";

/// The first match counts, so causes precede their consequences.
pub(super) const MESSAGES: &[Known] = &[
    known("TDX-Module initialized", Meaning::Initialised),
    known("module initialized", Meaning::Initialised),
    // After an update.
    known("virt/tdx: version ", Meaning::Initialised),
    known("BIOS enabled: private KeyID range", Meaning::KeyIds),
    known("Disable ACPI S3", Meaning::Note),
    known("KB allocated for PAMT", Meaning::Note),
    known("KBs allocated for PAMT", Meaning::Note),
    known("Module version: ", Meaning::Note),
    // Kernels before TDX was merged, and vendors' kernels.
    known("TDX module: attributes 0x", Meaning::Note),
    known("CMR: [", Meaning::Note),
    known("x86/tme: enabled by BIOS", Meaning::Note),
    known("x86/mktme: enabled by BIOS", Meaning::Note),
    known("consumed TDMRs reaching limit", Meaning::Note),
    known("unable to find local NUMA node for PAMT", Meaning::Note),
    known(
        "TDX requires all packages to have an online CPU",
        Meaning::Note,
    ),
    // An update of the module under the running kernel.
    lost("update failed"),
    cause(
        "Hibernation support is enabled",
        "boot with nohibernate on the kernel's command line",
    ),
    cause(
        "too few private KeyIDs",
        "in the firmware, give more key ids to TDX (\"TME-MT/TDX key split\"): one is the module's own, \
         each TD takes another",
    ),
    cause(
        "register_memory_notifier() failed",
        "the kernel ran out of memory while it booted: boot again, and report it if that does not help",
    ),
    cause("TDMRs exhausted", FRAGMENTS),
    cause("reserved areas exhausted", FRAGMENTS),
    cause(
        "frame pointer (RBP) clobber bug",
        "update the TDX module, to 1.5.06 or newer: with the firmware, or at boot by the boot loader",
    ),
    cause(
        "module not loaded",
        "turn on the SEAM loader in the firmware, or install the TDX module that goes with it \
         (TDX-SEAM.so and its .sigstruct in the EFI system partition)",
    ),
    cause("CPU doesn't support EPT violation #VE", FEATURE),
    cause("OSXSAVE is required for TDX", NO_XSAVE),
    cause("XSAVE is required for TDX", NO_XSAVE),
    cause("MOVDIR64B is required for TDX", FEATURE),
    // Spelt in two ways.
    cause("Self-snoop is re", FEATURE),
    cause(
        "EPT is required for TDX",
        "load kvm_intel with ept=1, the default",
    ),
    cause(
        "TDP MMU and MMIO caching and EPT A/D bit is required for TDX",
        "load kvm with tdp_mmu=1 mmio_caching=1 and kvm_intel with eptad=1, the defaults",
    ),
    cause(
        "APICv is required for TDX",
        "load kvm_intel with enable_apicv=1, the default",
    ),
    cause(
        "requires kvm.enable_virt_at_load=1",
        "load kvm with enable_virt_at_load=1, the default, then kvm_intel",
    ),
    consequence("no TDX private KeyIDs available", HOST_PLATFORM),
    consequence("TDX not supported by the host platform", HOST_PLATFORM),
    cause(
        "unknown parameter 'tdx' ignored",
        "this kernel's KVM was built without TDX: use one with CONFIG_INTEL_TDX_HOST, which brings \
         CONFIG_KVM_INTEL_TDX",
    ),
    cause("Disable TDX: MAX_VCPU_PER_TD", MORE_CPUS),
    cause(
        "isn't included by kvm_find_user_return_msr",
        "this is a bug of KVM: report it with this line; another kernel may do",
    ),
    Known {
        text: "All packages need to have online CPU to create TD",
        meaning: Meaning::Trouble,
        cure: "bring a processor of every package online: echo 1 > /sys/devices/system/cpu/cpuN/online",
    },
    consequence("Failed to initialize TDX module", ""),
    consequence("initialization failed", ""),
    // Kernels before TDX was merged.
    cause("TDX is not enabled by BIOS", TDX_ON),
    cause("tdx: not enabled by BIOS", TDX_ON),
    cause("VMX not enabled (by BIOS)", VT_X),
    cause("VMX not supported by CPU", VT_X),
    cause("VMX (outside TXT) disabled by BIOS", VT_X),
    cause("kvm: disabled by bios", VT_X),
    cause(
        "x86/tme: not enabled by BIOS",
        "in the firmware, turn on memory encryption (TME), then TME-MT and TDX",
    ),
    cause(
        "x86/mktme: disabled by BIOS",
        "in the firmware, turn on TME-MT (multi-key memory encryption), then TDX",
    ),
    consequence(
        "x86/tme: configuration is inconsistent between CPUs",
        SAME_TME,
    ),
    consequence("x86/tme: MKTME is not usable", SAME_TME),
    consequence("x86/mktme: No known encryption algorithm", SAME_TME),
    known("KeyIDs available", Meaning::Note),
];

/// Parts of lines, in lower case, that have to do with TDX, known or not.
const ABOUT_TDX: &[&str] = &[
    "tdx",
    "seamcall",
    "seamldr",
    // Kernels before TDX was merged.
    "seam: ",
    "x86/tme",
    "mktme",
    "vmx not ",
    "vmx (outside",
    "kvm: disabled by bios",
    "create td.",
    "hkid",
    "kvm_find_user_return_msr",
];

/// Lower-case prefixes of lines that contain the kernel's version or command line.
const OF_OTHERS: &[&str] = &[
    "linux version",
    "command line:",
    "kernel command line:",
    "unknown kernel command line",
];

/// Beginnings of lines of the code that sets TDX up.
const SETTING_UP: &[&str] = &[
    "virt/tdx: ",
    OF_KVM,
    "tdx: ",
    "seamldr: ",
    "SEAM: ",
    "x86/tme: ",
    "x86/mktme: ",
];
const OF_KVM: &str = "kvm_intel: ";

/// Whether KVM says it, in a word about its set-up.
pub(super) fn is_of_kvm(line: &str) -> bool {
    line.starts_with(OF_KVM)
}

/// Whether a message has to do with TDX.
pub(super) fn is_about_tdx(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    ABOUT_TDX.iter().any(|part| lower.contains(part))
        && !OF_OTHERS.iter().any(|start| lower.starts_with(start))
}

/// Whether a line about TDX is not a known message of its set-up.
pub(super) fn is_unknown(line: &str) -> bool {
    SETTING_UP.iter().any(|start| line.starts_with(start))
        && message(line).is_none()
        && !is_registers(line)
        && !OF_GUESTS.iter().any(|text| line.contains(text))
}

/// Whether a line has the registers of the failed SEAMCALL before it.
pub(super) fn is_registers(line: &str) -> bool {
    // The last is that of kernels before TDX was merged.
    [": RCX 0x", ": R09 0x", ": additional output: rcx"]
        .iter()
        .any(|text| line.contains(text))
}

/// What these say later, of a TD, or in one.
const OF_GUESTS: &[&str] = &[
    "Guest access before accepting",
    "is leaked",
    "tdx: Guest detected",
    "tdx: Attributes: ",
    "tdx: TD_CTLS: ",
];

/// The message that a line is.
pub(super) fn message(line: &str) -> Option<&'static Known> {
    MESSAGES.iter().find(|known| line.contains(known.text))
}

/// Whether a line is a message about the set-up of TDX whose meaning is known.
pub(in crate::doctor) fn is_known_message(line: &str) -> bool {
    message(line).is_some()
}

/// Remedy for a bare error number, `initialization failed (-5)`.
pub(super) fn cure_by_errno(line: &str) -> Option<&'static str> {
    let (_, rest) = line.rsplit_once("(-")?;
    let errno: i32 = rest.split(')').next()?.parse().ok()?;
    Some(match errno {
        libc::ENODEV => {
            "no TDX module is loaded: turn on the SEAM loader in the firmware, or install the module \
             that goes with it"
        }
        libc::EOPNOTSUPP => {
            "the processor refuses SEAMCALLs (#GP): turn TDX and the SEAM loader on in the firmware"
        }
        libc::EACCES => "VMX was off when the module was called: turn VT-x on in the firmware",
        libc::ENOMEM => {
            "there was no contiguous memory for the module's page tables (PAMT): load kvm_intel right \
             after boot, or boot again"
        }
        libc::ENOSPC => FRAGMENTS,
        libc::EINVAL => {
            "the module or its memory map does not go with this kernel: update the TDX module and the \
             firmware"
        }
        libc::EIO => {
            "a call of the TDX module failed, and the log does not have it any more: boot again, and \
             read the log before it is overwritten; a firmware update often brings a newer module"
        }
        _ => return None,
    })
}

/// Remedy for a status of the P-SEAMLDR. The module that it was to replace is gone by then.
pub(super) fn cure_by_loader(about: About) -> &'static str {
    match about {
        About::NewModule => {
            "boot the machine anew, which brings TDX back with its own module; then take an update that is made for \
             this machine and this module, unchanged (sigstruct and module of one release)"
        }
        About::Call => {
            "boot the machine anew, which brings TDX back with its own module; if the update fails as before, update \
             the firmware, which brings the P-SEAMLDR"
        }
        About::Moment => UPDATE_AGAIN,
    }
}

/// Remedy for a status of the module, by its class.
pub(super) fn cure_by_class(class: u8) -> &'static str {
    match class {
        0x02 | 0x00 => "boot again; if it fails as before, update the TDX module",
        0x05 => {
            "the module is in another state than this kernel expects, as after a kexec or an update: \
             boot the machine anew, power off and on if that does not help; else update the module"
        }
        0x08 => "boot again; in the firmware, check the key split and the random number generator",
        0x09 => {
            "the firmware sets processors up otherwise than the module needs: update the firmware, load \
             its defaults, and turn off what limits CPUID or differs between packages"
        }
        0x0a => {
            "the firmware's list of memory does not go with the kernel's: update the firmware, and turn \
             off what cuts memory up (CXL and persistent memory, mirroring)"
        }
        0x01 | 0x0c => {
            "this module does not know what this kernel asks of it: update the TDX module and the \
             firmware, or take an older kernel"
        }
        0xff => "turn TDX, VT-x and the SEAM loader on in the firmware",
        _ => {
            "update the TDX module and the firmware; if that does not help, report it with these lines"
        }
    }
}
