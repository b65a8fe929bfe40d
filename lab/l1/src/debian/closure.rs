//! Packages with all dependencies, computed for a machine without any package installed, so that
//! the set is the same on every machine.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::apt::Apt;
use super::complaint::Complaint;

/// The release, and the suite with newer packages, which go first.
pub(crate) const RELEASE: &str = "trixie";
/// See [`RELEASE`].
pub(crate) const BACKPORTS: &str = "trixie-backports";

const INSTALL: &[&str] = &[
    "--yes",
    "--no-install-recommends",
    "--target-release",
    BACKPORTS,
];

/// Packages that others depend on and that nothing of a rehearsal uses, so that they are not fetched:
/// what makes an initramfs on the machine itself, and run times of GCC's sanitizers.
const UNUSED: &[&str] = &[
    "initramfs-tools",
    "libasan8",
    "libhwasan0",
    "liblsan0",
    "libtsan2",
    "libubsan1",
];

/// Debian's archive.
#[derive(Debug)]
pub(crate) struct Archive {
    apt: Apt,
    folder: PathBuf,
    /// An empty download folder.
    none: PathBuf,
}

/// Errors of apt.
#[derive(Debug)]
pub(crate) enum ArchiveError {
    /// It could not be run.
    System(io::Error),
    /// apt reported an error.
    Refused(Complaint),
}

impl Archive {
    /// The archive, with its lists and downloads in `folder`.
    pub(crate) fn open(folder: &Path) -> io::Result<Archive> {
        let mut apt = Apt::of_folder(folder, &[RELEASE, BACKPORTS])?;
        let none = folder.join("cache/none");
        std::fs::create_dir_all(none.join("partial"))?;
        // apt takes these for installed.
        std::fs::write(folder.join("status"), installed(UNUSED))?;
        apt.set("Dir::State::status", &folder.join("status"));
        apt.set("APT::Architecture", Path::new("amd64"));
        apt.set("APT::Architectures", Path::new("amd64"));
        apt.set("APT::Sandbox::User", Path::new(""));
        Ok(Archive {
            apt,
            folder: folder.to_owned(),
            none,
        })
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self) -> Result<(), ArchiveError> {
        self.get(&["update"]).map(drop)
    }

    /// Names of packages that start like this.
    pub(crate) fn names(&self, start: &str) -> Result<BTreeSet<String>, ArchiveError> {
        let output = self
            .apt
            .run("apt-cache", &["pkgnames", start], Path::new("/"));
        let output = output.map_err(ArchiveError::System)?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// `packages` and all they depend on.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<BTreeSet<Package>, ArchiveError> {
        // Already downloaded packages have no URI, so an empty folder is used.
        let nothing = format!("-oDir::Cache::archives={}/", self.none.display());
        let arguments = [&["install", "--print-uris", &nothing], INSTALL, packages].concat();
        Ok(parse_uris(&self.get(&arguments)?))
    }

    /// Downloads them; apt checks sizes and hashes.
    pub(crate) fn download(&self, packages: &[&str]) -> Result<(), ArchiveError> {
        let arguments = [&["install", "--download-only"], INSTALL, packages].concat();
        self.get(&arguments).map(drop)
    }

    /// Path of a downloaded package.
    pub(crate) fn file(&self, package: &Package) -> PathBuf {
        self.folder.join("cache/archives").join(&package.file)
    }

    /// Removes the downloads.
    pub(crate) fn clean(&self) {
        // Kept files are found again and not downloaded twice.
        let _ = self.get(&["clean"]);
    }

    fn get(&self, arguments: &[&str]) -> Result<String, ArchiveError> {
        let output = self.apt.get(arguments, Path::new("/"));
        let output = output.map_err(ArchiveError::System)?;
        let output = output.map_err(ArchiveError::Refused)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A status file of dpkg in which these packages are installed, in a version newer than any.
fn installed(packages: &[&str]) -> String {
    let stanza = |package: &&str| {
        format!(
            "Package: {package}\nStatus: install ok installed\nArchitecture: amd64\n\
             Multi-Arch: same\nVersion: 9999:1\n\n"
        )
    };
    packages.iter().map(stanza).collect()
}

/// A package file in the archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// Name, version and architecture, as apt calls the file.
    pub(crate) file: String,
    /// Bytes to download.
    pub(crate) bytes: u64,
}

impl Package {
    /// Name of the package.
    pub(crate) fn name(&self) -> &str {
        self.file.split('_').next().unwrap_or_default()
    }

    /// Its version.
    pub(crate) fn version(&self) -> String {
        self.file
            .split('_')
            .nth(1)
            .unwrap_or_default()
            .replace("%3a", ":")
    }
}

/// Lines of the form `'URI' FILE BYTES HASH`.
fn parse_uris(text: &str) -> BTreeSet<Package> {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some(Package {
                file: words.next()?.to_owned(),
                bytes: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_uses_is_told_to_apt_as_installed() {
        let status = installed(&["libasan8", "udev"]);
        let stanzas: Vec<&str> = status.split_terminator("\n\n").collect();
        assert_eq!(stanzas.len(), 2);
        assert!(stanzas[1].starts_with("Package: udev\nStatus: install ok installed\n"));
    }

    #[test]
    fn packages_are_read_from_what_apt_prints() {
        let text = "Reading package lists...\n\
            'http://deb.debian.org/debian/pool/q.deb' qemu-system-x86_1%3a11.1.3+ds-1_amd64.deb \
            10377056 SHA256:aa\nbroken 'line'\n";
        let packages: Vec<_> = parse_uris(text).into_iter().collect();
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].name(), "qemu-system-x86");
        assert_eq!(packages[0].version(), "1:11.1.3+ds-1");
        assert_eq!(packages[0].bytes, 10_377_056);
    }
}
