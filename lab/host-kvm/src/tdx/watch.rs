//! The witnesses of one TD: counters, split events, SEAMCALLs, the kernel log.

use std::path::Path;

use tdxlab_journal::{Ending, PageCounters, Reading, SplitEvent};
use tdxlab_kernel::debugfs::VmFolder;
use tdxlab_kernel::in_use::MachineUse;
use tdxlab_kernel::kmsg::{self, KernelLog};
use tdxlab_kernel::once;
use tdxlab_kernel::splits::Splits;
use tdxlab_qemu::fds;

use super::host::TdxHost;
use super::seamcalls::Seamcalls;
use crate::counted::Counted;
use crate::remains::{Before, Files};

/// The witnesses of one TD.
pub(super) struct Watch {
    counters: Result<VmFolder, String>,
    splits: Result<Splits, Reading<Vec<SplitEvent>>>,
    seamcalls: Result<Seamcalls, String>,
    log: KernelLog,
    /// Lines that were read to judge a death and belong to the next sample.
    unsampled: Reading<Vec<String>>,
    /// Threads whose split events are this TD's.
    threads: Vec<u32>,
    /// The machine before QEMU was started, and the files that must be closed once it has gone.
    before: Before,
    files: Files,
}

impl Watch {
    /// Witnesses that need no TD, opened before there is one.
    pub(super) fn open(host: &TdxHost) -> Watch {
        // Re-arm warnings that fired for another guest. If this fails, the report says so.
        let _ = once::rearm(&host.places.debugfs);
        Watch {
            counters: Err("the TD is not made yet".to_owned()),
            splits: Splits::watch(&host.places.tracefs, &[]),
            seamcalls: Seamcalls::watch(&host.places.tracefs),
            log: KernelLog::open(&host.places.kmsg),
            unsampled: Reading::Read(Vec::new()),
            threads: Vec::new(),
            before: Before::of(MachineUse::of_machine(&host.places.debugfs), true),
            files: Files::default(),
        }
    }

    /// Watches the TD of this QEMU, whose vCPUs run in these threads.
    pub(super) fn of(self, host: &TdxHost, pid: u32, threads: Vec<u32>) -> Watch {
        Watch {
            counters: VmFolder::find(&host.places.debugfs, pid),
            threads,
            files: self.before.files(pid, fds::GUEST_MEMFD),
            ..self
        }
    }

    /// The SEAMCALL probes, or why there are none.
    pub(super) fn seamcalls(&self) -> Result<String, String> {
        let seamcalls = self.seamcalls.as_ref().map_err(String::clone)?;
        Ok(seamcalls.described())
    }

    /// Writes the kernel's messages about a TD that was never created to `folder`.
    pub(super) fn leave_evidence(mut self, folder: &Path) {
        let log = match self.look_at_log() {
            Reading::Read(lines) => lines.join("\n") + "\n",
            Reading::Missing { reason } => format!("# the kernel log cannot be read: {reason}\n"),
            Reading::Incomplete { reason, rest } => {
                let lines = rest.as_deref().unwrap_or_default();
                format!("# not all that there was: {reason}\n{}\n", lines.join("\n"))
            }
        };
        // The failure is reported in any case; this is a best effort.
        let _ = std::fs::write(folder.join("kernel.log"), log);
    }

    /// Split events of this thread are this TD's from now on.
    pub(super) fn also(&mut self, thread: u32) {
        if !self.threads.contains(&thread) {
            self.threads.push(thread);
        }
    }

    /// What KVM and the SEAMCALL wrappers have counted so far.
    pub(super) fn counted(&mut self) -> Counted {
        let seamcalls = self.seamcalls.as_ref().ok();
        let tracks = seamcalls.and_then(|seamcalls| seamcalls.tracks(&self.threads));
        Counted::of_td(&self.counters, tracks)
    }

    /// The kernel log since the last sample, which it stays part of.
    pub(super) fn look_at_log(&mut self) -> &Reading<Vec<String>> {
        let seen = std::mem::replace(&mut self.unsampled, Reading::Read(Vec::new()));
        self.unsampled = kmsg::joined(seen, self.log.lines());
        &self.unsampled
    }

    /// Kernel messages since the last sample.
    pub(super) fn take_log(&mut self) -> Reading<Vec<String>> {
        self.look_at_log();
        std::mem::replace(&mut self.unsampled, Reading::Read(Vec::new()))
    }

    /// KVM's page counters.
    pub(super) fn counters(&self) -> Reading<PageCounters> {
        match &self.counters {
            Ok(folder) => folder.counters(),
            Err(reason) => Reading::missing(reason.clone()),
        }
    }

    /// Split events since the last sample.
    pub(super) fn splits(&mut self) -> Reading<Vec<SplitEvent>> {
        match &mut self.splits {
            Ok(splits) => {
                let own = |event: &SplitEvent| self.threads.contains(&event.tid);
                splits
                    .read()
                    .map(|events| events.into_iter().filter(own).collect())
            }
            Err(reading) => reading.clone(),
        }
    }

    /// Results of SEAMCALLs, as text for people.
    pub(super) fn seamcalls_text(&self) -> String {
        match &self.seamcalls {
            Ok(seamcalls) => seamcalls.to_text(),
            Err(reason) => format!("# {reason}\n"),
        }
    }

    /// What is left of a TD whose QEMU has gone.
    pub(super) fn ending(mut self) -> Ending {
        let log = || kmsg::joined(self.unsampled, self.log.lines());
        self.before.ending(&self.counters, &self.files, log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remains::tests::goes_late;

    #[test]
    fn what_the_kernel_says_while_the_td_goes_belongs_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (vm, log, before) = goes_late(folder.path());
        let watch = Watch {
            counters: Ok(vm),
            splits: Err(Reading::missing("no tracefs")),
            seamcalls: Err("no tracefs".to_owned()),
            log,
            unsampled: Reading::Read(vec!["earlier".to_owned()]),
            threads: Vec::new(),
            before,
            files: Files::default(),
        };
        let said = ["earlier", "WARNING: late"].map(str::to_owned);
        assert_eq!(watch.ending().kernel_log, Reading::Read(said.to_vec()));
    }
}
