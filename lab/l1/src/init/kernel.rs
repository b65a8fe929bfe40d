//! Kernel set-up by the first process.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::sys::reboot::{RebootMode, reboot as kernel_reboot};

use super::super::job;
use super::super::message::{Cause, Stage};
use super::Failure;

/// Loads modules in this order. Stops at the first that does not load, since the others may need
/// it.
pub(super) fn load_modules(names: &[String]) -> Result<(), Failure> {
    for name in names {
        let path = Path::new(job::MODULES).join(name);
        let loaded = File::open(&path)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
            .and_then(|file| finit_module(&file, &CString::default(), ModuleInitFlags::empty()));
        match loaded {
            // A module that is built in as well is as good.
            Ok(()) | Err(Errno::EEXIST) => {}
            // That CPU feature is missing: the error of /dev/kvm is clearer.
            Err(Errno::EOPNOTSUPP) if name.starts_with("kvm_") => {}
            Err(errno) => {
                let cause = Cause::Module {
                    name: name.clone(),
                    errno: errno as i32,
                };
                return Err((Stage::Modules, cause));
            }
        }
    }
    Ok(())
}

/// `uname -r`.
pub(super) fn release() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/osrelease");
    read.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Credits random bytes of the host to the kernel's pool, so that no process waits for entropy.
pub(super) fn add_entropy(seed: &[u8]) {
    /// `struct rand_pool_info`: bits, bytes, then the bytes.
    #[repr(C)]
    struct Pool {
        bits: i32,
        size: i32,
        bytes: [u8; 64],
    }
    nix::ioctl_write_ptr_bad!(
        add,
        nix::request_code_write!(b'R', 3, size_of::<[i32; 2]>()),
        Pool
    );
    let mut bytes = [0; 64];
    let size = seed.len().min(bytes.len());
    bytes[..size].copy_from_slice(&seed[..size]);
    let pool = Pool {
        bits: 8 * size as i32,
        size: size as i32,
        bytes,
    };
    if let Ok(random) = File::options().write(true).open("/dev/random") {
        // SAFETY: RNDADDENTROPY reads the header and `size` bytes after it, all inside `pool`.
        // Where it fails the kernel gathers its own, only later.
        let _ = unsafe { add(random.as_raw_fd(), &raw const pool) };
    }
}

/// Enables transparent huge pages for memfds that ask for them, disables khugepaged, and makes the
/// OOM killer act early (lru_gen min_ttl) instead of thrashing.
pub(super) fn tune() {
    const SETTINGS: [(&str, &str); 4] = [
        ("transparent_hugepage/shmem_enabled", "advise"),
        (
            "transparent_hugepage/khugepaged/scan_sleep_millisecs",
            "4294967295",
        ),
        ("lru_gen/enabled", "y"),
        ("lru_gen/min_ttl_ms", "1000"),
    ];
    for (name, value) in SETTINGS {
        // Missing files are fine: without transparent huge pages the command that needs them
        // reports it, and without lru_gen the OOM killer only acts later.
        let _ = fs::write(Path::new("/sys/kernel/mm").join(name), value);
    }
}

/// The last lines of the kernel log, oldest first.
pub(super) fn last_log_lines(count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg");
    let Ok(mut log) = log else {
        return lines;
    };
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                let line = text.lines().next().unwrap_or_default();
                lines.push(
                    line.split_once(';')
                        .map_or(line, |(_, text)| text)
                        .to_owned(),
                );
            }
            // A record was overwritten while it was read; the next one is whole.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    lines.split_off(lines.len().saturating_sub(count))
}

/// Ends the L1; QEMU runs with `-no-reboot`.
pub(super) fn reboot() -> ! {
    loop {
        let _ = kernel_reboot(RebootMode::RB_AUTOBOOT);
        std::thread::sleep(Duration::from_secs(1));
    }
}
