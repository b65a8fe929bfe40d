//! An L1: a real Linux kernel with a real KVM, booted in QEMU, so that every machine has one.
//!
//! Invariant: this crate knows no scenario and no plan.
//!
//! QEMU's TCG emulates SVM with nested paging. A distribution kernel, or one just built, boots in
//! it within seconds and runs the same `tdxlab` on the same files, mounted over 9p; writes go to
//! memory:
//!
//! ```text
//! tdxlab l1 -- run scenarios/kvm --host kvm
//!   kernel     finds the kernel: image, package, cache     kernel, package, debian, image
//!   initramfs  this program, the modules, the job          initramfs, cpio, modules, elf, job
//!   machine    QEMU's command line and the kernel's
//!   session    the L1 seen from the host                   session, console, incoming
//!     ~~~~~~ messages in frames over virtio-serial ~~~~~~  message
//!   init       the same program as the L1's first process
//! ```
//!
//! The exit code and the report come back as messages. An L1 that ends without them is an error,
//! whatever its console shows.

pub mod console;
pub mod cpio;
mod debian;
mod elf;
mod error;
mod feature;
mod image;
mod incoming;
pub mod init;
mod initramfs;
mod job;
pub mod kernel;
mod machine;
mod message;
pub mod modules;
pub mod package;
pub mod package_file;
pub mod program;
pub mod rehearse;
mod session;
mod unpack;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Process, QemuError, environment};

use console::Console;
pub use console::without_time;
pub use error::L1Error;
pub use feature::Vendor;
use incoming::Incoming;
use initramfs::build as build_initramfs;
use job::Job;
pub use kernel::KernelChoice;
use kernel::{Boot, Kernel};
pub use machine::AcceleratorChoice;
pub use machine::INIT_COMMAND;
pub use machine::Memory;
use machine::ThisMachine;
pub use message::Ended;
use message::Receiver;
use session::{Session, State};
pub use session::{Sink, Timing};

/// Environment that the command inherits, beside everything that starts with `TDXLAB_`.
const INHERITED: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TERM",
    "COLUMNS",
    "NO_COLOR",
    "CLICOLOR_FORCE",
    "RUST_BACKTRACE",
    "XDG_CACHE_HOME",
];

/// Parameters of an L1.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its kernel.
    pub kernel: KernelChoice,
    /// Folder of the kernel's modules, if not found beside the image.
    pub modules: Option<PathBuf>,
    /// Download a package even if the cache has it.
    pub fresh: bool,
    /// The accelerator.
    pub accelerator: AcceleratorChoice,
    /// Its memory.
    pub memory: Memory,
    /// The QEMU to run.
    pub qemu: PathBuf,
    /// Longest it may give no sign of life.
    pub patience: Duration,
    /// Program and arguments to run in it.
    pub command: Vec<String>,
    /// Working folder of the command.
    pub folder: PathBuf,
    /// Folder, absolute, whose new files are sent back; also holds the console output.
    pub report: Option<PathBuf>,
}

/// Result of an L1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the command ended.
    pub ended: Ended,
    /// Release of the kernel it ran on.
    pub release: String,
    /// The accelerator used, and why.
    pub accelerator: String,
    /// Number of files received.
    pub files: usize,
    /// Durations of its phases.
    pub timing: Timing,
}

/// Boots an L1, runs the command in it, and brings back output, report and exit code.
///
/// # Errors
///
/// Whenever the command's end is not known for certain.
pub fn run(
    options: &Options,
    sink: &mut Sink<'_>,
    interrupt: &Interrupt,
) -> Result<Outcome, L1Error> {
    if std::env::var_os(environment::INSIDE_L1).is_some() {
        return Err(L1Error::Usage {
            what: "this is an L1 already; run the command itself".into(),
        });
    }
    let (accelerator, why) = options.accelerator.here()?;
    let kernel = Kernel::find(&options.kernel, options.modules.as_deref(), options.fresh)?;
    let modules = kernel.modules(accelerator.vendor())?;
    let job = Job {
        id: rand::random(),
        modules: modules.iter().map(|module| module.name.clone()).collect(),
        vendor: accelerator.vendor(),
        command: options.command.clone(),
        folder: text(options.folder.as_os_str())?,
        environment: environment(kernel.release.as_deref())?,
        report: options
            .report
            .as_ref()
            .map(|path| text(path.as_os_str()))
            .transpose()?,
        entropy: rand::random::<[u8; 32]>().to_vec(),
    };
    let archive = build_initramfs(&job, &modules).map_err(system("building the initramfs"))?;

    let initramfs = in_memory("initramfs", &archive).map_err(system("keeping the initramfs"))?;
    let (kernel_path, kernel_file) = match kernel.boot()? {
        Boot::File(path) => (path.display().to_string(), None),
        Boot::Bytes(bytes) => {
            let file = in_memory("kernel", bytes).map_err(system("keeping the kernel"))?;
            (own_path(&file), Some(file))
        }
    };
    let pair = || UnixStream::pair().map_err(system("making the L1's lines"));
    let ((console, console_end), (port, port_end), (serial, serial_end)) =
        (pair()?, pair()?, pair()?);
    for line in [&console, &port, &serial] {
        line.set_nonblocking(true)
            .map_err(system("making the L1's lines"))?;
    }
    let machine = ThisMachine {
        qemu: &options.qemu,
        accelerator,
        memory: options.memory,
        kernel: kernel_path,
        initramfs: own_path(&initramfs),
        console: console_end.as_raw_fd(),
        port: port_end.as_raw_fd(),
        serial: serial_end.as_raw_fd(),
    };
    let line = machine.command_line();
    let mut inherited: Vec<OwnedFd> = vec![console_end.into(), port_end.into(), serial_end.into()];
    inherited.push(initramfs.into());
    inherited.extend(kernel_file.map(OwnedFd::from));
    let process = Process::start(&line, inherited).map_err(not_started)?;

    let mut session = Session {
        process,
        console_line: console,
        lines: [port, serial],
        receivers: [Receiver::new(job.id), Receiver::new(job.id)],
        kernel: &kernel.name,
        memory: options.memory,
        patience: options.patience,
        report: options
            .report
            .as_deref()
            .map(|folder| Incoming::new(folder, job.id)),
        interrupt,
        console: Console::new(),
        timing: Timing::default(),
        state: State::default(),
    };
    let answer = session.serve(sink);
    let _ = session.process.kill();
    if let Some(folder) = &options.report {
        let evidence = [
            ("l1-console.log", session.console.text()),
            ("l1-command.txt", format!("{line}\n")),
            (
                "l1-stderr.log",
                String::from_utf8_lossy(&session.process.said()).into_owned(),
            ),
        ];
        keep(folder, &evidence).map_err(system(&format!("writing to {}", folder.display())))?;
    }
    let answer = answer?;
    Ok(Outcome {
        ended: answer.ended,
        release: answer.release,
        accelerator: format!("{accelerator} ({why})"),
        files: session.report.as_ref().map_or(0, Incoming::files),
        timing: session.timing,
    })
}

/// The environment of the command.
fn environment(release: Option<&str>) -> Result<Vec<(String, String)>, L1Error> {
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        if INHERITED.contains(&name) || name.starts_with("TDXLAB_") {
            environment.push((name.to_owned(), text(&value)?));
        }
    }
    environment.push((
        environment::INSIDE_L1.to_owned(),
        release.unwrap_or("unknown").to_owned(),
    ));
    Ok(environment)
}

fn text(value: &OsStr) -> Result<String, L1Error> {
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| L1Error::Usage {
        what: format!("{} is not UTF-8", value.display()),
    })
}

/// A memfd, so that no file is left behind however the lab ends.
fn in_memory(name: &str, content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}

/// The path under which a process that inherits `file` finds it.
fn own_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn keep(folder: &Path, evidence: &[(&str, String)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, content) in evidence {
        fs::write(folder.join(name), content)?;
    }
    Ok(())
}

fn not_started(error: QemuError) -> L1Error {
    match error {
        QemuError::Missing { tried } => L1Error::NoQemu {
            program: tried.join(", "),
            source: io::ErrorKind::NotFound.into(),
        },
        QemuError::CouldNotStart { program, source } => L1Error::NoQemu {
            program: program.display().to_string(),
            source,
        },
        other => L1Error::System {
            doing: "starting QEMU".into(),
            source: io::Error::other(other),
        },
    }
}

/// For `map_err`: adds the purpose to a failed system call of the lab.
fn system(doing: &str) -> impl FnOnce(io::Error) -> L1Error {
    let doing = doing.to_owned();
    move |source| L1Error::System { doing, source }
}
