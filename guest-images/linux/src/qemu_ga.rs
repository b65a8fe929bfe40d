//! The first process of a system whose only other program is qemu-ga.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};
use tdxlab_protocol::linux::{MODULES, QEMU_GA, QEMU_GA_PORT, SMALL_TMP};

use crate::fatal::{die, say};
use crate::role::word;
use crate::{boot, line};

/// How long the port has to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mounts what a system has, starts qemu-ga, and reaps.
pub(crate) fn serve() -> ! {
    boot::mount_all();
    for place in ["/run", "/tmp"] {
        let size = word(SMALL_TMP).filter(|_| place == "/tmp");
        let size = size.map(|size| format!("size={size}"));
        let mounted = mount(
            Some("tmpfs"),
            place,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            size.as_deref(),
        );
        if let Err(error) = mounted {
            say(&format!("mounting {place}: {}", error.desc()));
        }
    }
    let modules = boot::load_modules(MODULES);
    let port = port().unwrap_or_else(|| {
        die(&format!(
            "there is no virtio-serial port {QEMU_GA_PORT}{modules}"
        ))
    });
    #[allow(clippy::zombie_processes, reason = "waitpid() below reaps every child")]
    let child = Command::new(QEMU_GA)
        .args(["--method", "virtio-serial", "--path"])
        .arg(port)
        .args(["--statedir", "/run"])
        .spawn()
        .unwrap_or_else(|error| die(&format!("starting {QEMU_GA}: {error}")));
    let own = i32::try_from(child.id()).unwrap_or_default();
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == own => {
                die(&format!("qemu-ga ended with {code}"))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == own => {
                die(&format!("qemu-ga was ended by {signal}"))
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => die(&format!("waiting for qemu-ga: {}", error.desc())),
        }
    }
}

/// The device of qemu-ga's port, once it is there.
fn port() -> Option<PathBuf> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(device) = line::device_of(QEMU_GA_PORT) {
            return Some(device);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}
