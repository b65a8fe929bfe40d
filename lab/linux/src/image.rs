//! Boot image of a Linux guest: a kernel, and an initramfs with the agent as its only program, or with
//! qemu-ga beside it.
//! Built once, and cached under the hash of its inputs.
//!
//! ```text
//! ~/.cache/tdxlab/guests/3f7a09c2e51b88d4/
//!   kernel        the kernel QEMU boots, if it had to be unpacked
//!   initrd        agent, modules; for kexec also the kernel, and an initramfs without that
//!   image.json    its inputs
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use tdxlab_l1::KernelChoice;
use tdxlab_l1::kernel::{Boot, Kernel};
use tdxlab_l1::package::cache_folder;
use tdxlab_protocol::linux::{KEXEC_INITRD, KEXEC_KERNEL, MODULES, REPORT_MODULES};

use crate::error::LinuxError;
use crate::hash::hash;
use crate::initramfs::{Initramfs, add_qemu_ga};
use crate::kernel_modules::{Modules, check_disks, lacks_disks, modules_of};
use crate::machine::{AgentLine, Start};
use crate::pages_module;

pub use crate::image_options::{First, ImageOptions, PACKAGE};
pub use crate::initramfs::fetch_qemu_ga;
pub use crate::kernel_modules::ReportDriver;

/// Contained in every kernel that supports TDs: the TDX module's CPUID signature (`TDX_IDENT` in
/// arch/x86/include/asm/shared/tdx.h).
const TDX_IDENT: &[u8] = b"IntelTDX    ";

/// Files of an image in the cache.
const INITRAMFS: &str = "initrd";
const UNPACKED: &str = "kernel";
const MADE: &str = "image.json";

/// An image in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxImage {
    /// The kernel QEMU boots.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Start of the hash of all it was made of.
    pub id: String,
    /// Name of the kernel for messages: package or path.
    pub name: String,
    /// The kernel's release, if its image contains it.
    pub release: Option<String>,
    /// The agent's line.
    pub line: AgentLine,
    /// Why pages cannot be converted in it; `None` where they can.
    pub no_convert: Option<String>,
    /// Why it cannot kexec; `None` if it can.
    pub no_kexec: Option<String>,
    /// Why memory cannot be plugged into it; `None` if it can.
    pub no_plug: Option<String>,
    /// The driver for TDREPORTs and quotes.
    pub reports: ReportDriver,
}

/// `image.json`: the inputs, in readable form.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    kernel: String,
    release: Option<String>,
    /// Whether it was seen that the kernel knows TDs.
    td: bool,
    /// SHA-256 of each part.
    parts: BTreeMap<String, String>,
}

impl LinuxImage {
    /// Finds or builds the image.
    ///
    /// # Errors
    ///
    /// The kernel is not available or not suitable, or the cache cannot be written.
    pub fn prepare(options: &ImageOptions) -> Result<LinuxImage, LinuxError> {
        let find = |fresh| Kernel::find(&options.kernel, options.modules.as_deref(), fresh);
        let mut kernel = find(false)?;
        let packaged = matches!(options.kernel, KernelChoice::Package { .. });
        if packaged && options.first == First::Root && lacks_disks(&kernel) {
            // An older tdxlab kept no modules for disks.
            kernel = find(true)?;
        }
        LinuxImage::of(&kernel, options, &cache_folder()?)
    }

    /// Stands for the system on a disk that starts by itself: nothing is made.
    pub fn on_disk(disk: &Path) -> LinuxImage {
        let own = || Some("the kernel is the disk's own".to_owned());
        LinuxImage {
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            id: String::new(),
            name: format!("of {}", disk.display()),
            release: None,
            line: AgentLine::VirtioSerial,
            no_convert: own(),
            no_kexec: own(),
            no_plug: own(),
            reports: ReportDriver::AtBoot,
        }
    }

    /// What QEMU is to start: this kernel.
    pub fn start(&self) -> Start {
        Start::Kernel {
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
        }
    }

    /// The image of a kernel that was found.
    fn of(kernel: &Kernel, options: &ImageOptions, cache: &Path) -> Result<LinuxImage, LinuxError> {
        if options.first == First::Root {
            check_disks(kernel)?;
        }
        let Modules {
            line,
            loaded: mut modules,
            no_plug,
            reports,
            driver,
        } = modules_of(kernel, options)?;
        let own = match &options.pages_module {
            Some(built) => pages_module::built(built),
            None => pages_module::of(kernel, options.headers.as_deref(), cache),
        };
        let no_convert = own.as_ref().err().map(ToString::to_string);
        modules.extend(own.ok());

        let mut files = Initramfs::default();
        files.add("init", 0o755, tdxlab_guest_image::AGENT.to_vec());
        for (folder, modules) in [(MODULES, modules), (REPORT_MODULES, driver)] {
            for (number, module) in modules.into_iter().enumerate() {
                let path = format!("{folder}/{number:02}-{}.ko", module.name);
                files.add(&path, 0o644, module.bytes);
            }
        }
        if options.first == First::QemuGa {
            add_qemu_ga(&mut files, cache)?;
        }
        let no_kexec = match options.kexec {
            true => add_kexec(&mut files, kernel)?,
            false => Some("the image was made without what kexec needs".to_owned()),
        };
        let made = Made {
            kernel: kernel.name.clone(),
            release: kernel.release.clone(),
            td: options.td,
            parts: parts(&files, kernel)?,
        };
        let id = made.id();
        let folder = cache.join("guests").join(&id);
        if !folder.join(MADE).is_file() {
            if options.td && !mentions_td(kernel)? {
                return Err(LinuxError::NoTdKernel {
                    kernel: kernel.name.clone(),
                });
            }
            made.keep(&folder, &files, kernel)?;
        }
        Ok(LinuxImage {
            kernel: made.booted(&folder, kernel)?,
            initramfs: folder.join(INITRAMFS),
            id,
            name: kernel.name.clone(),
            release: kernel.release.clone(),
            line,
            no_convert,
            no_kexec,
            no_plug,
            reports,
        })
    }
}

impl Made {
    /// Start of the hash over all of which the image depends.
    fn id(&self) -> String {
        let text = serde_json::to_vec(&(self.td, &self.parts)).expect("text can be written");
        hash(&text)[..16].to_owned()
    }

    /// Writes the image to its folder, which appears when it is whole.
    fn keep(&self, folder: &Path, files: &Initramfs, kernel: &Kernel) -> Result<(), LinuxError> {
        let boot = (!self.td).then(|| kernel.boot()).transpose()?;
        let write = || {
            let above = folder.parent().expect("a folder of the cache");
            fs::create_dir_all(above)?;
            let whole = tempfile::tempdir_in(above)?;
            fs::write(whole.path().join(INITRAMFS), files.archive()?)?;
            if let Some(Boot::Bytes(bytes)) = boot {
                fs::write(whole.path().join(UNPACKED), bytes)?;
            }
            fs::write(whole.path().join(MADE), serde_json::to_vec_pretty(self)?)?;
            match fs::rename(whole.path(), folder) {
                Ok(()) => {
                    let _moved = whole.keep();
                    Ok(())
                }
                // Another run was faster.
                Err(_) if folder.join(MADE).is_file() => Ok(()),
                Err(error) => Err(error),
            }
        };
        write().map_err(|source: io::Error| LinuxError::File {
            path: folder.to_owned(),
            source,
        })
    }

    /// The kernel QEMU boots, of an image in its folder.
    fn booted(&self, folder: &Path, kernel: &Kernel) -> Result<PathBuf, LinuxError> {
        let unpacked = folder.join(UNPACKED);
        // Firmware starts the image as packaged, by its EFI stub.
        if self.td {
            return Ok(kernel.image.clone());
        }
        if unpacked.is_file() {
            return Ok(unpacked);
        }
        Ok(match kernel.boot()? {
            Boot::File(path) => path.clone(),
            Boot::Bytes(_) => unpacked,
        })
    }
}

/// Adds the files for kexec; or returns why it is not available.
fn add_kexec(files: &mut Initramfs, kernel: &Kernel) -> Result<Option<String>, LinuxError> {
    let bytes = read(&kernel.image)?;
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(Some(format!(
            "{} is no bzImage, which kexec needs",
            kernel.name
        )));
    }
    let inner = files.archive().map_err(|source| LinuxError::File {
        path: PathBuf::from(KEXEC_INITRD),
        source,
    })?;
    files.add(KEXEC_KERNEL, 0o644, bytes);
    files.add(KEXEC_INITRD, 0o644, inner);
    Ok(None)
}

/// Whether the kernel knows TDs.
fn mentions_td(kernel: &Kernel) -> Result<bool, LinuxError> {
    let mentions = |bytes: &[u8]| memmem::find(bytes, TDX_IDENT).is_some();
    Ok(match kernel.boot()? {
        Boot::File(path) => mentions(&read(path)?),
        Boot::Bytes(bytes) => mentions(bytes),
    })
}

/// The hash of each part.
fn parts(files: &Initramfs, kernel: &Kernel) -> Result<BTreeMap<String, String>, LinuxError> {
    let kernel = ("kernel".to_owned(), hash(&read(&kernel.image)?));
    Ok(files.parts().chain([kernel]).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, LinuxError> {
    fs::read(path).map_err(|source| LinuxError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_modules::tests::kernel;

    #[test]
    fn the_same_parts_make_the_same_image_and_others_another() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        let make =
            |options: &ImageOptions| LinuxImage::of(&kernel, options, folder.path()).unwrap();
        let plain = make(&ImageOptions::default());
        let written = fs::metadata(&plain.initramfs).unwrap().modified().unwrap();
        assert_eq!(make(&ImageOptions::default()), plain);
        assert_eq!(
            fs::metadata(&plain.initramfs).unwrap().modified().unwrap(),
            written
        );
        let kexec = make(&ImageOptions {
            kexec: true,
            ..ImageOptions::default()
        });
        assert_ne!(kexec.id, plain.id);
        assert_eq!(kexec.no_kexec, None);
        assert!(plain.no_kexec.is_some());
    }

    #[test]
    fn a_kernel_that_knows_no_tds_is_refused_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        let options = ImageOptions {
            td: true,
            ..ImageOptions::default()
        };
        // A plain image of it in the cache makes no difference.
        LinuxImage::of(&kernel, &ImageOptions::default(), folder.path()).unwrap();
        let error = LinuxImage::of(&kernel, &options, folder.path()).unwrap_err();
        assert!(matches!(error, LinuxError::NoTdKernel { .. }), "{error}");
    }

    #[test]
    fn a_td_boots_the_packed_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bzImage");
        let mut image = fs::read(kernel(folder.path()).image).unwrap();
        image.extend_from_slice(TDX_IDENT);
        fs::write(&path, image).unwrap();
        let choice = KernelChoice::Image(path.clone());
        let kernel = Kernel::find(&choice, None, false).unwrap();
        let options = ImageOptions {
            td: true,
            ..ImageOptions::default()
        };
        let made = LinuxImage::of(&kernel, &options, folder.path()).unwrap();
        assert_eq!(made.kernel, path.canonicalize().unwrap());
        assert_eq!(
            LinuxImage::of(&kernel, &options, folder.path()).unwrap(),
            made
        );
        let plain = LinuxImage::of(&kernel, &ImageOptions::default(), folder.path()).unwrap();
        assert_ne!(plain.id, made.id);
    }

    #[test]
    fn a_kernel_without_disks_is_refused_where_its_root_is_on_one() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("modules");
        fs::create_dir(&modules).unwrap();
        fs::write(modules.join("modules.builtin"), "kernel/virtio_pci.ko\n").unwrap();
        let kernel = kernel(folder.path());
        let root = ImageOptions {
            first: First::Root,
            ..ImageOptions::default()
        };
        let error = LinuxImage::of(&kernel, &root, folder.path()).unwrap_err();
        assert!(error.to_string().contains("CONFIG_VIRTIO_BLK"), "{error}");
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        let cache = folder.path().join("file");
        fs::write(&cache, "").unwrap();
        let error = LinuxImage::of(&kernel, &ImageOptions::default(), &cache).unwrap_err();
        assert!(matches!(error, LinuxError::File { .. }), "{error}");
    }
}
