//! What the kernel has said about the TDX module: the only place where it says why TDX stays off.

use crate::doctor::fact::{Fact, Status};
use crate::doctor::machine::ThisMachine;

const NAME: &str = "tdx.module";

/// A message of the kernel, what it means, and what to do.
struct Known {
    text: &'static str,
    standing: Status,
    advice: Option<&'static str>,
}

const fn good(text: &'static str) -> Known {
    Known {
        text,
        standing: Status::Usable,
        advice: None,
    }
}

const fn bad(text: &'static str, advice: &'static str) -> Known {
    Known {
        text,
        standing: Status::Unusable,
        advice: Some(advice),
    }
}

/// Source: `arch/x86/virt/vmx/tdx/tdx.c` and `arch/x86/kvm/vmx/tdx.c`, up to Linux 7.3.
const MESSAGES: [Known; 13] = [
    good("TDX-Module initialized"),
    good("module initialized"),
    bad(
        "Hibernation support is enabled",
        "boot with nohibernate on the kernel's command line",
    ),
    bad(
        "too few private KeyIDs",
        "in the firmware, give more key ids to TDX (\"TME-MT/TDX key split\")",
    ),
    bad(
        "module not loaded",
        "turn on the SEAM loader in the firmware, or install the TDX module that goes with it",
    ),
    bad(
        "module initialization failed",
        "the message before it says which step; a firmware update often brings a newer module",
    ),
    bad(
        "initialization failed",
        "the message before it says which step; a firmware update often brings a newer module",
    ),
    bad(
        "EPT is required for TDX",
        "load kvm_intel with ept=1, the default",
    ),
    bad(
        "TDP MMU and MMIO caching and EPT A/D bit is required for TDX",
        "load kvm with tdp_mmu=1 mmio_caching=1 and kvm_intel with eptad=1, the defaults",
    ),
    bad(
        "APICv is required for TDX",
        "load kvm_intel with enable_apicv=1, the default",
    ),
    bad("OSXSAVE is required for TDX", "do not boot with noxsave"),
    bad(
        "TDX not supported by the host platform",
        "turn TDX on in the firmware",
    ),
    good("BIOS enabled: private KeyID range"),
];

/// The newest message of the kernel about TDX.
pub(super) fn fact(machine: &ThisMachine) -> Fact {
    let known = |line: &str| MESSAGES.iter().find(|known| line.contains(known.text));
    let about_tdx = |line: &str| {
        let lower = line.to_ascii_lowercase();
        lower.contains("tdx") && known(line).is_some()
    };
    let messages = match machine.kernel_messages(about_tdx) {
        Ok(messages) => messages,
        Err(error) => {
            return Fact::limited(NAME, format!("the kernel log cannot be read: {error}"))
                .advise("run as root, or sysctl kernel.dmesg_restrict=0");
        }
    };
    let newest = messages.last();
    match newest.and_then(|line| Some((line, known(line)?))) {
        Some((line, known)) => Fact {
            advice: known.advice.map(str::to_owned),
            ..Fact::new(NAME, known.standing, format!("the kernel says \"{line}\""))
        },
        // The log is a ring: what was said when the machine started may be gone.
        None => Fact::limited(NAME, "the kernel log says nothing about it (any more)"),
    }
}
