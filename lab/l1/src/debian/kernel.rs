//! The packages of a kernel, from the machine's own sources or from a suite of Debian.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::apt::Apt;
use super::complaint::Complaint;
use crate::error::L1Error;

impl Apt {
    /// The kernel packages that `package` stands for: itself, or its dependencies. `None` if it is
    /// not in the lists.
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
        Ok(self.get(&arguments, folder)?.map(drop))
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
    // Fails early and clearly without apt.
    Apt::of_machine()
        .run("apt-get", &["--version"], Path::new("/"))
        .map_err(failed)?;

    let mut first = None;
    if suite.is_none() {
        match attempt(&Apt::of_machine()) {
            Ok(()) => return packages_in(folder).map_err(failed),
            // The lab's own lists come from the same place.
            Err(Some(complaint)) if complaint.is_unreachable() => return Err(gone(complaint)),
            Err(complaint) => first = complaint,
        }
    }
    // The machine has no lists, or old ones that name removed packages.
    let state = state.join(suite.unwrap_or("machine"));
    let own = Apt::of_folder(&state, suite.as_slice()).map_err(failed)?;
    let updated = own.get(&["update"], Path::new("/")).map_err(failed)?;
    // apt succeeds with the lists it has if others could not be fetched. So does the lab; it
    // reports apt's errors only if a package is then missing.
    let complaint = Complaint::in_output(&updated.map_err(gone)?);
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
