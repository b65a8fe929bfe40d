//! The parts of a rehearsal in the cache folder: a kernel, its KVM modules, and a QEMU.
//!
//! ```text
//! ~/.cache/tdxlab/rehearsal/
//!   current -> 7.3.4+deb13-amd64_11.1.3_5d1e8c40
//!   7.3.4+deb13-amd64_11.1.3_5d1e8c40/
//!     parts.json       versions and sizes; written last
//!     kernel/vmlinuz   the distribution's kernel
//!     kernel/modules/  its modules, KVM's rebuilt
//!     kernel/own/      the same, KVM's built from a developer's tree
//!     firmware/        OVMF, which starts Linux as a TD
//!     build/           a root with compiler, headers and KVM's source
//!     qemu/            a root with QEMU and its libraries
//!     qemu-system-x86_64   starts it through that root's own dynamic linker
//! ```

use std::hash::{Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fmt, fs, io};

use serde::{Deserialize, Serialize};

use super::error::{RehearsalError, apt_said, system};
use super::modules::{self, Tree};
use super::root::Root;
use crate::debian::closure::{Archive, Package};

/// Raised when the same packages give other parts.
const RECIPE: u32 = 3;

/// The QEMU.
const QEMU: &str = "qemu-system-x86";
/// The kernel, what its modules are built from, and what they are built with. The headers depend
/// on the compiler that the kernel was built with.
const KERNEL: [&str; 3] = ["linux-image-amd64", "linux-headers-amd64", "linux-source"];
const TOOLS: [&str; 11] = [
    "base-files",
    "dash",
    "coreutils",
    "sed",
    "grep",
    "findutils",
    "mawk",
    "tar",
    "xz-utils",
    "make",
    "bash",
];

/// Firmware that starts as a TD, too.
const FIRMWARE: &str = "ovmf";
/// Its image.
const OVMF: &str = "OVMF.fd";

/// The manifest, written last.
const MANIFEST: &str = "parts.json";

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
    folder: PathBuf,
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

    fn build_root(&self) -> Root {
        Root::at(self.folder.join("build"))
    }

    /// The QEMU: the outer one, which emulates the L1, and the one in it, which makes the TD.
    pub fn qemu(&self) -> PathBuf {
        self.folder.join("qemu-system-x86_64")
    }

    /// The parts in `folder`, if complete.
    fn open(folder: &Path) -> Option<Parts> {
        let folder = folder.canonicalize().ok()?;
        // Parts of an older tdxlab lack what this one builds with.
        folder.join("build").is_dir().then_some(())?;
        let text = fs::read(folder.join(MANIFEST)).ok()?;
        let parts: Parts = serde_json::from_slice(&text).ok()?;
        Some(Parts { folder, ..parts })
    }
}

/// The folder of rehearsal parts below the lab's cache folder.
fn folder_in(cache: &Path) -> PathBuf {
    cache.join("rehearsal")
}

/// The parts, where the cache has them.
pub fn ready(cache: &Path) -> Option<Parts> {
    Parts::open(&folder_in(cache).join("current"))
}

/// The newest parts: from the cache, or downloaded and built.
pub fn prepare(
    cache: &Path,
    keep: bool,
    progress: &mut Progress<'_>,
) -> Result<Parts, RehearsalError> {
    let began = Instant::now();
    let rehearsal = folder_in(cache);
    fs::create_dir_all(&rehearsal).map_err(system(format!("making {}", rehearsal.display())))?;
    let folder = rehearsal.join("apt");
    let apt = Archive::open(&folder);
    let apt = apt.map_err(system(format!("setting up apt in {}", folder.display())))?;
    progress("fetching Debian's package lists");
    apt.update()
        .map_err(apt_said("fetching Debian's package lists"))?;
    let wanted: Vec<&str> = [&[QEMU, FIRMWARE], &KERNEL[..], &TOOLS[..]].concat();
    let closure = |packages: &[&str]| {
        let found = apt.closure(packages);
        found.map_err(apt_said("working out which packages are needed"))
    };
    let all = closure(&wanted)?;
    let for_qemu = closure(&[QEMU, "seabios"])?;
    let find = |start: &str, end: &str| {
        let named =
            |package: &&Package| package.name().starts_with(start) && package.name().ends_with(end);
        all.iter()
            .find(named)
            .ok_or_else(|| RehearsalError::Unexpected {
                package: "Debian's archive".to_owned(),
                what: format!("package {start}*{end}"),
            })
    };
    let kernel = find("linux-modules-", "-amd64")?;
    let release = kernel
        .name()
        .trim_start_matches("linux-modules-")
        .to_owned();
    let qemu = find(QEMU, QEMU)?;
    let name = format!(
        "{release}_{}_{:08x}",
        plain(&qemu.version()),
        fingerprint(&all)
    );
    let target = rehearsal.join(&name);
    if let Some(parts) = Parts::open(&target) {
        point_to(&rehearsal, &name)?;
        return Ok(parts);
    }

    let bytes: u64 = all.iter().map(|package| package.bytes).sum();
    progress(&format!(
        "downloading {} packages, {} MB",
        all.len(),
        bytes / 1_000_000
    ));
    apt.download(&wanted)
        .map_err(apt_said("downloading packages"))?;

    let work = tempfile::Builder::new()
        .prefix("work-")
        .tempdir_in(&rehearsal);
    let work = work.map_err(system("making a working folder"))?;
    let whole = work.path().join("whole");
    progress("unpacking QEMU");
    Root::unpack(
        whole.join("qemu"),
        for_qemu.iter().map(|package| apt.file(package)),
    )?;
    write_launcher(&whole)?;

    progress("unpacking the kernel");
    let is_kernel = |package: &&Package| {
        [
            "linux-image-",
            "linux-binary-",
            "linux-modules-",
            "linux-base-",
        ]
        .iter()
        .any(|start| package.name().starts_with(start))
    };
    let kernel_files = all
        .iter()
        .filter(is_kernel)
        .map(|package| apt.file(package));
    let kernel_root = Root::unpack(work.path().join("kernel"), kernel_files)?;
    keep_kernel(&kernel_root, &release, &whole.join("kernel"))?;

    progress("building KVM's modules, with its TDX code");
    let is_firmware = |package: &&Package| package.name() == FIRMWARE;
    let firmware = all.iter().filter(is_firmware);
    let firmware = Root::unpack(
        work.path().join("firmware"),
        firmware.map(|package| apt.file(package)),
    )?;
    keep_firmware(&firmware, &whole.join("firmware"))?;

    let build_files = all
        .iter()
        .filter(|package| !is_kernel(package) && !is_firmware(package));
    let build_root = Root::unpack(
        whole.join("build"),
        build_files.map(|package| apt.file(package)),
    )?;
    modules::unpack_source(&build_root)?;
    let kept = whole.join("kernel/modules");
    modules::build_in(&build_root, Tree::Distribution, &kept)?;

    let parts = Parts {
        kernel_release: release,
        kernel_version: kernel.version(),
        qemu_version: qemu.version(),
        downloaded: bytes,
        seconds: Some(began.elapsed().as_secs()),
        folder: target.clone(),
    };
    let text = serde_json::to_vec_pretty(&parts).map_err(io::Error::from);
    let written = text.and_then(|text| fs::write(whole.join(MANIFEST), text));
    written.map_err(system("writing the list of parts"))?;
    // Whole or not there. A broken one of the same name is in the way of a rename.
    if target.exists() {
        fs::remove_dir_all(&target).map_err(system("removing broken parts"))?;
    }
    fs::rename(&whole, &target).map_err(system("putting the parts in place"))?;
    point_to(&rehearsal, &name)?;
    if keep {
        progress(&format!("kept {}", work.keep().display()));
    } else {
        apt.clean();
    }
    Ok(parts)
}

/// A version as part of a file name, without epoch and revision.
fn plain(version: &str) -> &str {
    let version = version
        .split_once(':')
        .map_or(version, |(_, version)| version);
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

/// Identifies a set of parts.
fn fingerprint(packages: &std::collections::BTreeSet<Package>) -> u32 {
    // The hash depends on the input and the release of the standard library only; another release
    // at worst rebuilds the parts.
    let mut hasher = std::hash::DefaultHasher::new();
    RECIPE.hash(&mut hasher);
    for package in packages {
        package.file.hash(&mut hasher);
    }
    hasher.finish() as u32
}

/// Points `current` to `name`, atomically.
fn point_to(rehearsal: &Path, name: &str) -> Result<(), RehearsalError> {
    let link = rehearsal.join(format!("current-{}", std::process::id()));
    let linked = symlink(name, &link).and_then(|()| fs::rename(&link, rehearsal.join("current")));
    linked.map_err(system("choosing the current parts"))
}

/// Keeps the image that holds code and variables.
fn keep_firmware(root: &Root, target: &Path) -> Result<(), RehearsalError> {
    let image = root.inside("usr/share/ovmf").join(OVMF);
    fs::create_dir_all(target)
        .and_then(|()| fs::copy(image, target.join(OVMF)))
        .map(drop)
        .map_err(system("keeping the firmware"))
}

/// Keeps the image and the modules, whose names are unique, without their folders.
fn keep_kernel(root: &Root, release: &str, target: &Path) -> Result<(), RehearsalError> {
    let modules = target.join("modules");
    fs::create_dir_all(&modules).map_err(system("keeping the kernel"))?;
    let installed = root.inside(&format!("usr/lib/modules/{release}"));
    let images = [
        installed.join("vmlinuz"),
        root.inside(&format!("boot/vmlinuz-{release}")),
    ];
    let image = images.iter().find(|path| path.is_file());
    let image = image.ok_or_else(|| RehearsalError::Unexpected {
        package: format!("kernel {release}"),
        what: "image".to_owned(),
    })?;
    fs::copy(image, target.join("vmlinuz")).map_err(system("keeping the kernel"))?;
    let keep = |path: &Path, name: &str| {
        // KVM's modules are rebuilt; the other vendor's would not match them.
        let is_kvm = ["kvm.ko", "kvm-amd.ko", "kvm-intel.ko"];
        if is_kvm.iter().any(|module| name.starts_with(module)) {
            return Ok(());
        }
        if name.contains(".ko") || name == "modules.builtin" {
            fs::copy(path, modules.join(name))?;
        }
        Ok(())
    };
    each_file(&installed, &keep).map_err(system("keeping the kernel's modules"))
}

fn each_file(folder: &Path, act: &impl Fn(&Path, &str) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            each_file(&entry.path(), act)?;
        } else if kind.is_file() {
            act(&entry.path(), &entry.file_name().to_string_lossy())?;
        }
    }
    Ok(())
}

/// The script that starts QEMU. `exec` keeps the process, so that its parent is the caller.
fn write_launcher(folder: &Path) -> Result<(), RehearsalError> {
    let path = folder.join("qemu-system-x86_64");
    let text = "#!/bin/sh\n\
         # QEMU with its own libraries, wherever this folder is.\n\
         here=$(dirname \"$(readlink -f \"$0\")\")/qemu\n\
         libraries=$here/usr/lib/x86_64-linux-gnu\n\
         export QEMU_MODULE_DIR=\"$libraries/qemu\"\n\
         exec \"$here/usr/lib64/ld-linux-x86-64.so.2\" --library-path \"$libraries\" \\\n\
         \x20 \"$here/usr/bin/qemu-system-x86_64\" -L \"$here/usr/share/qemu\" -L \"$here/usr/share/seabios\" \"$@\"\n";
    let written = fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
    written.map_err(system("writing the script that starts QEMU"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_names_are_short() {
        assert_eq!(plain("1:11.1.3+ds-1~bpo13+1"), "11.1.3");
        assert_eq!(plain("7.3.4-1~bpo13+1"), "7.3.4");
    }

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
        assert_eq!(ready(cache.path()), None);
        let folder = folder_in(cache.path()).join("7.3");
        fs::create_dir_all(&folder).unwrap();
        point_to(&folder_in(cache.path()), "7.3").unwrap();
        assert_eq!(ready(cache.path()), None);
        fs::write(folder.join(MANIFEST), "{}").unwrap();
        assert_eq!(ready(cache.path()), None);
    }

    #[test]
    fn the_launcher_finds_its_folder_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let linker = folder.path().join("real/qemu/usr/lib64");
        fs::create_dir_all(&linker).unwrap();
        let linker = linker.join("ld-linux-x86-64.so.2");
        fs::write(&linker, "#!/bin/sh\necho \"$@\"\n").unwrap();
        fs::set_permissions(&linker, fs::Permissions::from_mode(0o755)).unwrap();
        write_launcher(&folder.path().join("real")).unwrap();
        symlink("real", folder.path().join("current")).unwrap();
        let launcher = folder.path().join("current/qemu-system-x86_64");
        let output = std::process::Command::new(&launcher)
            .arg("--version")
            .output();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        let root = folder.path().canonicalize().unwrap().join("real/qemu");
        let root = root.display();
        assert!(
            said.starts_with(&format!("--library-path {root}/usr/lib")),
            "{said}"
        );
        assert!(
            said.contains(&format!("{root}/usr/bin/qemu-system-x86_64 -L ")),
            "{said}"
        );
        assert!(said.ends_with("--version\n"), "{said}");
    }
}
