//! The rehearsal of the `tdx` host: KVM's own TDX code, on any machine.
//!
//! ```text
//! tdxlab rehearse
//!   parts     QEMU with TDX code, a kernel, and what its modules are built with    parts, root
//!   modules   KVM of that kernel, or of a given tree, over the software TDX module
//!   L1        boots that kernel in an emulator                                     crate
//!     tdxlab run --host tdx     unmodified
//!       QEMU -object tdx-guest  unmodified
//!         the micro guest       a TD: its TDCALLs are answered by the kernel
//! ```
//!
//! Nothing is installed on the machine: packages are downloaded and unpacked in the user's cache
//! folder. No kernel is built either: only KVM's two modules are, against the headers of the
//! distribution's own kernel, by the compiler it was built with. A developer's own kernel is taken
//! as it was built ([`built`]).

mod built;
mod choice;
mod error;
mod kept;
mod modules;
mod parts;
mod prepare;
mod root;
mod selftests;

pub use built::modules_for;
pub use choice::{Choice, Distributed, Version};
pub use error::RehearsalError;
pub use parts::{Parts, Progress, ready};
pub use prepare::prepare;
pub use tdxlab_softtdx::OUTSIDE_OF_TREE;

use std::path::PathBuf;

/// The lab's folder in the user's cache.
///
/// # Errors
///
/// The environment names none.
pub fn cache_folder() -> Result<PathBuf, RehearsalError> {
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let home = || absolute("HOME").map(|home| home.join(".cache"));
    let base = absolute("XDG_CACHE_HOME").or_else(home);
    Ok(base.ok_or(RehearsalError::NoCacheFolder)?.join("tdxlab"))
}
