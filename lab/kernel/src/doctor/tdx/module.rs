//! State of the TDX module. Only the kernel log says why TDX stays off.

use std::io;

use super::log::{Story, TdxLog};
use crate::doctor::fact::Fact;
use crate::doctor::recording::is_unrecorded;

const NAME: &str = "tdx.module";

/// `offered` where KVM offers TDX VMs, which it does with an initialised module only; `switched_on`
/// where kvm_intel was loaded with TDX.
pub(super) fn fact(log: &io::Result<TdxLog>, offered: bool, switched_on: bool) -> Fact {
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
        ) if !offered => Fact::limited(
            NAME,
            format!("the kernel says \"{line}\", which this lab does not know"),
        )
        .advise("KVM offers no TDX VMs: this line may say why"),
        (story, _) => told(story, offered, switched_on),
    }
}

fn told(story: Story, offered: bool, switched_on: bool) -> Fact {
    match story {
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
        Story::Off(failure) if offered => Fact::limited(
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
        Story::KeyIds { .. } | Story::Silence if offered => Fact::usable(
            NAME,
            "KVM offers TDX VMs, so it is initialised; the kernel log does not say so (any more)",
        ),
        Story::KeyIds { line } => Fact::limited(
            NAME,
            format!(
                "the firmware gave key ids (\"{line}\"); nothing says that the module was initialised"
            ),
        )
        .advise(match switched_on {
            true => {
                "read what the kernel said when kvm_intel was loaded (journalctl -k -b): it is no longer \
                 in the log; or load kvm_intel again"
            }
            false => {
                "load kvm_intel with tdx=1: older kernels initialise the module then, newer ones at boot"
            }
        }),
        Story::Silence => Fact::limited(NAME, "no TDX module message in the kernel log"),
    }
}
