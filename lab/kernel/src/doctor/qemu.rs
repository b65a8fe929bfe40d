//! The installed QEMU.

use tdxlab_qemu::Version;
pub(super) use tdxlab_qemu::version::OLDEST_FOR_TDX as TDX;

use crate::doctor::fact::Fact;
use crate::doctor::machine::ThisMachine;

/// First QEMU that rebuilds a TD on reset.
const RESETS: Version = Version::new(11, 0);

pub(super) fn version(machine: &ThisMachine) -> Fact {
    match machine.qemu(tdxlab_qemu::version::OLDEST) {
        Ok(installed) => {
            let found = format!("{} at {}", installed.version, installed.program.display());
            Fact::usable("qemu", found)
        }
        Err(error) => Fact::unusable("qemu", error.to_string()).advise(
            "install QEMU (ci/setup knows how), or name one in TDXLAB_QEMU; sim does without",
        ),
    }
}

/// Whether it can run a TD: its version, and the object it was built with.
pub(super) fn for_tdx(machine: &ThisMachine) -> Vec<Fact> {
    let name = "tdx.qemu";
    let installed = match machine.qemu(TDX) {
        Ok(installed) => installed,
        Err(error) => {
            let fact = Fact::unusable(name, error.to_string());
            return vec![fact.advise(format!(
                "install QEMU {TDX} or newer, or name one in TDXLAB_QEMU"
            ))];
        }
    };
    let resets = if installed.version < RESETS {
        "ends where a TD is reset"
    } else {
        "makes a TD anew where it is reset"
    };
    let version = Fact::usable(name, format!("{}, which {resets}", installed.version));
    let name = "tdx.qemu_object";
    let object = match machine.qemu_objects(&installed) {
        Ok(objects) if objects.split_whitespace().any(|word| word == "tdx-guest") => {
            Fact::usable(name, "it has tdx-guest")
        }
        Ok(_) => Fact::unusable(name, "it was built without tdx-guest")
            .advise("use a QEMU built with KVM for x86_64, or name one in TDXLAB_QEMU"),
        Err(error) => Fact::limited(name, error.to_string()),
    };
    vec![version, object]
}
