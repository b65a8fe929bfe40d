//! Kernels from packages, unpacked in the user's cache folder and never installed.
//!
//! ```text
//! ~/.cache/tdxlab/kernels/
//!   linux-image-amd64 -> linux-image-6.1.0-56-amd64_6.1.192-2_amd64    the name given by the user
//!   linux-image-6.1.0-56-amd64_6.1.192-2_amd64/
//!     kernel.json      release and file names
//!     vmlinuz          the image as packaged
//!     vmlinux          the same unpacked, if QEMU can start that
//!     modules/         modules for an L1, and the list of built-in ones
//! ```

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::debian::{deb, kernel as packages};
use super::error::L1Error;
use super::image;
use super::modules::ModuleFolder;
use crate::feature::Vendor;

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unpacked {
    /// The package: name, version and architecture, as its file is called.
    pub(crate) package: String,
    /// Kernel release.
    pub(crate) release: String,
    /// File to boot, in the folder.
    pub(crate) boot: String,
    /// Folder of the kernel.
    #[serde(skip)]
    pub(crate) folder: PathBuf,
}

impl Unpacked {
    /// The modules that were kept.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("modules")
    }

    fn open(folder: &Path) -> Option<Unpacked> {
        let folder = folder.canonicalize().ok()?;
        let text = fs::read(folder.join("kernel.json")).ok()?;
        let unpacked = Unpacked {
            folder,
            ..serde_json::from_slice(&text).ok()?
        };
        unpacked
            .folder
            .join(&unpacked.boot)
            .is_file()
            .then_some(unpacked)
    }
}

/// Folder of the lab in the user's cache.
pub fn cache_folder() -> Result<PathBuf, L1Error> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base =
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("tdxlab"))
        .ok_or(L1Error::NoCacheFolder)
}

/// The kernel of `package`, from the cache or downloaded; `fresh` downloads it anyhow.
pub(crate) fn kernel(
    cache: &Path,
    package: &str,
    suite: Option<&str>,
    fresh: bool,
) -> Result<Unpacked, L1Error> {
    let kernels = cache.join("kernels");
    let asked = kernels.join(match suite {
        Some(suite) => format!("{package}@{suite}"),
        None => package.to_owned(),
    });
    if !fresh && let Some(unpacked) = Unpacked::open(&asked) {
        return Ok(unpacked);
    }
    let failed = |source| L1Error::Cache {
        folder: kernels.clone(),
        source,
    };
    fs::create_dir_all(&kernels).map_err(failed)?;
    let download = tempfile::tempdir_in(&kernels).map_err(failed)?;
    let files = packages::download(package, suite, &cache.join("apt"), download.path())?;
    let unpacked = unpack(&files, &kernels)?;
    // The link is replaced atomically, so that a reader finds the old kernel or the new.
    let link = download.path().join("asked");
    symlink(
        unpacked
            .folder
            .file_name()
            .expect("a folder below the cache"),
        &link,
    )
    .map_err(failed)?;
    fs::rename(&link, &asked).map_err(failed)?;
    Ok(unpacked)
}

/// Unpacks the packages of one kernel into a folder of `kernels` that appears when it is whole.
pub(crate) fn unpack(packages: &[PathBuf], kernels: &Path) -> Result<Unpacked, L1Error> {
    let failed = |source| L1Error::Cache {
        folder: kernels.to_owned(),
        source,
    };
    let whole = tempfile::tempdir_in(kernels).map_err(failed)?;
    let work = tempfile::tempdir_in(kernels).map_err(failed)?;
    let mut named = None;
    for package in packages {
        let broken = |source| L1Error::BrokenPackage {
            package: package.clone(),
            source,
        };
        let has_image =
            deb::with_files(package, |tar| extract(tar, work.path())).map_err(broken)?;
        if has_image {
            named = Some(package);
        }
    }
    let package = named.ok_or_else(|| L1Error::NoImageInPackage {
        packages: packages.to_vec(),
    })?;
    let package = package
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let folder = kernels.join(&package);

    let vmlinuz = work.path().join("vmlinuz");
    let bytes = fs::read(&vmlinuz).map_err(failed)?;
    let image = image::read(&bytes).map_err(|what| L1Error::NotAKernel {
        path: PathBuf::from(&package),
        what,
    })?;
    fs::rename(&vmlinuz, whole.path().join("vmlinuz")).map_err(failed)?;
    let boot = match image.unpacked() {
        Some(vmlinux) => {
            fs::write(whole.path().join("vmlinux"), vmlinux).map_err(failed)?;
            "vmlinux"
        }
        None => "vmlinuz",
    };
    keep_modules(&work.path().join("modules"), &whole.path().join("modules"))?;
    let release = image.release.unwrap_or_default();
    let unpacked = Unpacked {
        package,
        release,
        boot: boot.to_owned(),
        folder,
    };
    let text = serde_json::to_vec_pretty(&unpacked)
        .map_err(io::Error::from)
        .map_err(failed)?;
    fs::write(whole.path().join("kernel.json"), text).map_err(failed)?;

    match fs::rename(whole.path(), &unpacked.folder) {
        Ok(()) => {
            let _moved = whole.keep();
            Ok(unpacked)
        }
        // Another run was faster, or this version was there already; a broken one is replaced.
        Err(_) if Unpacked::open(&unpacked.folder).is_some() => Ok(unpacked),
        Err(_) => {
            fs::remove_dir_all(&unpacked.folder).map_err(failed)?;
            fs::rename(whole.path(), &unpacked.folder).map_err(failed)?;
            let _moved = whole.keep();
            Ok(unpacked)
        }
    }
}

/// Extracts the kernel image and the modules from a package; whether there was an image.
fn extract(tar: &mut dyn io::Read, folder: &Path) -> io::Result<bool> {
    let modules = folder.join("modules");
    let mut has_image = false;
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.into_owned();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let target = if name.starts_with("vmlinuz") {
            has_image = true;
            folder.join("vmlinuz")
        } else if name.contains(".ko") || name == "modules.builtin" {
            // Module names are unique in a kernel, so their folders can go.
            modules.join(name)
        } else {
            continue;
        };
        fs::create_dir_all(&modules)?;
        io::copy(&mut entry, &mut fs::File::create(target)?)?;
    }
    Ok(has_image)
}

/// Moves the modules for an L1, on either CPU, or for a Linux guest, and the list of built-in ones.
fn keep_modules(from: &Path, to: &Path) -> Result<(), L1Error> {
    let failed = |source| L1Error::Cache {
        folder: to.to_owned(),
        source,
    };
    fs::create_dir_all(to).map_err(failed)?;
    if !from.exists() {
        return Ok(());
    }
    let folder = ModuleFolder::open(from)?;
    let built_in = from.join("modules.builtin");
    if built_in.exists() {
        fs::rename(built_in, to.join("modules.builtin")).map_err(failed)?;
    }
    for module in folder.wanted(&[Vendor::Amd, Vendor::Intel])? {
        let file = to.join(format!("{}.ko", module.name));
        fs::write(file, module.bytes).map_err(failed)?;
    }
    Ok(())
}
