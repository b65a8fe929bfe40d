//! The machine as its files show it, and the plainest facts about it.

use std::path::{Path, PathBuf};

use super::Fact;

/// Where the files of a machine are: `/`, or a recorded tree of them.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This machine.
    pub fn this() -> Machine {
        Machine { root: "/".into() }
    }

    /// A machine whose `/proc` and `/sys` were recorded below `root`.
    pub fn recorded(root: &Path) -> Machine {
        Machine {
            root: root.to_owned(),
        }
    }

    /// Where a file of it is.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a small file, without white space around it.
    pub(super) fn read(&self, path: &str) -> std::io::Result<String> {
        std::fs::read_to_string(self.path(path)).map(|text| text.trim().to_owned())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Major and minor version of its kernel.
    pub(super) fn kernel_version(&self) -> Option<(u32, u32)> {
        let release = self.read("/proc/sys/kernel/osrelease").ok()?;
        let mut parts = release.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

pub(super) fn kernel(machine: &Machine) -> Fact {
    match machine.read("/proc/sys/kernel/osrelease") {
        Ok(release) => Fact::usable("kernel", format!("Linux {release}")),
        Err(error) => Fact::limited("kernel", format!("/proc is not readable: {error}")),
    }
}

/// Processors and memory.
pub(super) fn memory(machine: &Machine) -> Fact {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let available = machine
        .read("/proc/meminfo")
        .ok()
        .and_then(|text| field_kib(&text, "MemAvailable:"))
        .map(|kib| kib / 1024);
    let found = match available {
        Some(mib) => format!("{processors} processors, {mib} MiB available"),
        None => format!("{processors} processors, memory unknown"),
    };
    match available {
        Some(mib) if mib < 256 => {
            Fact::limited("memory", found).advise("a guest of the soft host needs about 100 MiB")
        }
        _ => Fact::usable("memory", found),
    }
}

/// A number of KiB in the format of /proc/meminfo.
pub(super) fn field_kib(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
