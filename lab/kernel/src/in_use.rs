//! What guests take from a machine, as its kernel counts it.
//!
//! | reading | counts |
//! |---|---|
//! | [`MachineUse::key_ids`] | private key ids of TDs: the resource `tdx` of the misc cgroup controller |
//! | [`MachineUse::pools`] | hugetlb pages in use or reserved, of each size that has a pool |
//! | [`MachineUse::unevictable`] | memory that cannot be reclaimed: guest_memfds, mlock(2) |
//! | [`MachineUse::holders`] | processes that have a file open, found by its inode |
//!
//! All but the last are of the whole machine. [`MachineUse::others`] tells what else could have moved them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tdxlab_journal::Reading;

use crate::meminfo::field_kib;

/// Where a kernel shows what is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineUse {
    /// `/sys/fs/cgroup`.
    pub cgroups: PathBuf,
    /// `/sys/kernel/mm`.
    pub mm: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// Root of debugfs.
    pub debugfs: PathBuf,
}

impl MachineUse {
    /// This machine, with its debugfs there.
    pub fn of_machine(debugfs: &Path) -> MachineUse {
        MachineUse {
            cgroups: "/sys/fs/cgroup".into(),
            mm: "/sys/kernel/mm".into(),
            proc: "/proc".into(),
            debugfs: debugfs.to_owned(),
        }
    }
}

/// A file, whoever has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode {
    device: u64,
    number: u64,
}

/// A hugetlb pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of its pages, as the kernel writes it: `2048kB`.
    pub size: String,
    /// Pages in use, and pages reserved for mappings that have not touched them.
    pub in_use: Reading<u64>,
}

/// Users of memory and key ids other than one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// VMs that KVM has, by the names of their folders.
    pub vms: BTreeSet<String>,
    /// KiB of hugetlb pages that processes map, all together.
    pub huge: u64,
    /// KiB that processes have locked, all together.
    pub locked: u64,
}

impl MachineUse {
    /// Private key ids that TDs hold.
    pub fn key_ids(&self) -> Reading<u64> {
        // The root counts for all below it from Linux 6.11 on; before, its children do.
        let why = match counted(&self.cgroups) {
            Ok(count) => return Reading::Read(count),
            Err(why) => why,
        };
        let children = fs::read_dir(&self.cgroups).into_iter().flatten().flatten();
        let counts: Vec<u64> = children
            .filter_map(|child| counted(&child.path()).ok())
            .collect();
        match counts.is_empty() {
            true => Reading::missing(why),
            false => Reading::Read(counts.iter().sum()),
        }
    }

    /// The hugetlb pools that have pages.
    pub fn pools(&self) -> Vec<Pool> {
        let folder = self.mm.join("hugepages");
        let mut pools: Vec<Pool> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let size = name.strip_prefix("hugepages-")?.to_owned();
                let number = |name: &str| number(&entry.path().join(name));
                if number("nr_hugepages") == Ok(0) {
                    return None;
                }
                let in_use = || {
                    let used = number("nr_hugepages")?.saturating_sub(number("free_hugepages")?);
                    Ok::<_, String>(used.saturating_add(number("resv_hugepages")?))
                };
                let in_use = in_use().map_or_else(Reading::missing, Reading::Read);
                Some(Pool { size, in_use })
            })
            .collect();
        pools.sort_by(|one, other| one.size.cmp(&other.size));
        pools
    }

    /// KiB of memory that cannot be reclaimed.
    pub fn unevictable(&self) -> Reading<u64> {
        let path = self.proc.join("meminfo");
        match fs::read_to_string(&path) {
            Ok(text) => match field_kib(&text, "Unevictable:") {
                Some(kib) => Reading::Read(kib),
                None => Reading::missing(format!("{} has no line Unevictable", path.display())),
            },
            Err(error) => Reading::missing(format!("{}: {error}", path.display())),
        }
    }

    /// Who else uses the machine now.
    ///
    /// # Errors
    ///
    /// VMs cannot be listed; as text.
    pub fn others(&self) -> Result<Others, String> {
        let kvm = self.debugfs.join("kvm");
        let folder = fs::read_dir(&kvm).map_err(|error| format!("{}: {error}", kvm.display()))?;
        let vms = folder.flatten().filter(|entry| entry.path().is_dir());
        let names = vms.filter_map(|entry| entry.file_name().into_string().ok());
        let mut others = Others {
            vms: names.collect(),
            ..Others::default()
        };
        for process in self.processes() {
            let Ok(status) = fs::read_to_string(process.join("status")) else {
                // It has ended.
                continue;
            };
            let kib = |name| field_kib(&status, name).unwrap_or(0);
            others.huge = others.huge.saturating_add(kib("HugetlbPages:"));
            others.locked = others.locked.saturating_add(kib("VmLck:"));
        }
        Ok(others)
    }

    /// Open files of a process whose link text contains `kind`.
    pub fn files(&self, pid: u32, kind: &str) -> Vec<Inode> {
        let folder = self.proc.join(format!("{pid}/fd"));
        let mut files: Vec<Inode> = open_files(&folder, kind)
            .map(|files| files.map(|(inode, _)| inode).collect())
            .unwrap_or_default();
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Processes that have one of these files open, which are of this kind: `812 (collector)`.
    pub fn holders(&self, files: &[Inode], kind: &str) -> Reading<Vec<String>> {
        let mut holders = Vec::new();
        let mut closed = 0_u64;
        for process in self.processes() {
            match open_files(&process.join("fd"), kind) {
                Ok(mut open) => {
                    if open.any(|(inode, _)| files.contains(&inode)) {
                        holders.push(named(&process));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed += 1,
                // It has ended.
                Err(_) => {}
            }
        }
        match (holders.is_empty(), closed) {
            (true, 1..) => Reading::missing(format!(
                "open files of {closed} processes may not be seen by this user: run as root"
            )),
            _ => Reading::Read(holders),
        }
    }

    fn processes(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let entries = fs::read_dir(&self.proc).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_pid = name.bytes().all(|byte| byte.is_ascii_digit());
            is_pid.then(|| entry.path())
        })
    }
}

/// The resource of the misc controller.
const RESOURCE: &str = "tdx";

/// Key ids that a group counts.
fn counted(group: &Path) -> Result<u64, String> {
    let path = group.join("misc.current");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let line = text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == RESOURCE).then(|| value.trim().parse().ok())?
    });
    line.ok_or_else(|| format!("{} has no line {RESOURCE}", path.display()))
}

fn number(path: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = text.trim();
    text.parse()
        .map_err(|_| format!("{} holds {text:?}", path.display()))
}

/// Open files whose link text contains `kind`, with that text.
fn open_files(
    folder: &Path,
    kind: &str,
) -> io::Result<impl Iterator<Item = (Inode, String)> + use<>> {
    let kind = kind.to_owned();
    let entries = fs::read_dir(folder)?.flatten();
    Ok(entries.filter_map(move |entry| {
        let path = entry.path();
        let text = fs::read_link(&path).ok()?.to_string_lossy().into_owned();
        if !text.contains(&kind) {
            return None;
        }
        let about = fs::metadata(&path).ok()?;
        let inode = Inode {
            device: about.dev(),
            number: about.ino(),
        };
        Some((inode, text))
    }))
}

fn named(process: &Path) -> String {
    let pid = process.file_name().unwrap_or_default().to_string_lossy();
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    format!("{pid} ({})", name.trim())
}

#[cfg(test)]
mod tests;
