//! What the host's kernel shows of a Linux guest on KVM: leaves, splits, and in a rehearsal the S-EPT.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tdxlab_journal::{PageCounters, Reading, SplitEvent};
use tdxlab_kernel::debugfs::{self, VmFolder};
use tdxlab_kernel::instance::threads_of;
use tdxlab_kernel::kmsg::{self, KernelLog};
use tdxlab_kernel::software_module::{Calls, Sept};
use tdxlab_kernel::splits::Splits;
use tdxlab_kernel::{once, query_stats, tracefs};
use tdxlab_linux::LinuxGuest;

use super::complaints;
use crate::demotes::Demotes;

/// Longest that QEMU may take to answer `query-stats`.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a VM may stay after the end of its QEMU.
const END: Duration = Duration::from_secs(5);

/// The witnesses of one guest.
pub(crate) struct HostWitnesses {
    folder: Result<VmFolder, String>,
    splits: Result<Splits, Reading<Vec<SplitEvent>>>,
    demotes: Demotes,
    log: KernelLog,
    pid: u32,
    /// Threads of QEMU so far; one that has ended has still made its calls and splits.
    threads: BTreeSet<u32>,
}

/// What they show at one time.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Page counters in debugfs.
    pub(crate) counters: Reading<PageCounters>,
    /// The same through QEMU.
    pub(crate) query_stats: Reading<PageCounters>,
    /// Split events of this guest since the last sample.
    pub(crate) splits: Reading<Vec<SplitEvent>>,
    /// VM exits so far; `None` where they cannot be read.
    pub(crate) exits: Option<u64>,
    /// The S-EPT, which only the module of a rehearsal shows.
    pub(crate) sept: Reading<Sept>,
    /// What that module has done.
    pub(crate) calls: Reading<Calls>,
    /// DEMOTEs by KVM's calls so far.
    pub(crate) demotes: Reading<u64>,
    /// Complaints in the host's kernel log since the last sample.
    pub(crate) complaints: Reading<Vec<String>>,
}

impl HostWitnesses {
    /// Opens those that need no VM, before there is one.
    pub(crate) fn open() -> HostWitnesses {
        // Warnings that fired for another guest fire again. Where that fails, they stay silent.
        let _ = once::rearm(Path::new(debugfs::ROOT));
        let mut splits = Splits::watch(Path::new(tracefs::ROOT), &[]);
        let demotes = Demotes::watch(splits.as_mut());
        HostWitnesses {
            demotes,
            folder: Err("the VM is not made yet".to_owned()),
            splits,
            log: KernelLog::open(Path::new(kmsg::DEVICE)),
            pid: 0,
            threads: BTreeSet::new(),
        }
    }

    /// Reads all of them.
    pub(crate) fn sample(&mut self, guest: &mut LinuxGuest) -> Sample {
        if self.folder.is_err() {
            self.pid = guest.pid();
            self.folder = VmFolder::find(Path::new(debugfs::ROOT), self.pid);
        }
        let query_stats = query_stats::read(guest.qmp(), PATIENCE);
        self.of_kernel(query_stats)
    }

    fn of_kernel(&mut self, query_stats: Reading<PageCounters>) -> Sample {
        self.threads.extend(threads_of(self.pid));
        let folder = self.folder.as_ref().ok();
        Sample {
            counters: self.in_folder(VmFolder::counters),
            query_stats,
            exits: folder.and_then(|folder| folder.number("exits").ok()),
            sept: self.in_folder(Sept::read),
            calls: self.in_folder(Calls::read),
            splits: self.new_splits(),
            demotes: self.demotes.read(&self.threads),
            complaints: self.complaints(),
        }
    }

    /// What the VM's folder shows.
    fn in_folder<T>(&self, read: impl FnOnce(&VmFolder) -> Reading<T>) -> Reading<T> {
        match &self.folder {
            Ok(folder) => read(folder),
            Err(reason) => Reading::missing(reason.clone()),
        }
    }

    /// Split events of this guest's threads: all splits of a TD are done by its vCPUs' threads.
    fn new_splits(&mut self) -> Reading<Vec<SplitEvent>> {
        let own = |event: &SplitEvent| self.threads.contains(&event.tid);
        match &mut self.splits {
            Ok(splits) => splits
                .read()
                .map(|events| events.into_iter().filter(own).collect()),
            Err(reading) => reading.clone(),
        }
    }

    /// Complaints in the host's kernel log since the last look.
    pub(crate) fn complaints(&mut self) -> Reading<Vec<String>> {
        let lines = self.log.lines();
        lines.map(|lines| complaints::in_host_log(&lines))
    }

    /// After QEMU's end: how many VMs are left of it, and the host's complaints.
    pub(crate) fn end(&mut self) -> (Reading<u64>, Reading<Vec<String>>) {
        let left = self.in_folder(|folder| folder.left(END));
        (left, self.complaints())
    }
}
