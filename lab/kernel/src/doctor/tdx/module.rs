//! State of the TDX module. Only the kernel log says why TDX stays off.

use std::io;

use super::asked::{Asked, InKvm};
use super::log::{Story, TdxLog};
use crate::doctor::fact::Fact;
use crate::doctor::recording::is_unrecorded;

const NAME: &str = "tdx.module";

/// KVM was asked for TDX and has it off, with no word of the module. The first SEAMCALL that faults
/// (`sc_retry_prerr()`) is reported by its error number alone, to who loads kvm_intel.
pub(super) const SILENT: &str = "it was asked for, so what fails is not said: turn TDX and the SEAM loader on in the \
    firmware, and see whether `modprobe kvm_intel tdx=1` answers \"Operation not supported\"; or the lines are \
    no longer in the log (journalctl -k -b)";
/// KVM gives up without a word where the module lacks what it needs (`tdx_get_supported_attrs()` and on).
pub(super) const WANTING: &str = "KVM found the module's attributes, XFAM or topology enumeration wanting, which it \
    does not say: update the TDX module";

pub(super) fn fact(log: &io::Result<TdxLog>, kvm: InKvm) -> Fact {
    let log = match log {
        Ok(log) => log,
        Err(error) if is_unrecorded(error) => {
            return Fact::limited(NAME, format!("the kernel log is {error}"))
                .advise("put what dmesg prints there under a line `--- /answers/kernel-log`");
        }
        Err(error) => {
            return Fact::limited(NAME, format!("the kernel log cannot be read: {error}"))
                .advise("run as root, or sysctl kernel.dmesg_restrict=0");
        }
    };
    match (log.story(), log.unknown()) {
        // Whatever it is, it may be why.
        (
            Story::Silence | Story::KeyIds { .. } | Story::Initialised { but: None, .. },
            Some(line),
        ) if !kvm.offered => Fact::limited(
            NAME,
            format!("the kernel says \"{line}\", which this lab does not know"),
        )
        .advise("KVM offers no TDX VMs: this line may say why"),
        (story, _) => told(story, kvm),
    }
}

fn told(story: Story, kvm: InKvm) -> Fact {
    let wanting = kvm.asked == Asked::On && kvm.switched_on == Some(false);
    match story {
        Story::Initialised { line, but: None } if wanting => Fact::limited(
            NAME,
            format!("the kernel says \"{line}\", and KVM, which was asked for TDX, has it off"),
        )
        .advise(WANTING),
        Story::Initialised { line, but: None } => {
            Fact::usable(NAME, format!("the kernel says \"{line}\""))
        }
        Story::Initialised {
            line,
            but: Some(failure),
        } => {
            let found = format!(
                "the kernel says \"{line}\", and also {}",
                failure.quoted()
            );
            Fact::limited(NAME, found).advise(failure.cure)
        }
        Story::Lost(failure) => Fact::unusable(
            NAME,
            format!("it was initialised; an update has since failed: {}", failure.quoted()),
        )
        .advise(failure.cure),
        Story::Off(failure) if kvm.offered => Fact::limited(
            NAME,
            format!(
                "KVM offers TDX VMs, although the kernel has said {}",
                failure.quoted()
            ),
        )
        .advise(failure.cure),
        Story::Trouble(failure) => {
            Fact::limited(NAME, format!("the kernel says {}", failure.quoted()))
                .advise(failure.cure)
        }
        Story::Off(failure) => {
            Fact::unusable(NAME, format!("the kernel says {}", failure.quoted()))
                .advise(failure.cure)
        }
        // The log is a ring: messages of the boot may be gone.
        Story::KeyIds { .. } | Story::Silence if kvm.offered => Fact::usable(
            NAME,
            "KVM offers TDX VMs, so it is initialised; the kernel log does not say so (any more)",
        ),
        Story::KeyIds { line } => Fact::limited(
            NAME,
            format!(
                "the firmware gave key ids (\"{line}\"); nothing says that the module was initialised"
            ),
        )
        .advise(match (kvm.switched_on, kvm.asked) {
            (Some(true), _) => {
                "read what the kernel said when kvm_intel was loaded (journalctl -k -b): it is no longer \
                 in the log; or load kvm_intel again"
            }
            (_, Asked::On) => SILENT,
            _ => {
                "load kvm_intel with tdx=1: older kernels initialise the module then, newer ones at boot"
            }
        }),
        Story::Silence => Fact::limited(NAME, "no TDX module message in the kernel log"),
    }
}
