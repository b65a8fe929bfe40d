//! Duplicates QEMU's memory file descriptors.
//!
//! Neither QMP nor the command line exposes a guest_memfd or the fd of a memory backend, so they
//! are found in `/proc/PID/fd` by their link target and duplicated with `pidfd_getfd` (opening the
//! link itself ends in ENXIO for a guest_memfd).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::{fs, io};

use nix::sys::stat::fstat;

use super::error::QemuError;
use super::process::Process;

/// How the kernel names the file behind a `memory-backend-memfd`.
pub const MEMORY_BACKEND: &str = "/memfd:memory-backend-memfd";

/// Common part of a guest_memfd's name in all kernels: `anon_inode:[kvm-gmem]` up to 6.18,
/// `/[kvm-gmem] (deleted)` since it has a file system.
pub const GUEST_MEMFD: &str = "[kvm-gmem]";

/// A file of QEMU, open in the lab too.
///
/// Closing it matters: a duplicate of a guest_memfd keeps the VM alive after QEMU has ended.
#[derive(Debug)]
pub struct TakenFile {
    /// The duplicate.
    pub file: OwnedFd,
    /// Its number in QEMU.
    pub number: i32,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Duplicates every open file of `process` whose link text contains `kind`.
///
/// # Errors
///
/// None is open, or the kernel refuses to hand it over.
pub fn take(process: &Process, kind: &str) -> Result<Vec<TakenFile>, QemuError> {
    let mut links = links(process)?;
    let wanted: Vec<i32> = links
        .iter()
        .filter(|(_, text)| is_of(kind, text))
        .map(|&(number, _)| number)
        .collect();
    if wanted.is_empty() {
        links.sort();
        return Err(QemuError::NoSuchFile {
            wanted: kind.to_owned(),
            found: links
                .into_iter()
                .map(|(number, text)| format!("{number}: {text}"))
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    wanted
        .into_iter()
        .map(|number| {
            let file = process
                .take_fd(number)
                .map_err(|error| refused(number, error))?;
            let status = fstat(&file).map_err(QemuError::system("fstat of a file of QEMU"))?;
            Ok(TakenFile {
                file,
                number,
                bytes: status.st_size.cast_unsigned(),
            })
        })
        .collect()
}

/// A kernel that does not hand QEMU's files over is a machine to set up, not a fault of the lab.
fn refused(number: i32, source: io::Error) -> QemuError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return QemuError::NotAllowed { number };
    }
    QemuError::System {
        doing: format!("taking file {number} of QEMU"),
        source,
    }
}

/// Number and link target of each open file in `/proc/PID/fd`.
fn links(process: &Process) -> Result<Vec<(i32, String)>, QemuError> {
    let folder = PathBuf::from(format!("/proc/{}/fd", process.pid()));
    let entries = fs::read_dir(&folder)
        .map_err(QemuError::system(format!("reading {}", folder.display())))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            // One that was closed since is of no interest.
            let text = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, text.to_string_lossy().into_owned()))
        })
        .collect())
}

/// Whether a link text names a file of a kind.
fn is_of(kind: &str, text: &str) -> bool {
    text.contains(kind)
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_guest_memfd_is_known_in_both_spellings() {
        for (text, is_one) in [
            ("anon_inode:[kvm-gmem]", true),
            ("/[kvm-gmem] (deleted)", true),
            ("anon_inode:kvm-vm", false),
            ("/memfd:memory-backend-memfd (deleted)", false),
        ] {
            assert_eq!(is_of(GUEST_MEMFD, text), is_one, "{text}");
            assert_eq!(is_of(MEMORY_BACKEND, text), text.starts_with("/memfd"));
        }
    }

    /// By Yama, by another user's QEMU, or by a container's seccomp filter.
    #[rstest::rstest]
    #[case(libc::EPERM)]
    #[case(libc::EACCES)]
    fn files_that_may_not_be_taken_are_named(#[case] errno: i32) {
        let error = refused(7, io::Error::from_raw_os_error(errno));
        assert!(
            matches!(error, QemuError::NotAllowed { number: 7 }),
            "{error:?}"
        );
    }

    #[test]
    fn any_other_refusal_is_the_systems() {
        let error = refused(7, io::Error::from_raw_os_error(libc::EMFILE));
        assert!(matches!(error, QemuError::System { .. }), "{error:?}");
    }
}
