//! Errors of a Linux guest, each with a remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use miette::Diagnostic;
use thiserror::Error;

use tdxlab_l1::L1Error;
use tdxlab_qemu::QemuError;

use tdxlab_qemu::patience::MOST_PATIENCE;

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

    #[error(
        "the guest has only printed for {after:?} {doing}, {} times as long as it may be silent",
        MOST_PATIENCE
    )]
    #[diagnostic(
        code(tdxlab::linux::babbles),
        help(
            "the console's last lines show what it is at; on a machine that is busy with much else, give \
             it more patience"
        )
    )]
    Babbles {
        doing: String,
        after: Duration,
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

    #[error("qemu-ga: {command} failed {doing}: {said}")]
    #[diagnostic(code(tdxlab::linux::qemu_ga), help("{advice}"))]
    QemuGa {
        command: &'static str,
        doing: String,
        said: String,
        /// Whether qemu-ga has tried, and its system refused.
        tried: bool,
        advice: Box<str>,
    },

    #[error("qemu-ga: no answer to {command} for {seconds} s {doing}")]
    #[diagnostic(code(tdxlab::linux::qemu_ga_silent), help("{advice}"))]
    QemuGaSilent {
        command: &'static str,
        doing: String,
        seconds: u64,
        advice: Box<str>,
    },

    #[error("disk {}: {source}", path.display())]
    #[diagnostic(
        code(tdxlab::linux::disk),
        help("name a raw or qcow2 image; the path in a scenario is relative to its file")
    )]
    Disk { path: PathBuf, source: io::Error },

    #[error("disk {}: {why}", path.display())]
    #[diagnostic(code(tdxlab::linux::no_loader), help("{advice}"))]
    NoLoader {
        path: PathBuf,
        why: &'static str,
        advice: &'static str,
    },

    #[error("disk {} starts by UEFI, for which there is no firmware: {source}", path.display())]
    #[diagnostic(
        code(tdxlab::linux::no_uefi),
        help("name one with --firmware, such as OVMF.fd of the package ovmf")
    )]
    NoUefi { path: PathBuf, source: Box<L1Error> },

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

/// Remedy for a QEMU that ended.
pub(crate) fn advice_on_qemu(status: &str, said: &str, mebibytes: u64) -> String {
    let has = |text: &str| said.contains(text);
    if status.contains("SIGKILL") {
        format!(
            "it was killed, as the host's kernel does where memory runs out (its log says so); ask \
             for less than {mebibytes} MiB with `memory`"
        )
    } else if has("failed to parse TDVF") {
        "this firmware does not start TDs; --firmware names one whose QEMU descriptor has the \
         feature intel-tdx"
            .to_owned()
    } else if has("KVM_GET_CLOCK failed") || has("error deleting ioeventfd") {
        "KVM has given up the VM; the host's kernel log says why".to_owned()
    } else if has("Cannot allocate memory") || has("cannot set up guest memory") {
        format!("this machine cannot give {mebibytes} MiB; ask for less with `memory`")
    } else if has("virtserialport") || has("virtio-serial") {
        "this QEMU has no virtio devices; name another with TDXLAB_QEMU".to_owned()
    } else if has("Failed to get") && has("lock") {
        "another program has the disk image open; end it, or use a copy".to_owned()
    } else if has("unsupported machine type") || has("pcie") {
        "this QEMU has no microvm with PCI; use `board: q35`".to_owned()
    } else {
        "console and command line are in the scenario's folder".to_owned()
    }
}

/// Remedy for a panic, if its line shows the cause.
pub(crate) fn advice_on_panic(line: &str, mebibytes: u64) -> String {
    let has = |text: &str| line.contains(text);
    if has("Unable to mount root fs") {
        "the kernel did not take the initramfs: build it with CONFIG_BLK_DEV_INITRD=y".to_owned()
    } else if has("Requested init") || has("No working init") {
        "the kernel cannot run 64-bit ELF programs: build it with CONFIG_BINFMT_ELF=y".to_owned()
    } else if has("memory") || has("Memory") {
        format!("give the guest more than {mebibytes} MiB with `memory`")
    } else if has("Attempted to kill init") {
        "the agent ended; the console says why".to_owned()
    } else {
        "the console output is the evidence".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::killed("signal: 9 (SIGKILL)", "", "memory runs out")]
    #[case::no_td("exit status: 1", "failed to parse TDVF for TDX VM", "intel-tdx")]
    #[case::dead(
        "signal: 6 (SIGABRT)",
        "KVM_GET_CLOCK failed: Input/output error",
        "given up"
    )]
    #[case::large(
        "exit status: 1",
        "cannot set up guest memory 'ram'",
        "cannot give 4096 MiB"
    )]
    #[case::other("exit status: 1", "", "command line are in")]
    fn what_ended_qemu_has_its_advice(
        #[case] status: &str,
        #[case] said: &str,
        #[case] says: &str,
    ) {
        let advice = advice_on_qemu(status, said, 4096);
        assert!(advice.contains(says), "{advice}");
    }
}
