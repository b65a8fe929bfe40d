//! The rehearsal of the `tdx` host: everything but the silicon.
//!
//! ```text
//! tdxlab rehearse
//!   parts     QEMU with TDX code, a kernel with software-protected VMs     parts, apt, root, modules
//!   L1        boots that kernel in an emulator                             crate
//!     tdxlab run --host tdx     unmodified
//!       QEMU -object tdx-guest  unmodified, with the preload library around its ioctls
//!         the micro guest       in a TD's initial state; its TDCALLs are answered by the library
//! ```
//!
//! Nothing is installed on the machine: packages are downloaded and unpacked in the user's cache
//! folder. No kernel is built either. What distributions leave off
//! (`CONFIG_KVM_SW_PROTECTED_VM`) touches nothing outside the KVM modules, so only those are built,
//! against the headers of the distribution's own kernel, by the compiler it was built with:
//! half a minute in place of a quarter of an hour.

mod apt;
mod error;
mod modules;
mod parts;
mod root;

pub use error::RehearsalError;
pub use parts::{Parts, Progress, prepare, ready};

use std::path::PathBuf;

/// Names the preload library in place of the search.
pub const PRELOAD_LIBRARY_VARIABLE: &str = "TDXLAB_PRELOAD";

/// File name of the preload library.
const PRELOAD_LIBRARY: &str = "libtdxlab_preload.so";

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

/// The preload library: named by a variable, or built beside this program.
///
/// # Errors
///
/// It is in neither place.
pub fn preload_library() -> Result<PathBuf, RehearsalError> {
    let named = std::env::var_os(PRELOAD_LIBRARY_VARIABLE).map(PathBuf::from);
    let program = std::env::current_exe().map_err(error::system("finding this program"))?;
    // Programs of tests lie one folder deeper.
    let beside = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(PRELOAD_LIBRARY));
    let tried: Vec<PathBuf> = match named {
        Some(named) => vec![named],
        None => beside.collect(),
    };
    let found = tried.iter().find_map(|path| path.canonicalize().ok());
    found.ok_or(RehearsalError::NoPreload { tried })
}
