//! Set-up by the first process: mounts and modules.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

use crate::fatal::say;

/// File systems of the kernel's, and where they go.
const FILE_SYSTEMS: [(&str, &str); 3] =
    [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")];

/// Mounts the file systems that the agent reads. Failures are printed on the console, and requests
/// that need a missing one fail.
pub(crate) fn mount_all() {
    for (kind, place) in FILE_SYSTEMS {
        mount_one(kind, place);
    }
    mount_configfs();
}

/// Has the kernel look for memory elsewhere: the agent's own death would be the guest's, or the end
/// of the test.
pub(crate) fn survive() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        say(&format!("/proc/self/oom_score_adj: {error}"));
    }
}

/// Mounts configfs, through which quotes are asked for, where the kernel has it by now.
pub(crate) fn mount_configfs() {
    const PLACE: &str = "/sys/kernel/config";
    // The kernel makes this folder with configfs.
    if Path::new(PLACE).is_dir() {
        mount_one("configfs", PLACE);
    }
}

fn mount_one(kind: &str, place: &str) {
    match mount(
        Some(kind),
        place,
        Some(kind),
        MsFlags::empty(),
        None::<&str>,
    ) {
        // The kernel may have mounted /dev itself (CONFIG_DEVTMPFS_MOUNT).
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(error) => say(&format!("mounting {kind} on {place}: {}", error.desc())),
    }
}

/// Loads the modules of a folder; returns those that failed, as a suffix for an error message.
pub(crate) fn load_modules(folder: &str) -> String {
    let mut files: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(folder) => folder.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    files.retain(|path| path.is_file());
    files.sort();
    let mut failed = String::new();
    for path in files {
        let loaded = fs::File::open(&path)
            .and_then(|file| Ok(finit_module(&file, c"", ModuleInitFlags::empty())?));
        match loaded {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => {
                let what = format!("{}: {error}", path.display());
                say(&format!("loading {what}"));
                failed = format!("{failed}; {what}");
            }
        }
    }
    failed
}

/// CPUs online.
pub(crate) fn cpus() -> u16 {
    let known = std::thread::available_parallelism().map_or(0, usize::from);
    u16::try_from(known).unwrap_or(u16::MAX)
}

/// The kernel's release.
pub(crate) fn release() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_owned())
}
