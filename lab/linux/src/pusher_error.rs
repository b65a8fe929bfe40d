//! Errors of qemu-ga, each with the command that failed, qemu-ga's own words and a remedy.

use std::time::Duration;

use tdxlab_qemu::cut::quoted;
use tdxlab_qemu::qga::commands::{GuestExecStatus, guest_exec, guest_exec_status};
use tdxlab_qemu::qga::{Command, QgaError};

use crate::error::LinuxError;

/// Where images say which commands qemu-ga may do.
const CONFIG: &str = "/etc/qemu/qemu-ga.conf (`block-rpcs` and `allow-rpcs`; in Fedora and RHEL \
     /etc/sysconfig/qemu-ga)";

/// How `strerror()` calls ENOSPC.
const NO_SPACE: &str = "No space left on device";

fn error(command: &'static str, doing: &str, said: String, advice: String) -> LinuxError {
    LinuxError::QemuGa {
        command,
        doing: doing.to_owned(),
        said,
        tried: false,
        advice: advice.into(),
    }
}

/// A command that the image does not let qemu-ga do.
pub(crate) fn disabled(command: &'static str, version: &str) -> LinuxError {
    error(
        command,
        "before anything was written",
        format!("qemu-ga {version} does not offer it"),
        format!("let qemu-ga of the image do it, in {CONFIG}"),
    )
}

/// A command that was refused, or answered with what is no answer.
pub(crate) fn failed(command: &'static str, doing: &str, why: QgaError) -> LinuxError {
    let QgaError::Refused { refusal, .. } = &why else {
        let advice = "the conversation is in qemu-ga.jsonl of the scenario's folder";
        return error(command, doing, why.to_string(), advice.to_owned());
    };
    let has = |text: &str| refusal.desc.contains(text);
    let advice = if refusal.class == "CommandNotFound" || has("has been disabled") {
        format!("let qemu-ga of the image do it, in {CONFIG}")
    } else if has(NO_SPACE) {
        "make room in the image".to_owned()
    } else if has("Permission denied") && command == guest_exec::NAME {
        "its file system may be mounted noexec, or a policy such as SELinux confine qemu-ga; allow \
         it in the image"
            .to_owned()
    } else if has("Permission denied") || has("Read-only file system") {
        "qemu-ga must run as root in the image, and the folder be one that can be written"
            .to_owned()
    } else if has("No such file") && command == guest_exec::NAME {
        "the image must have this program in its path".to_owned()
    } else {
        "qemu-ga.jsonl in the scenario's folder has what came before".to_owned()
    };
    LinuxError::QemuGa {
        command,
        doing: doing.to_owned(),
        said: format!("{} ({})", refusal.desc, refusal.class),
        tried: refusal.class == "GenericError" && !has("has been disabled"),
        advice: advice.into(),
    }
}

/// The same error, but where the file system is full: with what had been written.
pub(crate) fn full(why: LinuxError, path: &str, written: usize, bytes: usize) -> LinuxError {
    match why {
        LinuxError::QemuGa {
            command,
            doing,
            said,
            ..
        } if said.contains(NO_SPACE) => error(
            command,
            &doing,
            format!("{said}, after {written} of {bytes} bytes"),
            format!(
                "the file system of {path} in the guest is full: leave {} KiB free there",
                bytes.div_ceil(1024)
            ),
        ),
        other => other,
    }
}

/// An answer that no qemu-ga gives.
pub(crate) fn lies(command: &'static str, doing: &str, what: String) -> LinuxError {
    let advice = "the conversation is in qemu-ga.jsonl of the scenario's folder";
    error(command, doing, what, advice.to_owned())
}

/// No answer.
pub(crate) fn silent(command: &'static str, doing: &str, waited: Duration) -> LinuxError {
    LinuxError::QemuGaSilent {
        command,
        doing: doing.to_owned(),
        seconds: waited.as_secs(),
        advice: "the console's last lines show how far the guest came".into(),
    }
}

/// How a program ended, with its last words.
fn end_of(status: &GuestExecStatus) -> String {
    let how = match (status.exitcode, status.signal) {
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(code), None) => format!("ended with {code}"),
        (None, None) => "ended in a way that qemu-ga does not tell".to_owned(),
    };
    let words = [&status.err_data, &status.out_data]
        .into_iter()
        .flatten()
        .map(|bytes| String::from_utf8_lossy(bytes).replace(char::is_control, " "))
        .find(|text| !text.trim().is_empty());
    match words {
        Some(words) => format!("{how}: {}", quoted(words.trim())),
        None => how,
    }
}

/// A program that did not do its part.
pub(crate) fn program_failed(program: &str, doing: &str, status: &GuestExecStatus) -> LinuxError {
    let advice = "the program is the guest's own; the words are its last";
    let said = format!("{program} {}", end_of(status));
    error(guest_exec::NAME, doing, said, advice.to_owned())
}

/// An agent that has ended.
pub(crate) fn ended(status: &GuestExecStatus, doing: &str) -> LinuxError {
    let said = format!("the agent {}", end_of(status));
    let advice = match (status.exitcode, status.signal) {
        (_, Some(9)) => {
            "SIGKILL comes from the guest's kernel where memory runs out, or from its system: its log says so"
        }
        _ => "the agent must run as root, and needs the virtio-serial port beside qemu-ga's",
    };
    error(guest_exec_status::NAME, doing, said, advice.to_owned())
}
