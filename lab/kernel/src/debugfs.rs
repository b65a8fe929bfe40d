//! The page counters of one VM in debugfs: `kvm/<pid>-<fd>/pages_{4k,2m,1g}`.
//!
//! The kernel makes one folder per VM, named after the task that created it and the number of its
//! VM file descriptor there, with one file per statistic (`kvm_vm_stats_desc` in
//! arch/x86/kvm/x86.c; `kvm_create_vm_debugfs()` in virt/kvm/kvm_main.c).

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statfs::{DEBUGFS_MAGIC, statfs};
use tdxlab_journal::{PageCounters, Reading};

/// Where debugfs usually is.
pub const ROOT: &str = "/sys/kernel/debug";

/// Longest content of a counter file: a 64-bit number and an end of line, with room to see that
/// it is longer.
const MAX_CONTENT: u64 = 32;

/// How often a folder is looked for that should go.
const TICK: Duration = Duration::from_millis(10);

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

    /// Finds the folder of the only VM of process `pid`, by the number of its file descriptor.
    ///
    /// # Errors
    ///
    /// debugfs cannot be read, the process has no VM or several, or the VM's folder is missing;
    /// with the remedy.
    pub fn find(root: &Path, pid: u32) -> Result<VmFolder, String> {
        VmFolder::of_open_file(root, pid, Path::new(&format!("/proc/{pid}/fd")))
    }

    /// `open_files` is the folder of links that `/proc` has for a process.
    fn of_open_file(root: &Path, pid: u32, open_files: &Path) -> Result<VmFolder, String> {
        let kvm = root.join("kvm");
        let entries = fs::read_dir(&kvm).map_err(|error| {
            format!(
                "{}: {error}; {}",
                kvm.display(),
                match error.kind() {
                    io::ErrorKind::PermissionDenied => NO_RIGHTS,
                    _ => "is debugfs mounted, and readable by this user?",
                }
            )
        })?;
        let fd = match vm_files(open_files)?[..] {
            [fd] => fd,
            [] => return Err(format!("process {pid} has no VM")),
            ref several => {
                return Err(format!(
                    "process {pid} has {} VMs, or one under several numbers ({several:?}), and \
                     nothing says which one is meant",
                    several.len()
                ));
            }
        };
        let folder = VmFolder::new(root, pid, fd);
        let there: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&format!("{pid}-")))
            .collect();
        if there.contains(&format!("{pid}-{fd}")) {
            return Ok(folder);
        }
        let others = match there.as_slice() {
            [] => String::new(),
            names => format!("; {} is of another VM of its", names.join(", ")),
        };
        Err(format!(
            "no {}: the kernel makes none when one of that name is left over (\"duplicate \
             directory\" in its log){others}",
            folder.path.display()
        ))
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many VMs are left of it once `patience` has passed: KVM removes the folder when the last
    /// reference to the VM is dropped (`kvm_destroy_vm_debugfs()`), some of them by its own threads
    /// and after the process has ended.
    pub fn left(&self, patience: Duration) -> Reading<u64> {
        let until = Instant::now() + patience;
        while self.path.exists() {
            if Instant::now() < until {
                std::thread::sleep(TICK);
                continue;
            }
            return match statfs(&self.path) {
                Ok(found) if found.filesystem_type() == DEBUGFS_MAGIC => Reading::Read(1),
                _ => Reading::missing(format!("{} is no folder of a kernel", self.path.display())),
            };
        }
        Reading::Read(0)
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
        let content = content(&path).map_err(|error| unreadable(&path, &error))?;
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

/// Remedy for EPERM and EACCES. Under lockdown even root may open only files of mode 0444.
const NO_RIGHTS: &str = "run as root, and without lockdown (/sys/kernel/security/lockdown)";

fn unreadable(path: &Path, error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("; {NO_RIGHTS}"),
        _ => String::new(),
    };
    format!("{}: {error}{advice}", path.display())
}

/// Numbers of the open files that are VMs, in order.
fn vm_files(open_files: &Path) -> Result<Vec<i32>, String> {
    let entries = fs::read_dir(open_files).map_err(|error| unreadable(open_files, &error))?;
    let mut numbers: Vec<i32> = entries
        .flatten()
        .filter(|entry| {
            fs::read_link(entry.path()).is_ok_and(|link| link == Path::new("anon_inode:kvm-vm"))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The beginning of a file, which may be anything: a pipe without a writer must not block.
fn content(path: &Path) -> io::Result<Vec<u8>> {
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
    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    /// A folder that goes is a VM that is gone; one that stays counts only where a kernel made it.
    #[test]
    fn a_vm_is_gone_with_its_folder() {
        let (root, vm) = folder(&[("pages_4k", "0\n")]);
        let left = vm.left(Duration::ZERO);
        assert!(matches!(left, Reading::Missing { .. }), "{left:?}");
        drop(root);
        assert_eq!(vm.left(Duration::ZERO), Reading::Read(0));
    }

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

    /// Links as `/proc` shows open files.
    fn open_files(links: &[(&str, &str)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (number, link) in links {
            std::os::unix::fs::symlink(link, folder.path().join(number)).unwrap();
        }
        folder
    }

    const VM: &str = "anon_inode:kvm-vm";

    #[test]
    fn the_vm_of_a_process_is_found_by_its_file() {
        let (root, vm) = folder(&GOOD);
        // Left by a dead VM, or of another one.
        fs::create_dir(root.path().join("kvm/41-9")).unwrap();
        let files = open_files(&[("5", "/dev/kvm"), ("7", VM), ("8", "anon_inode:kvm-vcpu:0")]);
        let find = |root: &Path| VmFolder::of_open_file(root, 41, files.path());
        assert_eq!(find(root.path()).unwrap(), vm);
        let unmounted = find(Path::new("/nonexistent")).unwrap_err();
        assert!(unmounted.contains("is debugfs mounted"), "{unmounted}");
    }

    #[rstest]
    #[case::none(&[("5", "/dev/kvm")], "process 41 has no VM")]
    #[case::two(&[("7", VM), ("12", VM)], "has 2 VMs, or one under several numbers ([7, 12])")]
    #[case::another_number(&[("6", VM)], "kvm/41-6: the kernel makes none")]
    #[case::another_number(&[("6", VM)], "41-7 is of another VM")]
    fn a_folder_of_another_vm_is_not_taken_for_it(
        #[case] links: &[(&str, &str)],
        #[case] reason: &str,
    ) {
        let (root, _vm) = folder(&GOOD);
        let files = open_files(links);
        let error = VmFolder::of_open_file(root.path(), 41, files.path()).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    #[rstest]
    #[case(libc::EPERM, true)]
    #[case(libc::EACCES, true)]
    #[case(libc::EIO, false)]
    fn who_may_not_read_is_told_of_lockdown(#[case] errno: i32, #[case] told: bool) {
        let said = unreadable(Path::new("/x"), &io::Error::from_raw_os_error(errno));
        assert_eq!(said.contains("lockdown"), told, "{said}");
    }

    #[test]
    fn a_pipe_does_not_block() {
        let (_root, vm) = folder(&GOOD[..2]);
        let pipe = vm.path().join("pages_1g");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(vm.counters().value().is_none());
    }
}
