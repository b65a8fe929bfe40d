//! Packages with all they depend on, through an apt that knows nothing of this machine.
//!
//! Its package lists, its archive and its idea of what is installed (nothing) are in the cache
//! folder, so the set is the same on every machine and nothing is installed anywhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, io};

use super::error::{RehearsalError, system};

/// Where Debian's packages are.
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// The release, and the suite with the newer packages that a rehearsal needs.
pub(crate) const RELEASE: &str = "trixie";
/// See [`RELEASE`].
pub(crate) const BACKPORTS: &str = "trixie-backports";

const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// An apt of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    configuration: PathBuf,
    archives: PathBuf,
    /// An archive of no packages.
    none: PathBuf,
}

impl Apt {
    /// Sets one up in `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Apt, RehearsalError> {
        let failed = || system(format!("setting up apt in {}", folder.display()));
        let archives = folder.join("cache/archives");
        for part in [
            "etc/sources.list.d",
            "state/lists/partial",
            "cache/archives/partial",
            "cache/none/partial",
        ] {
            fs::create_dir_all(folder.join(part)).map_err(failed())?;
        }
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
        let signed = keyring
            .map(|path| format!("[signed-by={path}] "))
            .unwrap_or_default();
        let sources = [RELEASE, BACKPORTS]
            .map(|suite| format!("deb {signed}{ARCHIVE} {suite} main\n"))
            .concat();
        fs::write(folder.join("etc/sources.list"), sources).map_err(failed())?;
        fs::write(folder.join("state/status"), "").map_err(failed())?;
        let configuration = folder.join("apt.conf");
        fs::write(&configuration, configuration_text(folder)).map_err(failed())?;
        Ok(Apt {
            configuration,
            archives,
            none: folder.join("cache/none"),
        })
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self) -> Result<(), RehearsalError> {
        self.get(&["update"], "fetching Debian's package lists")
            .map(drop)
    }

    /// File names of `packages` and all they depend on.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<BTreeSet<Package>, RehearsalError> {
        // What is downloaded already has no URI any more: nothing is, in another folder.
        let nothing = format!("Dir::Cache::archives={}/", self.none.display());
        let arguments = [
            &["install", "--print-uris", "-o", nothing.as_str()],
            INSTALL,
            packages,
        ]
        .concat();
        let output = self.get(&arguments, "working out which packages are needed")?;
        Ok(parse_uris(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Downloads them; apt checks sizes and hashes.
    pub(crate) fn download(&self, packages: &[&str]) -> Result<(), RehearsalError> {
        let arguments = [&["install", "--download-only"], INSTALL, packages].concat();
        self.get(&arguments, "downloading packages").map(drop)
    }

    /// Where a downloaded package lies.
    pub(crate) fn file(&self, package: &Package) -> PathBuf {
        self.archives.join(&package.file)
    }

    /// Removes what was downloaded.
    pub(crate) fn clean(&self) {
        // What stays is found again and not downloaded twice.
        let _ = self.get(&["clean"], "removing downloaded packages");
    }

    fn get(&self, arguments: &[&str], doing: &str) -> Result<Output, RehearsalError> {
        let output = Command::new("apt-get")
            .arg("-q")
            .args(arguments)
            .env("APT_CONFIG", &self.configuration)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => RehearsalError::NoProgram { program: "apt-get" },
                _ => RehearsalError::System {
                    doing: doing.to_owned(),
                    source,
                },
            })?;
        if output.status.success() {
            return Ok(output);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let complaint = text
            .lines()
            .find(|line| line.starts_with("E: "))
            .or(text.lines().last());
        Err(RehearsalError::Failed {
            doing: doing.to_owned(),
            said: complaint.unwrap_or("apt-get said nothing").to_owned(),
            advice: "check that this machine reaches deb.debian.org, directly or through apt's proxy",
        })
    }
}

const INSTALL: &[&str] = &[
    "--yes",
    "--no-install-recommends",
    "--target-release",
    BACKPORTS,
];

fn configuration_text(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Dir::Etc \"{folder}/etc\";\n\
         Dir::State \"{folder}/state\";\n\
         Dir::State::status \"{folder}/state/status\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Sandbox::User \"\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"2\";\n\
         Acquire::http::Timeout \"30\";\n"
    )
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
    /// Its name.
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
