//! Which QEMU there is.

use super::Fact;
use crate::qemu::{Installed, Version};

/// First QEMU that can run a TD.
const TDX: Version = Version::new(10, 1);

pub(super) fn version() -> Fact {
    match Installed::find(crate::host::soft::NEEDED) {
        Ok(installed) => {
            let found = format!("{} at {}", installed.version, installed.program.display());
            Fact::usable("qemu", found)
        }
        Err(error) => Fact::unusable("qemu", error.to_string()).advise(
            "install QEMU (ci/setup knows how), or name one in TDXLAB_QEMU; sim does without",
        ),
    }
}

/// Whether it can run a TD.
pub(super) fn for_tdx() -> Fact {
    match Installed::find(TDX) {
        Ok(installed) => Fact::usable("tdx.qemu", installed.version.to_string()),
        Err(error) => Fact::unusable("tdx.qemu", error.to_string()).advise(format!(
            "install QEMU {TDX} or newer, or name one in TDXLAB_QEMU"
        )),
    }
}
