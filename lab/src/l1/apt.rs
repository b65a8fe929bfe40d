//! Packages by name, through apt, without a change to the machine: nothing is installed, and
//! package lists that are missing are fetched into a folder of the lab's own.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::error::L1Error;

/// Where Debian's packages are when the machine's own lists do not say.
const DEBIAN: &str = "http://deb.debian.org/debian";

/// Keys of Debian's archive, oldest name first.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// apt with one set of package lists.
pub(crate) struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    /// apt with the machine's own sources and lists.
    fn of_machine() -> Apt {
        let options = [
            "-qq",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=1",
            "-oAcquire::http::Timeout=20",
            "-oAcquire::https::Timeout=20",
        ];
        Apt {
            options: options.into_iter().map(OsString::from).collect(),
        }
    }

    /// apt with its lists in `state`; with the machine's own sources, or one suite of Debian.
    fn of_folder(state: &Path, suite: Option<&str>) -> io::Result<Apt> {
        let mut apt = Apt::of_machine();
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(state.join("cache/archives/partial"))?;
        apt.set("Dir::State", state);
        apt.set("Dir::State::lists", &state.join("lists"));
        apt.set("Dir::State::status", Path::new("/var/lib/dpkg/status"));
        apt.set("Dir::Cache", &state.join("cache"));
        apt.set(
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
            Path::new("false"),
        );
        if let Some(suite) = suite {
            let sources = state.join("sources.list");
            let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
            let signed = keyring
                .map(|path| format!("[signed-by={path}] "))
                .unwrap_or_default();
            let mirror = mirror().unwrap_or_else(|| DEBIAN.to_owned());
            fs::write(&sources, format!("deb {signed}{mirror} {suite} main\n"))?;
            apt.set("Dir::Etc::sourcelist", &sources);
            apt.set("Dir::Etc::sourceparts", Path::new("/dev/null"));
        }
        Ok(apt)
    }

    fn set(&mut self, name: &str, value: &Path) {
        let mut option = OsString::from(format!("-o{name}="));
        option.push(value);
        self.options.push(option);
    }

    fn run(&self, program: &str, arguments: &[&str], folder: &Path) -> io::Result<Output> {
        Command::new(program)
            .args(&self.options)
            .args(arguments)
            .current_dir(folder)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
    }

    /// The kernel packages that `package` stands for: itself, or what it depends on. `None` where
    /// the lists do not know it.
    fn resolve(&self, package: &str) -> io::Result<Option<Vec<String>>> {
        let mut seen = BTreeSet::new();
        let mut queue = VecDeque::from([package.to_owned()]);
        while let Some(name) = queue.pop_front() {
            if seen.contains(&name) {
                continue;
            }
            let shown = self.run(
                "apt-cache",
                &["show", "--no-all-versions", &name],
                Path::new("/"),
            )?;
            if !shown.status.success() || shown.stdout.is_empty() {
                return Ok(None);
            }
            queue.extend(kernel_dependencies(&String::from_utf8_lossy(&shown.stdout)));
            seen.insert(name);
        }
        Ok(Some(seen.into_iter().collect()))
    }

    /// Downloads packages into `folder`; apt checks size and hash.
    fn download(&self, packages: &[String], folder: &Path) -> io::Result<Result<(), String>> {
        let mut arguments = vec!["download"];
        arguments.extend(packages.iter().map(String::as_str));
        let output = self.run("apt-get", &arguments, folder)?;
        Ok(if output.status.success() {
            Ok(())
        } else {
            Err(complaint(&output))
        })
    }
}

/// Downloads `package` (from `suite`, or from where this machine gets its packages) and the kernel
/// packages it depends on into `folder`. `state` keeps lists of the lab's own.
pub(crate) fn download(
    package: &str,
    suite: Option<&str>,
    state: &Path,
    folder: &Path,
) -> Result<Vec<PathBuf>, L1Error> {
    let gone = |said: String| L1Error::NoPackage {
        package: package.to_owned(),
        said,
    };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => L1Error::NoApt {
            package: package.to_owned(),
        },
        _ => gone(error.to_string()),
    };
    let attempt = |apt: &Apt| -> Result<(), Option<String>> {
        let text = |error: io::Error| Some(error.to_string());
        let packages = apt.resolve(package).map_err(text)?.ok_or(None)?;
        apt.download(&packages, folder).map_err(text)?.map_err(Some)
    };
    // Fails early and clearly where there is no apt at all.
    Apt::of_machine()
        .run("apt-get", &["--version"], Path::new("/"))
        .map_err(failed)?;

    if suite.is_none() && attempt(&Apt::of_machine()).is_ok() {
        return packages_in(folder).map_err(failed);
    }
    // The machine has no lists, or old ones that name packages which are gone.
    let state = state.join(suite.unwrap_or("machine"));
    let own = Apt::of_folder(&state, suite).map_err(failed)?;
    let updated = own
        .run("apt-get", &["update"], Path::new("/"))
        .map_err(failed)?;
    if !updated.status.success() {
        return Err(gone(complaint(&updated)));
    }
    attempt(&own).map_err(|said| {
        gone(said.unwrap_or_else(|| match suite {
            Some(suite) => format!("{suite} has no such package"),
            None => "the package lists have no such package".to_owned(),
        }))
    })?;
    packages_in(folder).map_err(failed)
}

/// The packages in a folder.
fn packages_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}

/// Packages in the `Depends` of a control stanza that hold parts of a kernel.
fn kernel_dependencies(stanza: &str) -> Vec<String> {
    let depends = stanza
        .lines()
        .find_map(|line| line.strip_prefix("Depends:"));
    let alternatives = depends.unwrap_or_default().split(',');
    // Of alternatives the first is the one meant.
    let names = alternatives.filter_map(|group| group.split_whitespace().next());
    let kernel = ["linux-image-", "linux-binary-", "linux-modules-"];
    names
        .filter(|name| kernel.iter().any(|start| name.starts_with(start)))
        .map(|name| name.trim_end_matches('|').to_owned())
        .collect()
}

/// What apt complained of, shortest first sentence.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = || text.lines().map(str::trim);
    let errors = lines().filter_map(|line| line.strip_prefix("E: "));
    errors
        .chain(lines().filter_map(|line| line.strip_prefix("Err:")))
        .next()
        .map(str::to_owned)
        .unwrap_or_else(|| format!("apt ended with {}", output.status))
}

/// The Debian mirror this machine uses.
fn mirror() -> Option<String> {
    let arguments = [
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ];
    let output = Apt::of_machine()
        .run("apt-get", &arguments, Path::new("/"))
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let not_security = |line: &&str| !line.contains("security");
    text.lines()
        .find(not_security)
        .map(|line| line.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_leads_to_the_kernel() {
        let stanza = "Package: linux-image-amd64\n\
                      Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nDescription: x\n";
        assert_eq!(kernel_dependencies(stanza), ["linux-image-6.1.0-56-amd64"]);
    }

    #[test]
    fn modules_in_a_package_of_their_own_are_followed_and_the_rest_is_not() {
        let stanza = "Depends: kmod, linux-base (>= 4.12), initramfs-tools | linux-initramfs-tool, \
                      linux-modules-6.8.0-50-generic, linux-firmware\n";
        assert_eq!(
            kernel_dependencies(stanza),
            ["linux-modules-6.8.0-50-generic"]
        );
        assert!(kernel_dependencies("Package: x\n").is_empty());
    }
}
