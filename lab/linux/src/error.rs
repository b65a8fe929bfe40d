//! Errors of a Linux guest, each with a remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;

use tdxlab_l1::L1Error;
use tdxlab_qemu::QemuError;

/// A Linux guest could not be made, or did not do its part.
#[derive(Debug, Error, Diagnostic)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum LinuxError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Kernel(#[from] L1Error),

    #[error("guest kernel {kernel} has no {module} ({option})")]
    #[diagnostic(
        code(tdxlab::linux::kernel_lacks),
        help(
            "build it with {option}=y or =m; modules are looked for beside the image, or name their folder with --guest-modules"
        )
    )]
    Lacks {
        kernel: String,
        module: &'static str,
        option: &'static str,
    },

    #[error("guest kernel {kernel} is not built for TDs (CONFIG_INTEL_TDX_GUEST)")]
    #[diagnostic(
        code(tdxlab::linux::no_td_kernel),
        help("name another with --guest-kernel, such as linux-image-cloud-amd64@trixie-backports")
    )]
    NoTdKernel { kernel: String },

    #[error("guest kernel {kernel} panicked {doing}: {line}")]
    #[diagnostic(code(tdxlab::linux::panic), help("{advice}"))]
    Panic {
        kernel: String,
        doing: String,
        line: String,
        advice: Box<str>,
        console: Vec<String>,
    },

    #[error("the firmware did not start the kernel {doing}: {why}")]
    #[diagnostic(code(tdxlab::linux::firmware), help("{advice}"))]
    Firmware {
        doing: String,
        why: &'static str,
        advice: &'static str,
        console: Vec<String>,
    },

    #[error("the agent panicked {doing} at {file}:{line}: {message}")]
    #[diagnostic(
        code(tdxlab::linux::agent_panic),
        help("the console shows what came before")
    )]
    AgentPanic {
        doing: String,
        file: String,
        line: u32,
        message: String,
    },

    #[error("the agent gave up {doing}: {said}")]
    #[diagnostic(code(tdxlab::linux::agent_died), help("{advice}"))]
    AgentDied {
        doing: String,
        said: String,
        advice: Box<str>,
    },

    #[error("the agent speaks version {guest} of the protocol, the lab {lab}")]
    #[diagnostic(
        code(tdxlab::linux::version),
        help("the image is of another tdxlab; make it anew")
    )]
    Version { guest: u16, lab: u16 },

    #[error("the agent sent what cannot be, {doing}: {what}")]
    #[diagnostic(
        code(tdxlab::linux::lies),
        help("transcript and console are in the scenario's folder")
    )]
    Lies { doing: String, what: String },

    #[error("the guest gave no sign of life for {silent:?} {doing}")]
    #[diagnostic(code(tdxlab::linux::hung), help("{advice}"))]
    Hung {
        doing: String,
        silent: Duration,
        advice: Box<str>,
        console: Vec<String>,
    },

    #[error("QEMU ended ({status}) {doing}{said}")]
    #[diagnostic(code(tdxlab::linux::ended), help("{advice}"))]
    Ended {
        doing: String,
        status: String,
        said: String,
        advice: Box<str>,
        console: Vec<String>,
    },

    #[error("QEMU {0}")]
    #[diagnostic(code(tdxlab::linux::qemu))]
    Qemu(QemuError),

    #[error("{}: {source}", path.display())]
    #[diagnostic(
        code(tdxlab::linux::file),
        help("make room there, or set XDG_CACHE_HOME to a folder that can be written")
    )]
    File { path: PathBuf, source: io::Error },

    #[error("{doing}: {source}")]
    #[diagnostic(code(tdxlab::linux::system))]
    System { doing: String, source: io::Error },

    #[error("interrupted")]
    #[diagnostic(code(tdxlab::linux::interrupted))]
    Interrupted,
}

impl From<QemuError> for LinuxError {
    fn from(error: QemuError) -> LinuxError {
        LinuxError::Qemu(error)
    }
}

/// For `map_err`: adds the purpose to a failed system call of the lab.
pub(crate) fn system<E: Into<io::Error>>(doing: &str) -> impl FnOnce(E) -> LinuxError {
    let doing = doing.to_owned();
    move |source| LinuxError::System {
        doing,
        source: source.into(),
    }
}
