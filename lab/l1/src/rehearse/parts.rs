//! The parts of a rehearsal in the cache folder: a kernel, its KVM modules, and a QEMU.
//!
//! ```text
//! ~/.cache/tdxlab/rehearsal/
//!   current -> 7.3.4+deb13-amd64_11.1.3_5d1e8c40
//!   current-7.2 -> 7.2.12+deb13-amd64_11.1.3_0c7ab9e2    the same with an older kernel
//!   built-5e20c1b7/    modules for a kernel that a developer has built
//!   7.3.4+deb13-amd64_11.1.3_5d1e8c40/
//!     parts.json       versions and sizes; written last
//!     kernel/vmlinuz   the distribution's kernel
//!     kernel/modules/  its modules, KVM's rebuilt
//!     kernel/own/      the same, KVM's built from a developer's tree
//!     firmware/        OVMF, which starts Linux as a TD
//!     build/           a root with compiler, headers and KVM's source; its selftests
//!     qemu/            a root with QEMU and its libraries
//!     qemu-system-x86_64   starts it through that root's own dynamic linker
//! ```

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use serde::{Deserialize, Serialize};

use super::choice::Distributed;
use super::error::RehearsalError;
use super::kept::{self, MANIFEST};
use super::modules::{self, Tree};
use super::root::Root;
use super::selftests;

/// Image of the firmware.
pub(super) const OVMF: &str = "OVMF.fd";

/// Called with each step of the preparation.
pub type Progress<'a> = dyn FnMut(&str) + 'a;

/// Parts that are ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Version of the kernel's package.
    pub kernel_version: String,
    /// Version of QEMU's package.
    pub qemu_version: String,
    /// Bytes that were downloaded.
    pub downloaded: u64,
    /// Seconds from the first package list to the last module; `None` of parts that were prepared
    /// before this was noted.
    #[serde(default)]
    pub seconds: Option<u64>,
    #[serde(skip)]
    pub(super) folder: PathBuf,
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {} and QEMU {}, {} MB of packages",
            self.kernel_version,
            self.qemu_version,
            self.downloaded / 1_000_000
        )?;
        match self.seconds {
            Some(seconds) => write!(f, ", prepared in {seconds} s"),
            None => f.write_str(", prepared before times were noted"),
        }
    }
}

impl Parts {
    /// The kernel image.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel/vmlinuz")
    }

    /// Its modules.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("kernel/modules")
    }

    /// The modules, with KVM's rebuilt if they are not of this program.
    ///
    /// # Errors
    ///
    /// They do not build.
    pub fn current_modules(&self, progress: &mut Progress<'_>) -> Result<PathBuf, RehearsalError> {
        let modules = self.modules();
        if !modules::are_current(&modules) {
            progress("building KVM's modules");
            modules::build_in(&self.build_root(), Tree::Distribution, &modules)?;
        }
        Ok(modules)
    }

    /// The modules, with KVM's built from a kernel developer's tree.
    ///
    /// # Errors
    ///
    /// The tree is no kernel tree, differs from the known ones, or does not build.
    pub fn modules_of(
        &self,
        source: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<PathBuf, RehearsalError> {
        let own = self.folder.join("kernel/own");
        progress(&format!("building KVM's modules of {}", source.display()));
        modules::beside(&self.modules(), &own)?;
        modules::build_in(&self.build_root(), Tree::Own(source), &own)?;
        Ok(own)
    }

    /// Firmware that starts as a TD; `None` in parts of an older tdxlab.
    pub fn firmware(&self) -> Option<PathBuf> {
        let image = self.folder.join("firmware").join(OVMF);
        image.is_file().then_some(image)
    }

    /// Builds a module of these files, by name and text, for the kernel.
    ///
    /// # Errors
    ///
    /// It does not build.
    pub fn build_module(
        &self,
        name: &str,
        files: &[(&str, &str)],
    ) -> Result<PathBuf, RehearsalError> {
        modules::build_outside(&self.build_root(), name, files)
    }

    /// The folder of KVM's own selftests for private memory, built if they are not.
    ///
    /// # Errors
    ///
    /// They do not build.
    pub fn selftests(&self, progress: &mut Progress<'_>) -> Result<PathBuf, RehearsalError> {
        selftests::build_in(&self.build_root(), progress)
    }

    fn build_root(&self) -> Root {
        Root::at(self.folder.join("build"))
    }

    /// The QEMU: the outer one, which emulates the L1, and the one in it, which makes the TD.
    pub fn qemu(&self) -> PathBuf {
        self.folder.join("qemu-system-x86_64")
    }

    /// The parts in `folder`, if complete.
    pub(super) fn open(folder: &Path) -> Option<Parts> {
        let folder = folder.canonicalize().ok()?;
        // Parts of an older tdxlab lack what this one builds with.
        folder.join("build").is_dir().then_some(())?;
        let text = fs::read(folder.join(MANIFEST)).ok()?;
        let parts: Parts = serde_json::from_slice(&text).ok()?;
        kept::hold(&folder)?;
        Some(Parts { folder, ..parts })
    }
}

/// The folder of rehearsal parts below the lab's cache folder.
pub(super) fn folder_in(cache: &Path) -> PathBuf {
    cache.join("rehearsal")
}

/// The parts with this kernel, where the cache has them.
pub fn ready(cache: &Path, distributed: &Distributed) -> Option<Parts> {
    Parts::open(&folder_in(cache).join(distributed.link()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Parts of an older tdxlab are as good; only their time is not known.
    #[test]
    fn what_parts_took_is_said_where_it_was_noted() {
        let text = r#"{"kernel_release": "7.3.4+deb13-amd64", "kernel_version": "7.3.4-1~bpo13+1",
                       "qemu_version": "1:11.1.3+ds-1~bpo13+1", "downloaded": 411098828}"#;
        let mut parts: Parts = serde_json::from_str(text).unwrap();
        let said = parts.to_string();
        assert!(
            said.contains("QEMU 1:11.1.3+ds-1~bpo13+1, 411 MB"),
            "{said}"
        );
        assert!(said.ends_with("before times were noted"), "{said}");
        parts.seconds = Some(203);
        assert!(parts.to_string().ends_with("prepared in 203 s"));
        let text = serde_json::to_string(&parts).unwrap();
        assert_eq!(serde_json::from_str::<Parts>(&text).unwrap(), parts);
    }

    #[test]
    fn half_made_parts_are_none() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(ready(cache.path(), &Distributed::Newest), None);
        let folder = folder_in(cache.path()).join("7.3");
        fs::create_dir_all(&folder).unwrap();
        symlink("7.3", folder_in(cache.path()).join("current")).unwrap();
        assert_eq!(ready(cache.path(), &Distributed::Newest), None);
        fs::write(folder.join(MANIFEST), "{}").unwrap();
        assert_eq!(ready(cache.path(), &Distributed::Newest), None);
    }
}
