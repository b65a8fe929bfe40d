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

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use tdxlab_l1::cpio::Archive;
use tdxlab_l1::kernel::{Boot, Kernel};
use tdxlab_l1::modules::Module;
use tdxlab_l1::package::cache_folder;
use tdxlab_l1::program::{Program, program};
use tdxlab_l1::{KernelChoice, L1Error};
use tdxlab_protocol::linux::{KEXEC_INITRD, KEXEC_KERNEL, MODULES, QEMU_GA, REPORT_MODULES};

use crate::error::LinuxError;
use crate::hash::hash;
use crate::machine::{AgentLine, Start};
use crate::pages_module;

/// The default kernel package of guests.
pub const PACKAGE: &str = "linux-image-cloud-amd64";

/// Contained in every kernel that supports TDs: the TDX module's CPUID signature (`TDX_IDENT` in
/// arch/x86/include/asm/shared/tdx.h).
const TDX_IDENT: &[u8] = b"IntelTDX    ";

/// Modules without which the agent cannot be reached, and their options.
const NEEDED: [(&str, &str); 2] = [
    ("virtio_pci", "CONFIG_VIRTIO_PCI"),
    ("virtio_console", "CONFIG_VIRTIO_CONSOLE"),
];

/// What the first process of an image does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It is the agent.
    Agent,
    /// It starts Debian's qemu-ga, and no other program.
    QemuGa,
    /// It goes over to the root file system on a disk.
    Root,
}

/// Modules for a disk, where the kernel has them as such.
const OF_DISKS: [&str; 3] = ["virtio_blk", "ext4", "xfs"];

/// Parameters of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// The kernel.
    pub kernel: KernelChoice,
    /// Folder of its modules, if not beside it.
    pub modules: Option<PathBuf>,
    /// Folder of its headers, for the lab's own module; where `None`, the usual places.
    pub headers: Option<PathBuf>,
    /// The lab's own module, if it is built already.
    pub pages_module: Option<PathBuf>,
    /// Further modules to load, where the kernel has them.
    pub extra: Vec<String>,
    /// What its first process does.
    pub first: First,
    /// Whether it must support kexec into itself.
    pub kexec: bool,
    /// Whether it must run as a TD.
    pub td: bool,
    /// Whether memory is plugged into it.
    pub plug: bool,
    /// Whether the driver for TDREPORTs and quotes is loaded by the first request, and not at boot.
    pub reports: bool,
}

impl Default for ImageOptions {
    fn default() -> ImageOptions {
        ImageOptions {
            kernel: KernelChoice::Package {
                name: PACKAGE.to_owned(),
                suite: None,
            },
            modules: None,
            headers: None,
            pages_module: None,
            extra: Vec::new(),
            first: First::Agent,
            kexec: false,
            td: false,
            plug: false,
            reports: false,
        }
    }
}

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

/// The driver for TDREPORTs and quotes in an image (tdx_guest, CONFIG_TDX_GUEST_DRIVER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportDriver {
    /// The kernel has none.
    Absent,
    /// It is there when the agent is.
    AtBoot,
    /// The first request loads it.
    WithRequest,
}

/// `image.json`: the inputs, in readable form.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    kernel: String,
    release: Option<String>,
    /// SHA-256 of each part.
    parts: BTreeMap<String, String>,
}

/// The files of an initramfs, by path, and symbolic links with their targets.
#[derive(Debug, Default)]
struct Files(Vec<(String, u32, Vec<u8>)>, Vec<(String, String)>);

impl Files {
    fn add(&mut self, path: &str, permissions: u32, content: Vec<u8>) {
        let path = path.trim_start_matches('/').to_owned();
        self.0.push((path, permissions, content));
    }

    fn link(&mut self, path: &str, target: &str) {
        self.1.push((path.to_owned(), target.to_owned()));
    }

    /// Folders of files and links that are in no folder of every image.
    fn folders(&self) -> BTreeSet<&str> {
        let paths = self.0.iter().map(|(path, ..)| path);
        let paths = paths.chain(self.1.iter().map(|(path, _)| path));
        let above = paths.flat_map(|path| Path::new(path).ancestors().skip(1));
        let above = above.filter_map(Path::to_str);
        above.filter(|folder| !folder.is_empty()).collect()
    }

    fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = Archive::new(Vec::new());
        let always = [
            "dev",
            "proc",
            "sys",
            "modules",
            "modules/report",
            "kexec",
            "root",
            "run",
            "tmp",
        ];
        let folders = always.into_iter().chain(self.folders());
        // A folder comes before what is in it.
        for folder in folders.collect::<BTreeSet<_>>() {
            archive.folder(folder)?;
        }
        // The kernel opens it for its first process before anything is mounted.
        archive.character_device("dev/console", 5, 1)?;
        for (path, permissions, content) in &self.0 {
            archive.file(path, *permissions, content)?;
        }
        for (path, target) in &self.1 {
            archive.link(path, target)?;
        }
        archive.finish()
    }
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
        if options.first == First::Root && lacks_disks(kernel) {
            return Err(LinuxError::Lacks {
                kernel: kernel.name.clone(),
                module: OF_DISKS[0],
                option: "CONFIG_VIRTIO_BLK",
            });
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

        let mut files = Files::default();
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
        if options.td && !mentions_td(kernel)? {
            return Err(LinuxError::NoTdKernel {
                kernel: kernel.name.clone(),
            });
        }

        let made = Made {
            kernel: kernel.name.clone(),
            release: kernel.release.clone(),
            parts: parts(&files, kernel)?,
        };
        let id = made.id();
        let folder = cache.join("guests").join(&id);
        let booted = match &kernel.boot {
            // Firmware starts the image as packaged, by its EFI stub.
            _ if options.td => kernel.image.clone(),
            Boot::File(path) => path.clone(),
            Boot::Bytes(_) => folder.join("kernel"),
        };
        let image = LinuxImage {
            kernel: booted,
            initramfs: folder.join("initrd"),
            id,
            name: kernel.name.clone(),
            release: kernel.release.clone(),
            line,
            no_convert,
            no_kexec,
            no_plug: no_plug.then(|| format!("{} has no {PLUGS} (CONFIG_VIRTIO_MEM)", kernel.name)),
            reports,
        };
        if !folder.join("image.json").is_file() {
            image
                .keep(&folder, &files, kernel, &made)
                .map_err(|source| LinuxError::File {
                    path: folder.clone(),
                    source,
                })?;
        }
        Ok(image)
    }

    /// Writes it to the cache. The folder appears when it is whole.
    fn keep(&self, folder: &Path, files: &Files, kernel: &Kernel, made: &Made) -> io::Result<()> {
        let above = folder.parent().expect("a folder of the cache");
        fs::create_dir_all(above)?;
        let whole = tempfile::tempdir_in(above)?;
        fs::write(whole.path().join("initrd"), files.archive()?)?;
        if let Boot::Bytes(bytes) = &kernel.boot {
            fs::write(whole.path().join("kernel"), bytes)?;
        }
        fs::write(
            whole.path().join("image.json"),
            serde_json::to_vec_pretty(made)?,
        )?;
        match fs::rename(whole.path(), folder) {
            Ok(()) => {
                let _moved = whole.keep();
                Ok(())
            }
            // Another run was faster.
            Err(_) if folder.join("image.json").is_file() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Made {
    /// Start of the hash over all parts.
    fn id(&self) -> String {
        let text = serde_json::to_vec(&self.parts).expect("text can be written");
        hash(&text)[..16].to_owned()
    }
}

/// Whether the kernel cannot reach a disk.
fn lacks_disks(kernel: &Kernel) -> bool {
    let modules = kernel.modules.as_ref();
    modules.is_some_and(|folder| folder.lacks(OF_DISKS[0]))
}

/// Name of the driver for TDREPORTs and quotes.
const REPORTS: &str = "tdx_guest";

/// Name of the driver that adds memory.
const PLUGS: &str = "virtio_mem";

/// Modules of an image, dependencies first.
struct Modules {
    line: AgentLine,
    loaded: Vec<Module>,
    no_plug: bool,
    reports: ReportDriver,
    /// What the first TDREPORT or quote loads.
    driver: Vec<Module>,
}

/// The modules in load order, and the agent's line with them.
fn modules_of(kernel: &Kernel, options: &ImageOptions) -> Result<Modules, LinuxError> {
    let without = |line| Modules {
        line,
        loaded: Vec::new(),
        no_plug: false,
        reports: ReportDriver::AtBoot,
        driver: Vec::new(),
    };
    let Some(folder) = &kernel.modules else {
        // A kernel without modules has built in whatever it has.
        return Ok(without(AgentLine::VirtioSerial));
    };
    let missing = NEEDED.into_iter().find(|(module, _)| folder.lacks(module));
    if let Some((module, option)) = missing {
        if options.td {
            // A TD receives data on a serial line too slowly.
            return Err(LinuxError::Lacks {
                kernel: kernel.name.clone(),
                module,
                option,
            });
        }
        return Ok(without(AgentLine::Serial));
    }
    let extra = options.extra.iter().map(String::as_str);
    let disk = OF_DISKS
        .into_iter()
        .filter(|_| options.first == First::Root);
    let extra = extra.chain(disk);
    let names: Vec<&str> = NEEDED.into_iter().map(|(module, _)| module).collect();
    let plugs = options.plug.then_some(PLUGS);
    let at_boot = (options.td && !options.reports).then_some(REPORTS);
    let loaded = folder.in_order(names.into_iter().chain(at_boot).chain(plugs).chain(extra))?;
    let mut driver = match options.td && options.reports {
        true => folder.in_order([REPORTS])?,
        false => Vec::new(),
    };
    let is_file = driver.iter().any(|module| module.name == REPORTS);
    driver.retain(|module| !loaded.iter().any(|known| known.name == module.name));
    Ok(Modules {
        line: AgentLine::VirtioSerial,
        loaded,
        no_plug: folder.lacks(PLUGS),
        reports: match folder.lacks(REPORTS) {
            true => ReportDriver::Absent,
            false if is_file => ReportDriver::WithRequest,
            false => ReportDriver::AtBoot,
        },
        driver,
    })
}

/// Has Debian's qemu-ga in the cache, for an image that is made where there is no network.
///
/// # Errors
///
/// It cannot be had, or the cache cannot be written.
pub fn fetch_qemu_ga() -> Result<(), L1Error> {
    qemu_ga(&cache_folder()?).map(drop)
}

fn qemu_ga(cache: &Path) -> Result<Program, L1Error> {
    program(cache, "qemu-guest-agent", "qemu-ga")
}

/// Adds Debian's qemu-ga, what it loads, and the programs that it starts.
fn add_qemu_ga(files: &mut Files, cache: &Path) -> Result<(), LinuxError> {
    let qemu_ga = qemu_ga(cache)?;
    files.add(QEMU_GA, 0o755, qemu_ga.program);
    let linker = qemu_ga.interpreter.unwrap_or_default();
    for (name, content) in qemu_ga.libraries {
        let path = match linker.ends_with(&name) {
            true => linker.clone(),
            false => Path::new(LIBRARIES).join(name),
        };
        files.add(&path.to_string_lossy(), 0o755, content);
    }
    for tool in ["sbin/shutdown", "bin/chmod"] {
        files.link(tool, "/init");
    }
    Ok(())
}

/// Where Debian's dynamic linker looks.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

/// Adds the files for kexec; or returns why it is not available.
fn add_kexec(files: &mut Files, kernel: &Kernel) -> Result<Option<String>, LinuxError> {
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
    let bytes = match &kernel.boot {
        Boot::File(path) => read(path)?,
        Boot::Bytes(bytes) => bytes.clone(),
    };
    Ok(bytes
        .windows(TDX_IDENT.len())
        .any(|window| window == TDX_IDENT))
}

/// The hash of each part.
fn parts(files: &Files, kernel: &Kernel) -> Result<BTreeMap<String, String>, LinuxError> {
    let mut parts: BTreeMap<String, String> = files
        .0
        .iter()
        .map(|(path, _, content)| (path.clone(), hash(content)))
        .collect();
    let links = files.1.iter().cloned();
    parts.extend(links.map(|(path, target)| (path, format!("link to {target}"))));
    parts.insert("kernel".to_owned(), hash(&read(&kernel.image)?));
    Ok(parts)
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

    /// A minimal kernel image: a header without payload.
    fn bz_image() -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image
    }

    fn kernel(folder: &Path) -> Kernel {
        let path = folder.join("bzImage");
        fs::write(&path, bz_image()).unwrap();
        Kernel::find(&KernelChoice::Image(path), None, false).unwrap()
    }

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
        let error = LinuxImage::of(&kernel, &options, folder.path()).unwrap_err();
        assert!(matches!(error, LinuxError::NoTdKernel { .. }), "{error}");
    }

    #[test]
    fn a_kernel_without_virtio_speaks_on_a_serial_line() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("modules");
        fs::create_dir(&modules).unwrap();
        fs::write(
            modules.join("modules.builtin"),
            "kernel/drivers/virtio/virtio_pci.ko\n",
        )
        .unwrap();
        let kernel = kernel(folder.path());
        let modules = modules_of(&kernel, &ImageOptions::default()).unwrap();
        assert_eq!((modules.line, modules.loaded.len()), (AgentLine::Serial, 0));
        let td = ImageOptions {
            td: true,
            ..ImageOptions::default()
        };
        let error = modules_of(&kernel, &td).err().unwrap();
        assert!(
            error.to_string().contains("CONFIG_VIRTIO_CONSOLE"),
            "{error}"
        );
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
    fn folders_come_before_what_is_in_them() {
        let mut files = Files::default();
        files.add("/usr/sbin/qemu-ga", 0o755, Vec::new());
        files.link("bin/chmod", "/init");
        let folders: Vec<_> = files.folders().into_iter().collect();
        assert_eq!(folders, ["bin", "usr", "usr/sbin"]);
        let archive = files.archive().unwrap();
        let at = |name: &[u8]| archive.windows(name.len()).position(|part| part == name);
        assert!(at(b"usr/sbin\0") < at(b"usr/sbin/qemu-ga\0"));
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
