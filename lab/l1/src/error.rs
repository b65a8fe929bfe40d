//! Errors of an L1, each with a remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;

use super::message::{Cause, Stage};
use crate::feature::{Feature, feature_of};

/// An L1 could not be made, or did not answer.
#[derive(Debug, Error, Diagnostic)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum L1Error {
    #[error("cannot read {}: {source}", path.display())]
    #[diagnostic(code(tdxlab::l1::read))]
    Read { path: PathBuf, source: io::Error },

    #[error("{} is not a kernel image: {what}", path.display())]
    #[diagnostic(
        code(tdxlab::l1::not_a_kernel),
        help("give the bzImage of an x86-64 build (arch/x86/boot/bzImage), or a package name")
    )]
    NotAKernel { path: PathBuf, what: String },

    #[error("kernel {kernel} has no {module} ({option}): {purpose}")]
    #[diagnostic(
        code(tdxlab::l1::kernel_lacks),
        help(
            "build it with {option}=y or =m; modules are looked for beside the image, or name their folder with --modules"
        )
    )]
    Lacks {
        kernel: String,
        module: String,
        option: &'static str,
        purpose: &'static str,
    },

    #[error("{} was built for {built_for}, but the kernel is {release}", module.display())]
    #[diagnostic(
        code(tdxlab::l1::other_modules),
        help(
            "name the folder of the modules of {kernel} with --modules, or build and install both together"
        )
    )]
    OtherKernelsModules {
        kernel: String,
        release: String,
        module: PathBuf,
        built_for: String,
    },

    #[error("{} is not a usable kernel module: {what}", path.display())]
    #[diagnostic(
        code(tdxlab::l1::broken_module),
        help("unpack or build the kernel's modules again")
    )]
    BrokenModule { path: PathBuf, what: String },

    #[error("{} is not a usable package: {source}", path_of(package))]
    #[diagnostic(
        code(tdxlab::l1::broken_package),
        help("run again: the package is downloaded anew")
    )]
    BrokenPackage { package: PathBuf, source: io::Error },

    #[error("there is no kernel image in {}", names(packages))]
    #[diagnostic(
        code(tdxlab::l1::no_image),
        help("name a package that holds boot/vmlinuz-..., such as linux-image-amd64")
    )]
    NoImageInPackage { packages: Vec<PathBuf> },

    #[error("package {package} cannot be had: {said}")]
    #[diagnostic(
        code(tdxlab::l1::no_package),
        help(
            "the first run needs the network; later ones find the kernel in the cache. Without a network give --kernel the path of a bzImage"
        )
    )]
    NoPackage { package: String, said: String },

    #[error("package {package} cannot be had: {mirror} cannot be reached over the network: {said}")]
    #[diagnostic(
        code(tdxlab::l1::no_network),
        help(
            "connect this machine to the network, and behind a proxy set http_proxy; only the first run needs it, later ones find the kernel in the cache. Without a network give --kernel the path of a bzImage"
        )
    )]
    Unreachable {
        package: String,
        mirror: String,
        said: String,
    },

    #[error("package {package} cannot be had: this machine has no apt")]
    #[diagnostic(code(tdxlab::l1::no_apt), help("give --kernel the path of a bzImage"))]
    NoApt { package: String },

    #[error("there is no folder for the cache")]
    #[diagnostic(
        code(tdxlab::l1::no_cache),
        help("set XDG_CACHE_HOME or HOME to an absolute path")
    )]
    NoCacheFolder,

    #[error("the cache {} cannot be used: {source}", folder.display())]
    #[diagnostic(
        code(tdxlab::l1::cache),
        help("make room or set XDG_CACHE_HOME to a folder that can be written")
    )]
    Cache { folder: PathBuf, source: io::Error },

    #[error("{what}")]
    #[diagnostic(code(tdxlab::l1::usage))]
    Usage { what: String },

    #[error("{doing}: {source}")]
    #[diagnostic(code(tdxlab::l1::system))]
    System { doing: String, source: io::Error },

    #[error("QEMU cannot be run: {program}: {source}")]
    #[diagnostic(
        code(tdxlab::l1::no_qemu),
        help("install qemu-system-x86 or name the program with --qemu")
    )]
    NoQemu { program: String, source: io::Error },

    #[error("QEMU refused to start the L1: {said}")]
    #[diagnostic(code(tdxlab::l1::qemu_refused), help("{advice}"))]
    QemuRefused { said: String, advice: String },

    #[error("the L1's kernel {kernel} panicked: {line}")]
    #[diagnostic(code(tdxlab::l1::panic), help("{advice}"))]
    Panic {
        kernel: String,
        line: String,
        advice: String,
        console: Vec<String>,
    },

    #[error("module {name} does not load into {kernel}: {reason}")]
    #[diagnostic(code(tdxlab::l1::module), help("{}", last(log)))]
    Module {
        kernel: String,
        name: String,
        reason: String,
        log: Vec<String>,
    },

    #[error("the L1 cannot have this machine's files: {what}")]
    #[diagnostic(
        code(tdxlab::l1::files),
        help(
            "QEMU shares the root folder over 9p as the user who runs it: that user must be able to read / and the folders of programs and libraries; {}",
            last(log)
        )
    )]
    Files { what: String, log: Vec<String> },

    #[error("the L1 failed while {doing}: {what}")]
    #[diagnostic(code(tdxlab::l1::failed), help("{}", last(log)))]
    Failed {
        doing: &'static str,
        what: String,
        log: Vec<String>,
    },

    #[error("command not found in the L1: {program}")]
    #[diagnostic(
        code(tdxlab::l1::no_command),
        help("the L1 sees this machine's files under the same paths; /run and /dev are its own")
    )]
    NoCommand { program: String },

    #[error("the L1 died while {doing}{}", with(reason))]
    #[diagnostic(code(tdxlab::l1::died), help("{advice}"))]
    Died {
        doing: String,
        reason: String,
        advice: String,
        console: Vec<String>,
    },

    #[error("the L1 gave no sign of life for {silent:?} while {doing}")]
    #[diagnostic(
        code(tdxlab::l1::hung),
        help(
            "if the machine is slow or busy, allow more with --patience; the console output is the evidence"
        )
    )]
    Hung {
        doing: String,
        silent: Duration,
        console: Vec<String>,
    },

    #[error("the L1 ran out of memory: {line}")]
    #[diagnostic(
        code(tdxlab::l1::memory),
        help("give it more than {memory} with --memory")
    )]
    OutOfMemory { line: String, memory: String },

    #[error("the L1's answer was cut off while {doing}: {what}")]
    #[diagnostic(code(tdxlab::l1::cut), help("{advice}"))]
    Cut {
        doing: String,
        what: String,
        advice: String,
    },

    #[error("the L1 sent what cannot be: {what}")]
    #[diagnostic(
        code(tdxlab::l1::lies),
        help("its kernel is broken, or something else writes to its message line")
    )]
    Lies { what: String },

    #[error("interrupted")]
    #[diagnostic(code(tdxlab::l1::interrupted))]
    Interrupted,
}

impl L1Error {
    /// The kernel has no such feature.
    pub(crate) fn lacks(kernel: &str, feature: Feature) -> L1Error {
        L1Error::Lacks {
            kernel: kernel.to_owned(),
            module: feature.module.to_owned(),
            option: feature.option,
            purpose: feature.purpose.unwrap_or("the L1 needs it"),
        }
    }

    /// An error reported by the L1 itself.
    pub(crate) fn told(kernel: &str, stage: Stage, cause: Cause, log: Vec<String>) -> L1Error {
        let kernel = kernel.to_owned();
        match cause {
            Cause::Module { name, errno } => {
                let reason = match errno {
                    libc::ENOEXEC => "it was built for another kernel (vermagic)".to_owned(),
                    libc::ENOENT => "it uses symbols this kernel does not have".to_owned(),
                    libc::EKEYREJECTED => {
                        "the kernel only takes modules signed with its own key".to_owned()
                    }
                    errno => io::Error::from_raw_os_error(errno).to_string(),
                };
                L1Error::Module {
                    kernel,
                    name,
                    reason,
                    log,
                }
            }
            Cause::Lacks { module } => match feature_of(&module) {
                Some(feature) => L1Error::lacks(&kernel, feature),
                None => L1Error::Lies {
                    what: format!("it lacks {module:?}"),
                },
            },
            Cause::Command {
                program,
                errno: libc::ENOENT,
            } => L1Error::NoCommand { program },
            Cause::Command { program, errno } => L1Error::Failed {
                doing: stage.doing(),
                what: format!("{program}: {}", io::Error::from_raw_os_error(errno)),
                log,
            },
            Cause::System { doing, text, .. } if stage == Stage::Files => L1Error::Files {
                what: format!("{doing}: {text}"),
                log,
            },
            Cause::System { doing, text, .. } => L1Error::Failed {
                doing: stage.doing(),
                what: format!("{doing}: {text}"),
                log,
            },
        }
    }

    /// The exit code: 64 for errors of the command line, 69 if this machine cannot run an L1, 70 if
    /// an L1 did not answer, 130 for an interrupt.
    pub fn exit_code(&self) -> u8 {
        match self {
            L1Error::Read { .. }
            | L1Error::NotAKernel { .. }
            | L1Error::Usage { .. }
            | L1Error::NoImageInPackage { .. }
            | L1Error::NoCommand { .. } => 64,
            L1Error::Lacks { .. }
            | L1Error::OtherKernelsModules { .. }
            | L1Error::BrokenModule { .. }
            | L1Error::BrokenPackage { .. }
            | L1Error::NoPackage { .. }
            | L1Error::Unreachable { .. }
            | L1Error::NoApt { .. }
            | L1Error::NoCacheFolder
            | L1Error::Cache { .. }
            | L1Error::System { .. }
            | L1Error::NoQemu { .. }
            | L1Error::QemuRefused { .. }
            | L1Error::Module { .. } => 69,
            L1Error::Panic { .. }
            | L1Error::Files { .. }
            | L1Error::Failed { .. }
            | L1Error::Died { .. }
            | L1Error::Hung { .. }
            | L1Error::OutOfMemory { .. }
            | L1Error::Cut { .. }
            | L1Error::Lies { .. } => 70,
            L1Error::Interrupted => 130,
        }
    }
}

fn path_of(package: &std::path::Path) -> String {
    package
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn names(packages: &[PathBuf]) -> String {
    packages
        .iter()
        .map(|package| path_of(package))
        .collect::<Vec<_>>()
        .join(", ")
}

fn with(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

fn last(log: &[String]) -> String {
    match log.last() {
        Some(line) => format!("its kernel log ends with: {line}"),
        None => "its kernel log is empty".to_owned(),
    }
}
