//! Prepares the parts of a rehearsal: downloads Debian's packages, unpacks them, and builds KVM's
//! two modules.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;
use std::{fs, io};

use super::choice::{Distributed, Version};
use super::error::{RehearsalError, apt_said, system};
use super::kept::{self, MANIFEST};
use super::modules::{self, Tree};
use super::parts::{OVMF, Parts, Progress, folder_in};
use super::root::Root;
use crate::debian::closure::{Archive, Package};

/// Raised when the same packages give other parts.
const RECIPE: u32 = 5;

/// The QEMU.
const QEMU: &str = "qemu-system-x86";
/// The newest kernel, what its modules are built from, and what they are built with. The headers
/// depend on the compiler that the kernel was built with.
const NEWEST: [&str; 3] = ["linux-image-amd64", "linux-headers-amd64", "linux-source"];
const TOOLS: [&str; 12] = [
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
    // KVM's selftests are programs.
    "libc6-dev",
];

/// Firmware that starts as a TD, too.
const FIRMWARE: &str = "ovmf";

/// The newest parts with this kernel: from the cache, or downloaded and built.
pub fn prepare(
    cache: &Path,
    distributed: &Distributed,
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
    let closure = |packages: &[&str]| {
        let found = apt.closure(packages);
        found.map_err(apt_said("working out which packages are needed"))
    };
    let kernel = match distributed {
        Distributed::Newest => NEWEST.map(str::to_owned),
        Distributed::Version(version) => packages_of(&apt, version)?,
    };
    let wanted = [QEMU, FIRMWARE]
        .into_iter()
        .chain(kernel.iter().map(String::as_str));
    let wanted: Vec<&str> = wanted.chain(TOOLS).collect();
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
        point_to(&rehearsal, &distributed.link(), &name)?;
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
    point_to(&rehearsal, &distributed.link(), &name)?;
    for old in kept::remove(&rehearsal) {
        progress(&format!("removed {}, which is replaced", old.display()));
    }
    if keep {
        progress(&format!("kept {}", work.keep().display()));
    } else {
        apt.clean();
    }
    Ok(parts)
}

/// Packages of the newest kernel of this version whose source is packaged: image, headers, source.
fn packages_of(apt: &Archive, version: &Version) -> Result<[String; 3], RehearsalError> {
    const SOURCE: &str = "linux-source-";
    let names = |start: &str| {
        let found = apt.names(start);
        found.map_err(apt_said("looking for kernels"))
    };
    let sources = names(SOURCE)?;
    let source = format!("{SOURCE}{version}");
    if !sources.contains(&source) {
        let with_tdx = sources.iter().filter_map(|name| {
            let version: Version = name.strip_prefix(SOURCE)?.parse().ok()?;
            Some(version.to_string())
        });
        return Err(RehearsalError::NoSuchKernel {
            version: version.to_string(),
            there: with_tdx.collect(),
        });
    }
    let closure = apt.closure(&[&source]);
    let closure = closure.map_err(apt_said("looking for the kernel's source"))?;
    let packed = closure.iter().find(|package| package.name() == source);
    let packed = packed.ok_or_else(|| RehearsalError::Unexpected {
        package: "Debian's archive".to_owned(),
        what: format!("package {source}"),
    })?;
    // Of the flavours, the one without a name.
    let image = format!("linux-image-{}", plain(&packed.version()));
    let images = names(&format!("{image}+"))?;
    let release = images.iter().find_map(|name| {
        let release = name.strip_prefix("linux-image-")?;
        (!release.strip_suffix("-amd64")?.contains('-')).then_some(release)
    });
    let release = release.ok_or_else(|| RehearsalError::Unexpected {
        package: "Debian's archive".to_owned(),
        what: format!("package {image}+*-amd64"),
    })?;
    Ok([
        format!("linux-image-{release}"),
        format!("linux-headers-{release}"),
        source,
    ])
}

/// A version as part of a file name, without epoch and revision.
fn plain(version: &str) -> &str {
    let version = version
        .split_once(':')
        .map_or(version, |(_, version)| version);
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

/// Identifies a set of parts.
fn fingerprint(packages: &BTreeSet<Package>) -> u32 {
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
pub(super) fn point_to(rehearsal: &Path, current: &str, name: &str) -> Result<(), RehearsalError> {
    let link = rehearsal.join(format!("{current}.{}", std::process::id()));
    let linked = symlink(name, &link).and_then(|()| fs::rename(&link, rehearsal.join(current)));
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
    let kept = target.join("modules");
    fs::create_dir_all(&kept).map_err(system("keeping the kernel"))?;
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
        let module = name.contains(".ko") && !modules::is_kvm(name);
        if module || name == "modules.builtin" {
            fs::copy(path, kept.join(name))?;
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
