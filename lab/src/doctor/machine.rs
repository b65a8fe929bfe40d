//! The machine as its files show it, and the plainest facts about it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kvm_ioctls::Kvm;

use super::Fact;
use crate::qemu::{Installed, QemuError, Version};
use crate::witness::kmsg::{self, Record};

/// Where the files of a machine are: `/`, or a recorded tree of them.
///
/// What a tree of files cannot hold is recorded in files of its folder `answers`:
///
/// | file | content |
/// |---|---|
/// | `kvm` | lines of a capability's number and KVM_CHECK_EXTENSION's answer; none: no `/dev/kvm` |
/// | `kernel-log` | messages of the kernel, oldest first; none: not readable |
/// | `qemu-version` | what `qemu --version` prints; none: no QEMU |
/// | `qemu-objects` | what `qemu -object help` prints |
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    recorded: bool,
}

/// Most messages of a kernel log that are looked through.
const MOST_MESSAGES: usize = 100_000;

/// Longest message of a kernel log, with what comes before and after it.
const MESSAGE_BYTES: usize = 16 << 10;

impl Machine {
    /// This machine.
    pub fn this() -> Machine {
        Machine {
            root: "/".into(),
            recorded: false,
        }
    }

    /// A machine whose `/proc` and `/sys` were recorded below `root`.
    pub fn recorded(root: &Path) -> Machine {
        Machine {
            root: root.to_owned(),
            recorded: true,
        }
    }

    /// Whether this is not the machine the lab runs on.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded
    }

    fn answer(&self, name: &str) -> io::Result<String> {
        self.read(&format!("/answers/{name}"))
    }

    /// What KVM answers to KVM_CHECK_EXTENSION.
    pub(super) fn kvm_extension(&self, capability: u32) -> io::Result<i32> {
        if !self.recorded {
            let kvm = Kvm::new().map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
            return Ok(kvm.check_extension_raw(capability.into()));
        }
        let text = self.answer("kvm")?;
        let answer = text.lines().find_map(|line| {
            let (number, value) = line.split_once(' ')?;
            (number.parse() == Ok(capability))
                .then(|| value.trim().parse())?
                .ok()
        });
        // A kernel that does not know a capability answers 0.
        Ok(answer.unwrap_or(0))
    }

    /// Messages of its kernel that satisfy `wanted`, oldest first.
    pub(super) fn kernel_messages(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        if self.recorded {
            let text = self.answer("kernel-log")?;
            let lines = text.lines().filter(|line| wanted(line));
            return Ok(lines.map(str::to_owned).collect());
        }
        let mut log = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(kmsg::DEVICE)?;
        let mut found = Vec::new();
        let mut record = [0; MESSAGE_BYTES];
        for _ in 0..MOST_MESSAGES {
            let count = match log.read(&mut record) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Messages were overwritten while they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) => return Err(error),
            };
            let text = String::from_utf8_lossy(&record[..count]);
            // What is not the kernel's own may say anything. Further lines are about the origin.
            let record = text.lines().next().and_then(Record::parse);
            let message = record.filter(|record| record.facility == 0 && wanted(&record.text));
            found.extend(message.map(|record| record.text));
        }
        Ok(found)
    }

    /// Its QEMU, if that is `needed` or newer.
    pub(super) fn qemu(&self, needed: Version) -> Result<Installed, QemuError> {
        if !self.recorded {
            return Installed::find(needed);
        }
        let missing = || QemuError::Missing {
            tried: vec!["qemu-system-x86_64".to_owned()],
        };
        let banner = self.answer("qemu-version").map_err(|_| missing())?;
        let program = PathBuf::from("/usr/bin/qemu-system-x86_64");
        let version = Version::parse(&banner).ok_or_else(missing)?;
        if version < needed {
            return Err(QemuError::TooOld {
                program,
                found: version,
                needed,
            });
        }
        Ok(Installed {
            program,
            version,
            banner,
        })
    }

    /// What that QEMU says to `-object help`.
    pub(super) fn qemu_objects(&self, qemu: &Installed) -> Result<String, QemuError> {
        if self.recorded {
            return Ok(self.answer("qemu-objects").unwrap_or_default());
        }
        qemu.objects()
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
