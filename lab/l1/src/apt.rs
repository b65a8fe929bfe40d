//! Packages by name, through apt, without a change to the machine: nothing is installed, and
//! package lists that are missing are fetched into a folder of the lab's own.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, io};

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
    fn download(&self, packages: &[String], folder: &Path) -> io::Result<Result<(), Complaint>> {
        let mut arguments = vec!["download"];
        arguments.extend(packages.iter().map(String::as_str));
        let output = self.run("apt-get", &arguments, folder)?;
        Ok(if output.status.success() {
            Ok(())
        } else {
            Err(complaint(&output).unwrap_or_else(|| Complaint::ended(&output)))
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
    let gone = |complaint: Complaint| complaint.about(package);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => L1Error::NoApt {
            package: package.to_owned(),
        },
        _ => gone(Complaint::of(&error)),
    };
    let attempt = |apt: &Apt| -> Result<(), Option<Complaint>> {
        let text = |error: io::Error| Some(Complaint::of(&error));
        let packages = apt.resolve(package).map_err(text)?.ok_or(None)?;
        apt.download(&packages, folder).map_err(text)?.map_err(Some)
    };
    // Fails early and clearly where there is no apt at all.
    Apt::of_machine()
        .run("apt-get", &["--version"], Path::new("/"))
        .map_err(failed)?;

    let mut first = None;
    if suite.is_none() {
        match attempt(&Apt::of_machine()) {
            Ok(()) => return packages_in(folder).map_err(failed),
            // Lists of the lab's own come from the same place.
            Err(Some(complaint)) if complaint.is_unreachable() => return Err(gone(complaint)),
            Err(complaint) => first = complaint,
        }
    }
    // The machine has no lists, or old ones that name packages which are gone.
    let state = state.join(suite.unwrap_or("machine"));
    let own = Apt::of_folder(&state, suite).map_err(failed)?;
    let updated = own
        .run("apt-get", &["update"], Path::new("/"))
        .map_err(failed)?;
    // Where some lists could not be had, apt ends well and goes on with those it has. So does the
    // lab, and tells what apt complained of only where they do not do.
    let complaint = complaint(&updated);
    if !updated.status.success() {
        return Err(gone(
            complaint.unwrap_or_else(|| Complaint::ended(&updated)),
        ));
    }
    attempt(&own).map_err(|said| {
        gone(said.or(complaint).or(first).unwrap_or_else(|| {
            Complaint::new(&match suite {
                Some(suite) => format!("{suite} has no such package"),
                None => "the package lists have no such package".to_owned(),
            })
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

/// What apt complained of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Complaint {
    said: String,
}

/// How apt words it that it did not get through to a mirror.
const NOT_REACHED: [&str; 10] = [
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect",
    "Cannot initiate the connection",
    "Unable to connect",
    "Connection failed",
    "Connection timed out",
    "Connection refused",
    "Network is unreachable",
    "No route to host",
];

impl Complaint {
    fn new(said: &str) -> Complaint {
        Complaint {
            said: said.trim().to_owned(),
        }
    }

    fn of(error: &io::Error) -> Complaint {
        Complaint::new(&error.to_string())
    }

    /// Of an apt that did not say what is wrong.
    fn ended(output: &Output) -> Complaint {
        Complaint::new(&format!("apt ended with {}", output.status))
    }

    /// Whether it is about the network rather than about a package.
    fn is_unreachable(&self) -> bool {
        NOT_REACHED.iter().any(|text| self.said.contains(text))
    }

    /// The same as the reason why there is no `package`.
    fn about(self, package: &str) -> L1Error {
        let package = package.to_owned();
        let Complaint { said } = self.clone();
        if !self.is_unreachable() {
            return L1Error::NoPackage { package, said };
        }
        // `Failed to fetch http://HOST/PATH  REASON`.
        let url = said
            .split_whitespace()
            .find_map(|word| word.split_once("://"));
        let host = url.and_then(|(_, rest)| rest.split('/').next());
        L1Error::Unreachable {
            package,
            mirror: host.map_or_else(|| "its mirror".to_owned(), str::to_owned),
            said,
        }
    }
}

/// The first thing that apt complained of: an error, or else a file that it could not fetch.
fn complaint(output: &Output) -> Option<Complaint> {
    let text = String::from_utf8_lossy(&output.stderr);
    let starts = ["E: ", "Err:", "W: Failed to fetch"];
    let found = starts.iter().find_map(|start| {
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| line.starts_with(start))
    })?;
    let said = found.trim_start_matches("E: ").trim_start_matches("W: ");
    Some(Complaint::new(said.trim_start_matches("Err:")))
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

    fn said(stderr: &str) -> Output {
        Output {
            status: std::process::ExitStatus::default(),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_network_that_is_down_is_told_from_a_package_that_is_not_there() {
        // What `apt-get update` says, with an exit code of 0.
        let down = said(
            "W: Download is performed unsandboxed as root\n\
             W: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Temporary \
             failure resolving 'deb.debian.org'\n\
             W: Some index files failed to download.\n",
        );
        let error = complaint(&down).unwrap().about("linux-image-amd64");
        assert!(
            matches!(&error, L1Error::Unreachable { mirror, .. } if mirror == "deb.debian.org"),
            "{error}"
        );
        let gone = said(
            "E: Failed to fetch http://deb.debian.org/debian/pool/l/linux_6.1.deb  404  Not Found\n",
        );
        let error = complaint(&gone).unwrap().about("linux-image-amd64");
        assert!(error.to_string().ends_with("404  Not Found"), "{error}");
        assert!(matches!(error, L1Error::NoPackage { .. }), "{error}");
        assert_eq!(complaint(&said("W: harmless\n")), None);
    }
}
