//! The kernel of an L1: an image, or a package.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use std::{fmt, fs, io};

use super::error::L1Error;
use super::modules::{Module, ModuleFolder};
use super::{image, package};
use crate::feature::Vendor;

/// Where `newest` looks: what Debian builds of the newest kernel for its stable release.
const NEWEST_SUITE: &str = "trixie-backports";

/// Debian's metapackage of the newest kernel.
const DISTRIBUTION: &str = "linux-image-amd64";

/// Argument of `--kernel` or `--guest-kernel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// The distribution's kernel.
    Distribution,
    /// The newest that Debian packages.
    Newest,
    /// A bzImage or a vmlinux with a PVH entry.
    Image(PathBuf),
    /// A package by name, from a suite where one is named.
    Package {
        /// Name of the package.
        name: String,
        /// Suite of Debian's archive; `None` for the machine's own sources.
        suite: Option<String>,
    },
}

impl FromStr for KernelChoice {
    type Err = String;

    /// `distribution`, `newest`, a path (with a slash, or of a file that is there), or
    /// `PACKAGE[@SUITE]`.
    fn from_str(text: &str) -> Result<KernelChoice, String> {
        let is_name = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        match text {
            "distribution" => Ok(KernelChoice::Distribution),
            "newest" => Ok(KernelChoice::Newest),
            _ if text.contains('/') || Path::new(text).is_file() => {
                Ok(KernelChoice::Image(text.into()))
            }
            _ => {
                let (name, suite) = match text.split_once('@') {
                    Some((name, suite)) => (name, Some(suite)),
                    None => (text, None),
                };
                if !is_name(name) || suite.is_some_and(|suite| !is_name(suite)) {
                    return Err(format!(
                        "{text:?} is neither a file nor a package name; \
                         write a path, PACKAGE, PACKAGE@SUITE, `distribution` or `newest`"
                    ));
                }
                Ok(KernelChoice::Package {
                    name: name.to_owned(),
                    suite: suite.map(str::to_owned),
                })
            }
        }
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelChoice::Distribution => f.write_str("distribution"),
            KernelChoice::Newest => f.write_str("newest"),
            KernelChoice::Image(path) => path.display().fmt(f),
            KernelChoice::Package { name, suite: None } => f.write_str(name),
            KernelChoice::Package {
                name,
                suite: Some(suite),
            } => write!(f, "{name}@{suite}"),
        }
    }
}

/// The kernel QEMU boots.
#[derive(Debug)]
pub enum Boot {
    /// A file.
    File(PathBuf),
    /// A kernel that was unpacked from its image.
    Bytes(Vec<u8>),
}

/// A kernel ready to boot.
#[derive(Debug)]
pub struct Kernel {
    /// Name for messages: package or path.
    pub name: String,
    /// Release, if the image contains it.
    pub release: Option<String>,
    /// Its modules; `None` if not found.
    pub modules: Option<ModuleFolder>,
    /// The image as it was packaged or built: a bzImage, or an ELF kernel.
    pub image: PathBuf,
    /// What QEMU boots, once it is known.
    boot: OnceLock<Boot>,
}

impl Kernel {
    /// Resolves the choice. `modules` is the folder given by the user; `fresh` forces a new
    /// download.
    pub fn find(
        choice: &KernelChoice,
        modules: Option<&Path>,
        fresh: bool,
    ) -> Result<Kernel, L1Error> {
        let packaged = |name: &str, suite: Option<&str>| {
            Kernel::from_package(&package::cache_folder()?, name, suite, modules, fresh)
        };
        match choice {
            KernelChoice::Image(path) => Kernel::from_image(path, modules),
            KernelChoice::Package { name, suite } => packaged(name, suite.as_deref()),
            KernelChoice::Newest => packaged(DISTRIBUTION, Some(NEWEST_SUITE)),
            KernelChoice::Distribution => match packaged(DISTRIBUTION, None) {
                // Other distributions install a readable kernel, which serves as well.
                Err(L1Error::NoApt { package }) => running_kernel()
                    .ok_or(L1Error::NoApt { package })
                    .and_then(|path| Kernel::from_image(&path, modules)),
                other => other,
            },
        }
    }

    fn from_package(
        cache: &Path,
        name: &str,
        suite: Option<&str>,
        modules: Option<&Path>,
        fresh: bool,
    ) -> Result<Kernel, L1Error> {
        let unpacked = package::kernel(cache, name, suite, fresh)?;
        let own = unpacked.modules();
        Ok(Kernel {
            boot: Boot::File(unpacked.folder.join(&unpacked.boot)).into(),
            image: unpacked.folder.join("vmlinuz"),
            modules: Some(ModuleFolder::open(modules.unwrap_or(&own))?),
            name: unpacked.package,
            release: Some(unpacked.release),
        })
    }

    fn from_image(path: &Path, modules: Option<&Path>) -> Result<Kernel, L1Error> {
        let path = path.canonicalize().map_err(unreadable(path))?;
        let bytes = fs::read(&path).map_err(unreadable(&path))?;
        let image = image::read(&bytes).map_err(|what| L1Error::NotAKernel {
            path: path.clone(),
            what,
        })?;
        let folder = match modules {
            Some(folder) => Some(folder.to_owned()),
            None => modules_beside(&path, image.release.as_deref()),
        };
        let boot = match image.is_packed() {
            true => OnceLock::new(),
            false => Boot::File(path.clone()).into(),
        };
        Ok(Kernel {
            name: path.display().to_string(),
            release: image.release,
            boot,
            modules: folder
                .map(|folder| ModuleFolder::open(&folder))
                .transpose()?,
            image: path,
        })
    }

    /// What QEMU boots: the kernel inside the image, where it can be started by itself. Unpacking it takes
    /// half a second, and on an emulated CPU ten.
    pub fn boot(&self) -> Result<&Boot, L1Error> {
        if let Some(boot) = self.boot.get() {
            return Ok(boot);
        }
        let bytes = fs::read(&self.image).map_err(unreadable(&self.image))?;
        let unpacked = image::read(&bytes).ok().and_then(|image| image.unpacked());
        let whole = || Boot::File(self.image.clone());
        Ok(self
            .boot
            .get_or_init(|| unpacked.map_or_else(whole, Boot::Bytes)))
    }

    /// The modules to load on a CPU of `vendor`, dependencies first.
    pub(crate) fn modules(&self, vendor: Vendor) -> Result<Vec<Module>, L1Error> {
        match &self.modules {
            Some(folder) => folder.needed(&self.name, self.release.as_deref(), vendor),
            None => Ok(Vec::new()),
        }
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> L1Error {
    |source| L1Error::Read {
        path: path.to_owned(),
        source,
    }
}

/// The kernel this machine runs, where its image can be read.
fn running_kernel() -> Option<PathBuf> {
    let release = nix::sys::utsname::uname()
        .ok()?
        .release()
        .to_str()?
        .to_owned();
    let places = [
        format!("/boot/vmlinuz-{release}"),
        format!("/lib/modules/{release}/vmlinuz"),
    ];
    places
        .into_iter()
        .map(PathBuf::from)
        .find(|path| fs::File::open(path).is_ok())
}

/// Module folder of an image, searched for where kernels put them: beside it, below
/// `INSTALL_MOD_PATH`, installed, or in the build tree.
fn modules_beside(image: &Path, release: Option<&str>) -> Option<PathBuf> {
    let folder = image.parent()?;
    let mut places = vec![folder.join("modules")];
    if let Some(release) = release {
        let installed = Path::new("lib/modules").join(release);
        places
            .extend([folder, folder.parent().unwrap_or(folder)].map(|base| base.join(&installed)));
        places.push(Path::new("/").join(installed));
    }
    if let Some(tree) = image
        .ancestors()
        .find(|path| path.ends_with("arch/x86/boot"))
    {
        places.extend(tree.ancestors().nth(3).map(Path::to_owned));
    }
    places.extend(image.ends_with("vmlinux").then(|| folder.to_owned()));
    places.into_iter().find(|path| {
        path.join("modules.order").is_file()
            || path.join("modules.builtin").is_file()
            || path.join("kernel").is_dir()
            || path.ends_with("modules") && path.is_dir()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::bz_image;

    #[test]
    fn a_choice_is_a_word_a_path_or_a_package() {
        let parse = |text: &str| text.parse::<KernelChoice>().unwrap();
        assert_eq!(parse("newest"), KernelChoice::Newest);
        assert_eq!(parse("./bzImage"), KernelChoice::Image("./bzImage".into()));
        assert_eq!(
            parse("linux-image-amd64@trixie-backports"),
            KernelChoice::Package {
                name: "linux-image-amd64".into(),
                suite: Some("trixie-backports".into())
            }
        );
        for text in ["", "-o", "a b", "linux@", "@x", "linux;rm"] {
            assert!(text.parse::<KernelChoice>().is_err(), "{text:?}");
        }
        for text in [
            "newest",
            "distribution",
            "/boot/vmlinuz",
            "linux-image-amd64@sid",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn the_modules_of_a_build_tree_are_found_from_its_bz_image() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path().canonicalize().unwrap();
        let boot = root.join("arch/x86/boot");
        fs::create_dir_all(&boot).unwrap();
        fs::write(root.join("modules.order"), "").unwrap();
        fs::write(boot.join("bzImage"), bz_image("7.3.0", b"")).unwrap();
        let kernel = Kernel::from_image(&boot.join("bzImage"), None).unwrap();
        assert_eq!(kernel.release.as_deref(), Some("7.3.0"));
        assert!(kernel.modules.is_some());
        assert_eq!(modules_beside(&boot.join("bzImage"), None), Some(root));
    }

    #[test]
    fn installed_modules_are_found_from_boot() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::create_dir_all(root.join("lib/modules/6.1.0/kernel")).unwrap();
        fs::write(root.join("boot/vmlinuz-6.1.0"), bz_image("6.1.0", b"")).unwrap();
        let kernel = Kernel::from_image(&root.join("boot/vmlinuz-6.1.0"), None).unwrap();
        assert!(kernel.modules.is_some());
        let image = root.join("boot/vmlinuz-6.1.0");
        assert_eq!(
            modules_beside(&image, Some("6.1.0")),
            Some(root.join("lib/modules/6.1.0"))
        );
    }

    #[test]
    fn an_image_without_modules_is_taken_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("bzImage");
        fs::write(&path, bz_image("6.1.0-none-such", b"")).unwrap();
        let kernel = Kernel::from_image(&path, None).unwrap();
        assert!(kernel.modules.is_none());
        assert!(kernel.modules(Vendor::Amd).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let error = Kernel::from_image(Path::new("/bin/true"), None).unwrap_err();
        assert!(matches!(error, L1Error::NotAKernel { .. }), "{error}");
        let error = Kernel::from_image(Path::new("/none/such"), None).unwrap_err();
        assert!(matches!(error, L1Error::Read { .. }), "{error}");
    }
}
