//! The installed QEMU.

use tdxlab_qemu::Version;
use tdxlab_qemu::installed::has_tdx_guest;
pub(super) use tdxlab_qemu::version::OLDEST_FOR_TDX as TDX;

use crate::doctor::fact::Fact;
use crate::doctor::machine::{QEMU_OBJECTS, QEMU_VERSION, ThisMachine};

/// First QEMU that rebuilds a TD on reset.
const RESETS: Version = Version::new(11, 0);

pub(super) fn version(machine: &ThisMachine) -> Fact {
    if let Some(unknown) = machine.unrecorded("qemu", QEMU_VERSION) {
        return unknown;
    }
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
    if let Some(unknown) = machine.unrecorded(name, QEMU_VERSION) {
        return vec![unknown];
    }
    let installed = match machine.qemu(TDX) {
        Ok(installed) => installed,
        Err(error) => {
            if let Some(older) = backport(machine) {
                return vec![older];
            }
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
    let candidate = match installed.version.micro {
        50.. => " (on the way to the next release)",
        _ => "",
    };
    let found = format!("{}{candidate}, which {resets}", installed.version);
    let version = Fact::usable(name, found);
    let name = "tdx.qemu_object";
    if let Some(unknown) = machine.unrecorded(name, QEMU_OBJECTS) {
        return vec![version, unknown];
    }
    let object = match machine.qemu_objects(&installed) {
        Ok(objects) if has_tdx_guest(&objects) => Fact::usable(name, "it has tdx-guest"),
        Ok(_) => Fact::unusable(name, "it was built without tdx-guest")
            .advise("use a QEMU built with KVM for x86_64, or name one in TDXLAB_QEMU"),
        Err(error) => Fact::limited(name, error.to_string()),
    };
    vec![version, object]
}

/// A QEMU older than 10.1 that starts TDs all the same.
fn backport(machine: &ThisMachine) -> Option<Fact> {
    let installed = machine.qemu(tdxlab_qemu::version::OLDEST).ok()?;
    let objects = machine.qemu_objects(&installed).ok()?;
    has_tdx_guest(objects).then(|| {
        let found = format!(
            "{}, older than {TDX}, with tdx-guest: a backport, which the lab was not tried with",
            installed.version
        );
        Fact::limited("tdx.qemu", found)
            .advise("`tdxlab doctor --deep` tries a TD; what fails may be the backport's")
    })
}
