//! What is left of a guest on a real host when its QEMU has gone.
//!
//! | looked for | by | where it cannot be told |
//! |---|---|---|
//! | the VM | its folder in debugfs | no debugfs |
//! | guest_memfds of a TD | open files of all processes, by inode | not root; a mapping, or the kernel itself, that holds one |
//! | private key ids | the misc cgroup controller | there are or were other VMs |
//! | hugetlb pages | the pools | there are or were other VMs, or other processes map more or less |
//! | locked memory | Unevictable of /proc/meminfo | there are or were other VMs, or other processes lock more or less |

use std::time::{Duration, Instant};

use tdxlab_journal::{Ending, Reading, Taken};
use tdxlab_kernel::debugfs::VmFolder;
use tdxlab_kernel::in_use::{Inode, MachineUse, Others, Pool};

/// Longest that KVM's own threads may hold a VM whose process has ended, and what was its.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often that is looked at.
const TICK: Duration = Duration::from_millis(20);

/// KiB by which memory that cannot be reclaimed moves by itself: pages wait in lists of each CPU, and
/// files on a ramfs count as well.
const UNEVICTABLE_MOVES: u64 = 8 << 10;

/// The machine before a guest was started.
#[derive(Debug)]
pub(crate) struct Before {
    machine: MachineUse,
    others: Result<Others, String>,
    /// `None` for a guest that takes none.
    key_ids: Option<Reading<u64>>,
    pools: Vec<Pool>,
    unevictable: Reading<u64>,
}

/// Whose guest_memfds are looked for, and how the kernel names them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) inodes: Vec<Inode>,
    pub(crate) kind: &'static str,
}

impl Before {
    /// Before a guest that takes a key id if it is a TD.
    pub(crate) fn of(machine: MachineUse, td: bool) -> Before {
        Before {
            others: machine.others(),
            key_ids: td.then(|| machine.key_ids()),
            pools: machine.pools(),
            unevictable: machine.unevictable(),
            machine,
        }
    }

    /// Files of the guest's process that must be closed when it has gone.
    pub(crate) fn files(&self, pid: u32, kind: &'static str) -> Files {
        Files {
            inodes: self.machine.files(pid, kind),
            kind,
        }
    }

    /// The end of a guest whose process has ended. `own` is its VM; `log` reads the kernel's log.
    pub(crate) fn ending(
        &self,
        own: &Result<VmFolder, String>,
        files: &Files,
        log: impl FnOnce() -> Reading<Vec<String>>,
    ) -> Ending {
        // It waits for KVM's own threads, which may complain of what they tear down.
        let taken = self.taken(own, files);
        Ending {
            kernel_log: log(),
            taken,
        }
    }

    /// What the guest took. `own` is its VM.
    fn taken(&self, own: &Result<VmFolder, String>, files: &Files) -> Vec<Taken> {
        let until = Instant::now() + PATIENCE;
        let mut taken = vec![vm_left(own)];
        if !files.inodes.is_empty() {
            taken.push(self.still_open(files, until));
        }
        let key_ids = self.key_ids.as_ref().map(|before| {
            let now = || self.machine.key_ids();
            gauge("private key ids in use", before, 0, until, now)
        });
        let pools: Vec<Taken> = self
            .pools
            .iter()
            .map(|pool| self.pool(pool, until))
            .collect();
        let what = "KiB of memory that cannot be reclaimed (guest_memfds, mlock)";
        let now = || self.machine.unevictable();
        let locked = gauge(what, &self.unevictable, UNEVICTABLE_MOVES, until, now);
        let moved = Moved::between(&self.others, self.machine.others(), own);
        taken.extend(key_ids.map(|one| unless(one, moved.vms())));
        taken.extend(pools.into_iter().map(|one| unless(one, moved.huge())));
        taken.push(unless(locked, moved.locked()));
        taken
    }

    /// Pages of a pool; one that is gone has none in use.
    fn pool(&self, pool: &Pool, until: Instant) -> Taken {
        let now = || {
            let pools = self.machine.pools();
            let same = pools.into_iter().find(|one| one.size == pool.size);
            same.map_or(Reading::Read(0), |pool| pool.in_use)
        };
        let what = format!("hugetlb pages of {} in use or reserved", pool.size);
        gauge(&what, &pool.in_use, 0, until, now)
    }

    fn still_open(&self, files: &Files, until: Instant) -> Taken {
        let mut holders = self.machine.holders(&files.inodes, files.kind);
        while holders.value().is_some_and(|names| !names.is_empty()) && Instant::now() < until {
            std::thread::sleep(TICK);
            holders = self.machine.holders(&files.inodes, files.kind);
        }
        let (after, detail) = match holders {
            Reading::Read(names) => (Reading::Read(names.len() as u64), names.join(", ")),
            Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
                (Reading::missing(reason), String::new())
            }
        };
        Taken {
            detail,
            ..Taken::by_guest("guest_memfds of its QEMU that are open", after)
        }
    }
}

/// A gauge of the whole machine, once it is back or `until` has come.
fn gauge(
    what: &str,
    before: &Reading<u64>,
    slack: u64,
    until: Instant,
    now: impl Fn() -> Reading<u64>,
) -> Taken {
    let mut taken = Taken {
        before: before.value().copied().unwrap_or(0),
        slack,
        ..Taken::by_guest(what, before.clone())
    };
    if before.value().is_none() {
        return taken;
    }
    taken.after = now();
    while taken.is_too_much() && Instant::now() < until {
        std::thread::sleep(TICK);
        taken.after = now();
    }
    taken
}

/// Takes a reading back where others may have moved it.
fn unless(mut taken: Taken, moved: Option<String>) -> Taken {
    if let (Some(_), Some(why)) = (taken.after.value(), moved) {
        taken.after = Reading::missing(why);
    }
    taken
}

/// What others did while a guest was there.
enum Moved {
    Known {
        was: Others,
        /// Without the guest's own VM.
        is: Others,
    },
    Unknown(String),
}

impl Moved {
    fn between(
        was: &Result<Others, String>,
        is: Result<Others, String>,
        own: &Result<VmFolder, String>,
    ) -> Moved {
        match (was.clone(), is) {
            (Ok(was), Ok(mut is)) => {
                if let Some(own) = name_of(own) {
                    is.vms.remove(&own);
                }
                Moved::Known { was, is }
            }
            (Err(why), _) | (_, Err(why)) => {
                Moved::Unknown(format!("other VMs cannot be told from this one: {why}"))
            }
        }
    }

    /// Why what VMs take may have moved. One that was there all the time has taken its key id or its pages
    /// when its VMM asked for them, which may be long after its folder appeared.
    fn vms(&self) -> Option<String> {
        let why = match self {
            Moved::Unknown(why) => why.as_str(),
            Moved::Known { was, is } if was.vms != is.vms => "other VMs came or went meanwhile",
            Moved::Known { is, .. } if !is.vms.is_empty() => {
                "other VMs run, which take and give back as well"
            }
            Moved::Known { .. } => return None,
        };
        Some(why.to_owned())
    }

    /// Why hugetlb pools may have moved.
    fn huge(&self) -> Option<String> {
        self.vms().or_else(|| match self {
            Moved::Known { was, is } if was.huge != is.huge => {
                Some("other processes map more or fewer of them".to_owned())
            }
            _ => None,
        })
    }

    /// Why locked memory may have moved.
    fn locked(&self) -> Option<String> {
        self.vms().or_else(|| match self {
            Moved::Known { was, is } if was.locked != is.locked => {
                Some("other processes lock more or less".to_owned())
            }
            _ => None,
        })
    }
}

/// Whether the VM itself is left: one to which the kernel keeps a reference holds all it ever had, its
/// memory, its tables, its key id.
fn vm_left(folder: &Result<VmFolder, String>) -> Taken {
    let left = match folder {
        Ok(folder) => folder.left(PATIENCE),
        Err(reason) => Reading::missing(reason.clone()),
    };
    Taken::by_guest("VMs of its QEMU", left)
}

fn name_of(folder: &Result<VmFolder, String>) -> Option<String> {
    let name = folder.as_ref().ok()?.path().file_name()?;
    Some(name.to_string_lossy().into_owned())
}

#[cfg(test)]
pub(crate) mod tests;
