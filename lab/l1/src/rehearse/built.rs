//! A kernel that a developer has built, and KVM's modules for it.
//!
//! They are built against the kernel's own build folder, by this machine's compiler, as the kernel
//! was. No Debian package takes part but QEMU's.

use std::hash::{Hash, Hasher};
use std::num::NonZero;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::{fs, io};

use tdxlab_softtdx::BuildRequest;
use tdxlab_softtdx::make::ThisMachine;

use super::error::{RehearsalError, system};
use super::modules::{self, MODULES};
use super::parts::{Progress, folder_in};
use crate::image;

/// Options that must be modules, for KVM's modules to be loaded in their place.
const AS_MODULES: [&str; 3] = ["CONFIG_KVM", "CONFIG_KVM_X86", "CONFIG_KVM_AMD"];

/// How far the build folder is above the image.
const IMAGE_IN_TREE: &str = "arch/x86/boot";

/// Advice for a kernel whose modules are missing.
const BUILD_IT: &str = "build it with `make bzImage modules`, and give its arch/x86/boot/bzImage";

/// A kernel's build folder.
#[derive(Debug)]
struct BuildFolder(PathBuf);

impl BuildFolder {
    /// The one that `image` lies in, if it holds what modules are built against.
    fn of(image: &Path) -> Result<BuildFolder, RehearsalError> {
        let image = image
            .canonicalize()
            .map_err(system(format!("finding {}", image.display())))?;
        let boot = image.ancestors().find(|path| path.ends_with(IMAGE_IN_TREE));
        let levels = Path::new(IMAGE_IN_TREE).components().count();
        let folder = boot.and_then(|boot| boot.ancestors().nth(levels));
        let folder = folder.ok_or_else(|| RehearsalError::NotBuilt {
            tree: image.clone(),
            why: format!("this is not {IMAGE_IN_TREE}/ of a build folder, so there is nothing to build modules against"),
            advice: BUILD_IT,
        })?;
        let folder = BuildFolder(folder.to_owned());
        for file in [
            "Module.symvers",
            "modules.order",
            "include/config/auto.conf",
        ] {
            if !folder.0.join(file).is_file() {
                return Err(folder.lacks(format!("the build has left no {file}"), BUILD_IT));
            }
        }
        folder.check_options()?;
        folder.check_release(&image)?;
        Ok(folder)
    }

    fn lacks(&self, why: String, advice: &'static str) -> RehearsalError {
        RehearsalError::NotBuilt {
            tree: self.0.clone(),
            why,
            advice,
        }
    }

    fn read(&self, file: &str) -> Result<String, RehearsalError> {
        let path = self.0.join(file);
        fs::read_to_string(&path).map_err(system(format!("reading {}", path.display())))
    }

    fn check_options(&self) -> Result<(), RehearsalError> {
        let options = self.read("include/config/auto.conf")?;
        let value = |option: &str| {
            let mut lines = options.lines();
            lines.find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
        };
        for option in AS_MODULES {
            let why = match value(option) {
                Some("m") => continue,
                Some(other) => format!("its kernel has {option}={other}"),
                None => format!("its kernel is built without {option}"),
            };
            return Err(self.lacks(
                why,
                "set CONFIG_KVM=m and CONFIG_KVM_AMD=m, and build it again",
            ));
        }
        Ok(())
    }

    /// An image of another build would refuse the modules one by one.
    fn check_release(&self, path: &Path) -> Result<(), RehearsalError> {
        let bytes = fs::read(path).map_err(system(format!("reading {}", path.display())))?;
        let image = image::read(&bytes).map_err(|what| RehearsalError::NotBuilt {
            tree: path.to_owned(),
            why: what.to_string(),
            advice: BUILD_IT,
        })?;
        let built = self.read("include/config/kernel.release")?;
        match image.release {
            Some(release) if release != built.trim() => Err(self.lacks(
                format!(
                    "its image is of Linux {release}, and the last build was {}",
                    built.trim()
                ),
                BUILD_IT,
            )),
            _ => Ok(()),
        }
    }

    /// Links all modules but KVM's into `target`, under their names.
    fn link_modules(&self, target: &Path) -> io::Result<()> {
        let _ = fs::remove_dir_all(target);
        fs::create_dir_all(target)?;
        for line in fs::read_to_string(self.0.join("modules.order"))?.lines() {
            let module = self.0.join(line).with_extension("ko");
            let Some(name) = module.file_name() else {
                continue;
            };
            if !modules::is_kvm(&name.to_string_lossy()) {
                symlink(&module, target.join(name))?;
            }
        }
        let builtin = "modules.builtin";
        fs::copy(self.0.join(builtin), target.join(builtin)).map(drop)
    }
}

/// Builds KVM's modules of `source` against the build folder of `image`; the folder with them and
/// all others of that kernel. The folder's work is kept, so that the next build is quick.
///
/// # Errors
///
/// The image is in no build folder, its kernel has KVM built in, or the modules do not build.
pub fn modules_for(
    cache: &Path,
    source: &Path,
    image: &Path,
    progress: &mut Progress<'_>,
) -> Result<PathBuf, RehearsalError> {
    let folder = BuildFolder::of(image)?;
    let source = source
        .canonicalize()
        .map_err(system(format!("finding {}", source.display())))?;
    // Another release of the standard library at worst builds anew.
    let mut hasher = std::hash::DefaultHasher::new();
    (&folder.0, &source).hash(&mut hasher);
    let own = folder_in(cache).join(format!("built-{:08x}", hasher.finish() as u32));
    let (work, target) = (own.join("softtdx"), own.join("modules"));
    fs::create_dir_all(&work).map_err(system(format!("making {}", work.display())))?;
    let _lock = modules::lock(&own.join("lock"))?;
    progress(&format!(
        "building KVM's modules of {} for {}",
        source.display(),
        image.display()
    ));
    let request = BuildRequest {
        source,
        headers: folder.0.clone(),
        work_inside: work.clone(),
        work,
        jobs: available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    let built = tdxlab_softtdx::build(&request, &ThisMachine)?;
    folder
        .link_modules(&target)
        .map_err(system("laying modules out"))?;
    for (built, name) in [built.kvm, built.kvm_amd].iter().zip(MODULES) {
        fs::copy(built, target.join(name)).map_err(system(format!("keeping {name}")))?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::bz_image;

    const AUTO_CONF: &str = "CONFIG_KVM=m\nCONFIG_KVM_X86=m\nCONFIG_KVM_AMD=m\n";

    /// A build folder that has all that is looked for.
    fn built() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &[u8]| {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("Module.symvers", b"");
        write("modules.order", b"arch/x86/kvm/kvm.o\nfs/9p/9p.o\n");
        write("modules.builtin", b"");
        write("include/config/auto.conf", AUTO_CONF.as_bytes());
        write("include/config/kernel.release", b"7.3.4\n");
        write("arch/x86/boot/bzImage", &bz_image("7.3.4", b""));
        let image = folder.path().join("arch/x86/boot/bzImage");
        (folder, image)
    }

    fn refused(image: &Path) -> String {
        BuildFolder::of(image).unwrap_err().to_string()
    }

    #[test]
    fn a_build_folder_is_found_from_its_image() {
        let (folder, image) = built();
        let found = BuildFolder::of(&image).unwrap();
        assert_eq!(found.0, folder.path().canonicalize().unwrap());
        let target = folder.path().join("modules");
        found.link_modules(&target).unwrap();
        assert!(target.join("9p.ko").is_symlink());
        assert!(!target.join("kvm.ko").exists() && target.join("modules.builtin").exists());
    }

    #[test]
    fn what_is_missing_of_a_build_is_named() {
        let (folder, image) = built();
        let conf = folder.path().join("include/config/auto.conf");
        fs::write(&conf, AUTO_CONF.replace("AMD=m", "AMD=y")).unwrap();
        assert!(refused(&image).contains("has CONFIG_KVM_AMD=y"));
        fs::write(&conf, "CONFIG_KVM=m\n").unwrap();
        assert!(refused(&image).contains("without CONFIG_KVM_X86"));
        fs::write(&conf, AUTO_CONF).unwrap();
        fs::write(
            folder.path().join("include/config/kernel.release"),
            "7.4.0\n",
        )
        .unwrap();
        assert!(refused(&image).contains("of Linux 7.3.4, and the last build was 7.4.0"));
        fs::remove_file(folder.path().join("Module.symvers")).unwrap();
        assert!(refused(&image).contains("no Module.symvers"));
    }

    #[test]
    fn an_image_elsewhere_is_no_kernel_to_build_for() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("bzImage");
        fs::write(&image, bz_image("7.3.4", b"")).unwrap();
        assert!(refused(&image).contains("nothing to build modules against"));
    }
}
