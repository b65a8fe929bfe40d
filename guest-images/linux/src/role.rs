//! What this program is in a guest: its agent as the first process or beside others, or what starts a
//! guest that has an agent of its own.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use tdxlab_protocol::linux::{PUSHED, QEMU_GA};

const COMMAND_LINE: &str = "/proc/cmdline";

/// A part that this program plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The first process, and the agent.
    Agent,
    /// The agent on a system that has a first process of its own.
    Pushed,
    /// The first process of a system whose only other program is qemu-ga.
    QemuGa,
    /// The first process until the root file system is mounted.
    Root,
    /// The program that switches off a system without others.
    Shutdown,
    /// The program that changes permissions in it.
    Chmod,
    /// It was started by mistake.
    None,
}

static ROLE: OnceLock<Role> = OnceLock::new();

/// The role of this process.
pub(crate) fn role() -> Role {
    *ROLE.get_or_init(find)
}

fn find() -> Role {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    if std::process::id() != 1 {
        return match name.to_str() {
            Some("shutdown") => Role::Shutdown,
            Some("chmod") => Role::Chmod,
            _ if arguments.next().as_deref() == Some(PUSHED) => Role::Pushed,
            _ => Role::None,
        };
    }
    // An init on the root file system has another name: the kernel starts /init of an initramfs only.
    if program == "/init" && word("root=").is_some() {
        Role::Root
    } else if Path::new(QEMU_GA).exists() {
        Role::QemuGa
    } else {
        Role::Agent
    }
}

/// What stands behind `start` on the kernel's command line; the last one counts.
pub(crate) fn word(start: &str) -> Option<String> {
    if !Path::new(COMMAND_LINE).exists() {
        // The first process looks before it mounts all; that reports where it fails.
        let none = None::<&str>;
        let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none);
    }
    let line = fs::read_to_string(COMMAND_LINE).unwrap_or_default();
    let mut words = line.split_whitespace().rev();
    words
        .find_map(|word| word.strip_prefix(start))
        .map(str::to_owned)
}
