//! Errors of preparing a rehearsal.

use std::io;
use std::path::PathBuf;

use crate::debian::closure::ArchiveError;

/// A rehearsal cannot be prepared or started.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RehearsalError {
    /// There is no home and no cache folder to put the parts in.
    #[error("no folder for the parts of a rehearsal: neither XDG_CACHE_HOME nor HOME is set")]
    #[diagnostic(help("set XDG_CACHE_HOME to a folder with 1 GiB of room"))]
    NoCacheFolder,
    /// A program that preparation needs is not there.
    #[error("{program} is not on this machine")]
    #[diagnostic(help(
        "the parts are Debian packages: prepare on Debian or Ubuntu, or copy \
         the folder rehearsal/ of another machine's tdxlab cache"
    ))]
    NoProgram {
        /// Name of the program.
        program: &'static str,
    },
    /// The parts are not in the cache and were not to be fetched.
    #[error("the parts of a rehearsal are not in {}", folder.display())]
    #[diagnostic(help(
        "run `tdxlab rehearse --prepare`, with the same --kernel (404 MB to download, once)"
    ))]
    NotPrepared {
        /// The folder searched.
        folder: PathBuf,
    },
    /// Debian has no such kernel.
    #[error("Debian packages no source of Linux {version}")]
    #[diagnostic(help(
        "it has {}; of another, build the tree and give --source TREE --kernel \
         TREE/arch/x86/boot/bzImage",
        there.join(", ")
    ))]
    NoSuchKernel {
        /// The version asked for.
        version: String,
        /// Versions with TDX that there are.
        there: Vec<String>,
    },
    /// The kernel that was built from a tree cannot run its modules.
    #[error("{}: {why}", tree.display())]
    #[diagnostic(help("{advice}"))]
    NotBuilt {
        /// The tree.
        tree: PathBuf,
        /// What it lacks.
        why: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The modules do not build.
    #[error(transparent)]
    #[diagnostic(help(
        "with --source, this is about that tree; without, `tdxlab rehearse --prepare` fetches \
         kernel and source anew"
    ))]
    Modules(#[from] tdxlab_softtdx::BuildError),
    /// A program of the preparation failed.
    #[error("{doing} failed: {said}")]
    #[diagnostic(help("{advice}"))]
    Failed {
        /// The step of the preparation.
        doing: String,
        /// The last line of its output.
        said: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// A package holds something else than expected.
    #[error("{package} has no {what}")]
    #[diagnostic(help("the archive has changed; please report this with the package's version"))]
    Unexpected {
        /// The package, or the set of them.
        package: String,
        /// The missing part.
        what: String,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// The operation that failed.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

/// For `map_err`: adds the purpose to a failed system call.
pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> RehearsalError {
    let doing = doing.into();
    move |source| RehearsalError::System { doing, source }
}

/// For `map_err`: adds the purpose to an error of apt.
pub(crate) fn apt_said(doing: &str) -> impl FnOnce(ArchiveError) -> RehearsalError {
    let doing = doing.to_owned();
    move |error| match error {
        ArchiveError::System(source) if source.kind() == io::ErrorKind::NotFound => {
            RehearsalError::NoProgram { program: "apt-get" }
        }
        ArchiveError::System(source) => RehearsalError::System { doing, source },
        ArchiveError::Refused(complaint) => RehearsalError::Failed {
            doing,
            said: complaint.said().to_owned(),
            advice: "check that this machine reaches deb.debian.org, directly or through apt's proxy",
        },
    }
}
