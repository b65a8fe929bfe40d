//! Builds `tdxlab_pages.ko`, with which the agent converts pages, against the headers of the
//! guest's kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tdxlab_guest_image::PAGES_MODULE;
use tdxlab_l1::kernel::Kernel;
use tdxlab_l1::modules::Module;
use tdxlab_l1::rehearse::{OUTSIDE_OF_TREE, Parts, RehearsalError};

use crate::hash::hash;

/// Name of the module.
const NAME: &str = "tdxlab_pages";

/// Why there is no module. Scenarios that convert are skipped with this.
#[derive(Debug, thiserror::Error)]
pub enum NoModule {
    /// The image does not say for which kernel to build.
    #[error("the kernel image does not name its release, so that no module can be built for it")]
    NoRelease,
    /// No headers.
    #[error(
        "there are no headers of kernel {release} (looked in {}); install linux-headers-{release}, or name them with --guest-headers",
        listed(looked)
    )]
    NoHeaders {
        /// The kernel's release.
        release: String,
        /// The folders searched.
        looked: Vec<PathBuf>,
    },
    /// The build failed.
    #[error("the lab's module did not build against {}: {said}", headers.display())]
    Build {
        /// Folder of the headers.
        headers: PathBuf,
        /// The compiler's first error.
        said: String,
    },
    /// A file could not be read or written.
    #[error("building the lab's module: {0}")]
    Io(#[from] std::io::Error),
}

/// The module for `kernel`, built or from the cache.
pub(crate) fn of(
    kernel: &Kernel,
    headers: Option<&Path>,
    cache: &Path,
) -> Result<Module, NoModule> {
    let release = kernel.release.as_deref().ok_or(NoModule::NoRelease)?;
    let headers = find(release, headers)?;
    let source: String = PAGES_MODULE.iter().map(|(_, text)| *text).collect();
    let made_of = format!("{release}\n{}\n{source}", headers.display());
    let key = &hash(made_of.as_bytes())[..16];
    let kept = cache
        .join("guests/modules")
        .join(format!("{NAME}-{release}-{key}.ko"));
    if !kept.is_file() {
        build(&headers, &kept)?;
    }
    built(&kept)
}

/// The module for the kernel of a rehearsal, built with its parts.
///
/// # Errors
///
/// It does not build.
pub fn in_parts(parts: &Parts) -> Result<PathBuf, RehearsalError> {
    parts.build_module(NAME, &PAGES_MODULE)
}

/// The module in a file.
pub(crate) fn built(path: &Path) -> Result<Module, NoModule> {
    Ok(Module {
        name: NAME.to_owned(),
        bytes: fs::read(path)?,
        path: path.to_owned(),
    })
}

/// The headers of a release: the folder that was named, or where kernels and distributions put
/// them.
fn find(release: &str, named: Option<&Path>) -> Result<PathBuf, NoModule> {
    let looked = match named {
        Some(folder) => vec![folder.to_owned()],
        None => vec![
            PathBuf::from(format!("/lib/modules/{release}/build")),
            PathBuf::from(format!("/usr/src/linux-headers-{release}")),
        ],
    };
    let found = looked
        .iter()
        .find(|folder| folder.join("Makefile").is_file())
        .cloned();
    found.ok_or_else(|| NoModule::NoHeaders {
        release: release.to_owned(),
        looked,
    })
}

fn build(headers: &Path, target: &Path) -> Result<(), NoModule> {
    let above = target.parent().expect("a file of the cache");
    fs::create_dir_all(above)?;
    let work = tempfile::tempdir_in(above)?;
    for (name, content) in PAGES_MODULE {
        fs::write(work.path().join(name), content)?;
    }
    let failed = |said: String| NoModule::Build {
        headers: headers.to_owned(),
        said,
    };
    let output = Command::new("make")
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", work.path().display()))
        .args(OUTSIDE_OF_TREE)
        .args(["KCFLAGS=-g0", "modules"])
        .env("LC_ALL", "C")
        .env_remove("MAKEFLAGS")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("make: {error}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let error = text
            .lines()
            .find(|line| line.contains("rror"))
            .or(text.lines().last());
        return Err(failed(
            error.unwrap_or("make said nothing").trim().to_owned(),
        ));
    }
    // Renamed into place, so that a reader sees the whole file or none.
    Ok(fs::rename(work.path().join(format!("{NAME}.ko")), target)?)
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_headers_it_says_where_it_looked() {
        let error = find("6.1.0-none-such", None).unwrap_err().to_string();
        assert!(
            error.contains("/lib/modules/6.1.0-none-such/build"),
            "{error}"
        );
        assert!(error.contains("linux-headers-6.1.0-none-such"), "{error}");
    }

    #[test]
    fn a_build_that_fails_says_its_first_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("Makefile"),
            "modules:\n\t@echo 'x.c: error: no' >&2; exit 1\n",
        )
        .unwrap();
        let error = build(folder.path(), &folder.path().join("out/x.ko"))
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("x.c: error: no"), "{error}");
    }
}
