//! Whether QEMU starts on this KVM at all: starts it once, without a guest.
//!
//! Some QEMUs exit with `-cpu host`, as when the KVM below lacks a required feature, and some were
//! built without memfd. The probe reports this once, not as the failure of every scenario.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tdxlab_host::{HostError, OnHost};
use tdxlab_plan::HostKind;
use tdxlab_qemu::qmp::QmpError;
use tdxlab_qemu::qmp::commands::QueryStatus;
use tdxlab_qemu::{CommandLine, Process, QemuError, Qmp};

/// Activity named in errors.
const DOING: &str = "starting it without a guest";

/// How long a QEMU that hung up may take to end.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Starts `program` with an accelerator and a CPU model, and ends it when its monitor answers.
pub(super) fn start(
    program: &Path,
    accelerator: &str,
    cpu: &str,
    patience: Duration,
) -> Result<(), HostError> {
    let (ours, theirs) = UnixStream::pair()
        .map_err(QemuError::system("making a socket pair"))
        .map_err(|error| error.on(HostKind::Kvm))?;
    let chardev = format!("socket,id=qmp,fd={}", theirs.as_raw_fd());
    let args = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-S",
        "-machine",
        "q35",
        "-accel",
        accelerator,
        "-cpu",
        cpu,
        "-m",
        "16M",
        "-object",
        "memory-backend-memfd,id=test,size=2M,share=on",
        "-chardev",
        &chardev,
        "-mon",
        "chardev=qmp,mode=control",
    ];
    let line = CommandLine {
        program: program.to_owned(),
        args: args.map(Into::into).to_vec(),
        only_small_pages: false,
    };
    let mut process =
        Process::start(&line, vec![theirs.into()]).map_err(|error| error.on(HostKind::Kvm))?;
    let began = Instant::now();
    let answered = Qmp::new(ours).and_then(|mut qmp| qmp.execute(&QueryStatus {}, patience));
    let Err(error) = answered else {
        return Ok(());
    };
    let until = Instant::now() + LAST_BREATH;
    let hung_up = !matches!(error, QmpError::Silent { .. });
    while hung_up && process.ended().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = match process.ended() {
        Some(status) => QemuError::Ended {
            doing: DOING.to_owned(),
            status,
            last_line: process.last_line(),
        },
        None if hung_up => error.into(),
        None => QemuError::Hangs {
            doing: DOING.to_owned(),
            waited: began.elapsed(),
            said: process.and_its_last_line(),
        },
    };
    Err(refused(error, &line))
}

/// The reason, with what to do about it.
fn refused(error: QemuError, line: &CommandLine) -> HostError {
    let reason = format!("QEMU {error}");
    match error.on(HostKind::Kvm) {
        HostError::Qemu { .. } => HostError::NotUsable {
            host: HostKind::Kvm,
            reason,
            advice: format!(
                "this QEMU and this KVM do not go together: name another QEMU in {}, or boot a \
                 kernel that has a KVM of its own with `tdxlab l1`; it was started with {}",
                tdxlab_qemu::installed::PROGRAM_VARIABLE,
                line.args
                    .iter()
                    .map(|arg| arg.to_string_lossy())
                    .filter(|arg| !arg.starts_with("socket,"))
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rstest::rstest;
    use tdxlab_qemu::{Installed, Version};

    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qemu");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (folder, path)
    }

    #[rstest]
    #[case::aborts(
        "case \"$*\" in *'-cpu host'*) echo 'error: failed to set MSR 0x48b' >&2; kill -ABRT $$;; esac",
        "SIGABRT",
        "do not go together"
    )]
    #[case::quoted(
        "echo 'error: failed to set MSR 0x48b' >&2; exit 1",
        "MSR 0x48b",
        "TDXLAB_QEMU"
    )]
    #[case::without_memfd(
        "echo 'invalid object type: memory-backend-memfd' >&2; exit 1",
        "memory-backend-memfd",
        "built without memfd"
    )]
    #[case::hangs("exec sleep 600", "hangs", "do not go together")]
    fn a_qemu_that_does_not_come_up_is_quoted(
        #[case] text: &str,
        #[case] found: &str,
        #[case] to_do: &str,
    ) {
        let (_folder, program) = script(text);
        // One that ends by itself is waited for, however busy the machine is.
        let patience = match found {
            "hangs" => Duration::from_millis(500),
            _ => Duration::from_secs(60),
        };
        let error = start(&program, "kvm", "host", patience).unwrap_err();
        let HostError::NotUsable { reason, advice, .. } = error else {
            panic!("{error}");
        };
        assert!(reason.contains(found), "{reason}");
        assert!(advice.contains(to_do), "{advice}");
    }

    /// The real one, where there is one.
    #[test]
    fn a_qemu_that_comes_up_is_ended_again() {
        match Installed::find(Version::new(7, 0)) {
            Ok(qemu) => start(&qemu.program, "tcg", "max", Duration::from_secs(60)).unwrap(),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }
}
