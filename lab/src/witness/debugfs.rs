//! The page counters of one VM in debugfs: `kvm/<pid>-<fd>/pages_{4k,2m,1g}`.
//!
//! The kernel makes one folder per VM, named after the task that created it and the number of its
//! VM file descriptor there, with one file per statistic (`kvm_vm_stats_desc` in
//! arch/x86/kvm/x86.c; `kvm_create_vm_debugfs()` in virt/kvm/kvm_main.c).

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{PageCounters, Reading};

/// Where debugfs usually is.
pub const ROOT: &str = "/sys/kernel/debug";

/// Longest content of a counter file: a 64-bit number and an end of line, with room to see that
/// it is longer.
const MAX_CONTENT: u64 = 32;

/// The folder of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFolder {
    path: PathBuf,
}

impl VmFolder {
    /// The folder of the VM that process `pid` holds as file descriptor `fd`.
    pub fn new(root: &Path, pid: u32, fd: i32) -> VmFolder {
        VmFolder {
            path: root.join("kvm").join(format!("{pid}-{fd}")),
        }
    }

    /// The folder of the one VM that process `pid` has.
    ///
    /// # Errors
    ///
    /// debugfs cannot be read, or the process has no folder or several; in words for the person
    /// who can change that.
    pub fn find(root: &Path, pid: u32) -> Result<VmFolder, String> {
        let kvm = root.join("kvm");
        let entries = fs::read_dir(&kvm).map_err(|error| {
            format!(
                "{}: {error}; is debugfs mounted, and readable by this user?",
                kvm.display()
            )
        })?;
        let prefix = format!("{pid}-");
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect();
        match (found.pop(), found.is_empty()) {
            (Some(path), true) => Ok(VmFolder { path }),
            (Some(_), false) => Err(format!(
                "{}: process {pid} has {} VMs, and nothing says which one is meant",
                kvm.display(),
                found.len() + 1
            )),
            (None, _) => Err(format!(
                "{}: no folder {prefix}*; the kernel makes none when one of that name is left \
                 over (\"duplicate directory\" in its log)",
                kvm.display()
            )),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The page counters. Missing as soon as one of them is, with the reason of each.
    pub fn counters(&self) -> Reading<PageCounters> {
        let mut reasons = Vec::new();
        let mut number = |name| match self.number(name) {
            Ok(number) => number,
            Err(reason) => {
                reasons.push(reason);
                0
            }
        };
        let counters = PageCounters {
            pages_4k: number("pages_4k"),
            pages_2m: number("pages_2m"),
            pages_1g: number("pages_1g"),
        };
        if reasons.is_empty() {
            Reading::Read(counters)
        } else {
            Reading::missing(reasons.join("; "))
        }
    }

    /// The number in one of the files.
    ///
    /// # Errors
    ///
    /// The file cannot be read or holds anything but a number; in words, with its path.
    pub fn number(&self, name: &str) -> Result<u64, String> {
        let path = self.path.join(name);
        let content = content(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let text = content.strip_suffix(b"\n").unwrap_or(&content);
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(text)
            .ok()
            .filter(|_| digits)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                format!(
                    "{}: holds {:?}, not a number",
                    path.display(),
                    String::from_utf8_lossy(&content)
                )
            })
    }
}

/// The beginning of a file, which may be anything: a pipe without a writer must not block.
fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut content = Vec::new();
    file.take(MAX_CONTENT).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use tempfile::TempDir;

    fn folder(files: &[(&str, &str)]) -> (TempDir, VmFolder) {
        let root = TempDir::new().unwrap();
        let vm = VmFolder::new(root.path(), 41, 7);
        fs::create_dir_all(vm.path()).unwrap();
        for (name, content) in files {
            fs::write(vm.path().join(name), content).unwrap();
        }
        (root, vm)
    }

    const GOOD: [(&str, &str); 3] = [
        ("pages_4k", "31\n"),
        ("pages_2m", "0\n"),
        ("pages_1g", "2\n"),
    ];

    #[test]
    fn counters_are_read() {
        let (_root, vm) = folder(&GOOD);
        assert_eq!(
            vm.counters(),
            Reading::Read(PageCounters {
                pages_4k: 31,
                pages_2m: 0,
                pages_1g: 2
            })
        );
    }

    #[rstest]
    #[case::empty("")]
    #[case::newline("\n")]
    #[case::negative("-1\n")]
    #[case::words("31 pages\n")]
    #[case::plus("+31\n")]
    #[case::too_big("18446744073709551616\n")]
    #[case::two_lines("31\n32\n")]
    fn garbage_is_missing_and_not_zero(#[case] content: &str) {
        let (_root, vm) = folder(&[GOOD[0], GOOD[1], ("pages_1g", content)]);
        let Reading::Missing { reason } = vm.counters() else {
            panic!("{content:?} was read as a number");
        };
        assert!(reason.contains("pages_1g"), "{reason}");
        assert!(!reason.contains("pages_4k"), "{reason}");
    }

    #[test]
    fn each_missing_file_is_named() {
        let (_root, vm) = folder(&GOOD[..1]);
        let Reading::Missing { reason } = vm.counters() else {
            panic!("two files are not there");
        };
        assert!(reason.contains("pages_2m: No such file"), "{reason}");
        assert!(reason.contains("pages_1g: No such file"), "{reason}");
    }

    #[test]
    fn the_vm_of_a_process_is_found_unless_it_is_one_of_several() {
        let (root, vm) = folder(&GOOD);
        assert_eq!(VmFolder::find(root.path(), 41).unwrap(), vm);
        let none = VmFolder::find(root.path(), 4).unwrap_err();
        assert!(none.contains("no folder 4-*"), "{none}");
        fs::create_dir(root.path().join("kvm/41-9")).unwrap();
        let several = VmFolder::find(root.path(), 41).unwrap_err();
        assert!(several.contains("2 VMs"), "{several}");
        let unmounted = VmFolder::find(Path::new("/nonexistent"), 41).unwrap_err();
        assert!(unmounted.contains("is debugfs mounted"), "{unmounted}");
    }

    #[test]
    fn a_pipe_does_not_block() {
        let (_root, vm) = folder(&GOOD[..2]);
        let pipe = vm.path().join("pages_1g");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(vm.counters().value().is_none());
    }
}
