//! Mounts the root file system and starts its init, as an initramfs does.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use tdxlab_protocol::linux::MODULES;

use crate::boot;
use crate::fatal::die;
use crate::role::word;

/// Where it is mounted first.
const ROOT: &str = "/root";

/// What the kernel tries where no `init=` is given. Source: `kernel_init()` in init/main.c.
const INITS: [&str; 3] = ["/sbin/init", "/etc/init", "/bin/init"];

/// How long the device has to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// Goes over to the root file system that the command line names.
pub(crate) fn switch() -> ! {
    boot::mount_all();
    let modules = boot::load_modules(MODULES);
    let device = word("root=").unwrap_or_default();
    if !device.starts_with("/dev/") {
        die(&format!(
            "root={device} names no device; only /dev/... is known here, such as root=/dev/vda1"
        ));
    }
    let began = Instant::now();
    while !Path::new(&device).exists() {
        if began.elapsed() > PATIENCE {
            die(&format!(
                "there is no {device}; the kernel has {}{modules}",
                block_devices()
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    mount_root(&device);
    for place in ["/proc", "/sys", "/dev"] {
        let target = format!("{ROOT}{place}");
        // Where there is no place, the system does without.
        if Path::new(&target).is_dir() {
            let _ = mount(Some(place), &*target, none(), MsFlags::MS_MOVE, none());
        }
    }
    let moved = chdir(ROOT)
        .and_then(|()| mount(Some("."), "/", none(), MsFlags::MS_MOVE, none()))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"));
    if let Err(error) = moved {
        die(&format!("going over to {device}: {}", error.desc()));
    }
    let named = word("init=");
    let inits: Vec<&str> = match &named {
        Some(init) => vec![init],
        None => INITS.to_vec(),
    };
    let mut tried = String::new();
    for init in inits {
        // Returns only where it fails.
        let error = Command::new(init).env_clear().envs(ENVIRONMENT).exec();
        tried += &format!("; {init}: {error}");
    }
    die(&format!("{device} has no init that starts{tried}"))
}

/// What the kernel gives its first process.
const ENVIRONMENT: [(&str, &str); 2] = [("HOME", "/"), ("TERM", "linux")];

fn none() -> Option<&'static str> {
    None
}

/// Mounts `device` as one of the file systems that the kernel has.
fn mount_root(device: &str) {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known: Vec<&str> = known
        .lines()
        .filter(|line| !line.starts_with("nodev"))
        .map(str::trim)
        .collect();
    let named = word("rootfstype=");
    let kinds = match &named {
        Some(kind) => vec![kind.as_str()],
        None => known,
    };
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let flags = match line.split_whitespace().any(|word| word == "rw") {
        true => MsFlags::empty(),
        false => MsFlags::MS_RDONLY,
    };
    for kind in &kinds {
        if mount(Some(device), ROOT, Some(*kind), flags, none()).is_ok() {
            return;
        }
    }
    die(&format!(
        "{device} is none of these file systems: {}",
        kinds.join(", ")
    ))
}

fn block_devices() -> String {
    let folder = fs::read_dir("/sys/class/block");
    let entries = folder.map(|folder| folder.flatten().map(|entry| entry.file_name()));
    let mut names: Vec<String> = entries
        .map(|names| {
            names
                .map(|name| format!("/dev/{}", name.display()))
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    match names.is_empty() {
        true => "no block device".to_owned(),
        false => names.join(", "),
    }
}
