//! The kernel interface files of the software KVM.
//!
//! They have the layout and text of a kernel's files and are read back by the same readers, so that
//! a bug in a reader shows on every laptop, not first on a TDX host.
//!
//! ```text
//! <folder>/debugfs/kvm/<pid>-<fd>/pages_4k ...
//! <folder>/tracefs/instances/tdxlab-<pid>/trace_pipe
//! <folder>/dev/kmsg
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tdxlab_journal::{PageCounters, Reading, SplitEvent};

use super::debugfs::VmFolder;
use super::kmsg::KernelLog;
use super::tracefs::TraceReader;

/// Facility 0, level 4, as of KVM's `pr_warn` and `pr_err`.
const PRINTK_PREFIX: u32 = 4;

/// The kernel files of one VM, written by the software KVM and read by the lab.
#[derive(Debug)]
pub struct EmulatedFiles {
    vm: VmFolder,
    /// What the files of the VM hold.
    written: BTreeMap<&'static str, String>,
    trace: Growing,
    log: Growing,
    trace_reader: TraceReader,
    log_reader: KernelLog,
    booted: Instant,
    log_lines: u64,
}

/// A file that only grows.
#[derive(Debug)]
struct Growing {
    path: PathBuf,
    file: File,
    /// Why it is not complete, once a write has failed.
    broken: Option<String>,
}

impl EmulatedFiles {
    /// Lays out the files in `folder` for the VM of process `pid` and file descriptor `fd`.
    ///
    /// # Errors
    ///
    /// The folder is not writable or the disk is full.
    pub fn new(folder: &Path, pid: u32, fd: i32) -> io::Result<EmulatedFiles> {
        let vm = VmFolder::new(&folder.join("debugfs"), pid, fd);
        fs::create_dir_all(vm.path())?;
        let instance = folder
            .join("tracefs/instances")
            .join(format!("tdxlab-{pid}"));
        let trace = Growing::create(&instance, "trace_pipe")?;
        // A reused process number must not bring old events with it. The log, as a kernel's, is one
        // for all VMs that are booted into the folder; readers start at its end.
        trace.file.set_len(0)?;
        let log = Growing::create(&folder.join("dev"), "kmsg")?;
        Ok(EmulatedFiles {
            vm,
            written: BTreeMap::new(),
            trace_reader: TraceReader::open(trace.path.clone()),
            log_reader: KernelLog::open(&log.path),
            trace,
            log,
            booted: Instant::now(),
            log_lines: 0,
        })
    }

    /// Writes the counters, each with the text the kernel would print, and reads them back.
    pub fn counters(&mut self, files: &[(&'static str, String)]) -> Reading<PageCounters> {
        for (name, text) in files {
            if self.written.get(name) == Some(text) {
                continue;
            }
            let path = self.vm.path().join(name);
            if let Err(error) = overwrite(&path, text) {
                self.written.remove(name);
                return Reading::missing(format!("writing {}: {error}", path.display()));
            }
            self.written.insert(name, text.clone());
        }
        self.vm.counters()
    }

    /// Appends trace lines and reads the split events among them.
    pub fn splits(&mut self, new_lines: &str) -> Reading<Vec<SplitEvent>> {
        match self.trace.append(new_lines) {
            Ok(()) => self.trace_reader.splits(),
            Err(reason) => Reading::missing(reason),
        }
    }

    /// Appends one record per line to the kernel log, and reads it back.
    pub fn kernel_log(&mut self, new_lines: &[String]) -> Reading<Vec<String>> {
        let mut records = String::new();
        for line in new_lines {
            let micros = self.booted.elapsed().as_micros();
            let line = line.replace('\n', "\\x0a");
            records.push_str(&format!(
                "{PRINTK_PREFIX},{},{micros},-;{line}\n",
                self.log_lines
            ));
            self.log_lines += 1;
        }
        match self.log.append(&records) {
            Ok(()) => self.log_reader.lines(),
            Err(reason) => Reading::missing(reason),
        }
    }
}

/// Replaces what a file holds, which is never empty: ext4 writes a file that was truncated to nothing
/// to the disk as soon as it is closed, milliseconds each time.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

impl Growing {
    fn create(folder: &Path, name: &str) -> io::Result<Growing> {
        fs::create_dir_all(folder)?;
        let path = folder.join(name);
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        Ok(Growing {
            path,
            file,
            broken: None,
        })
    }

    /// A partial write would corrupt every later reading, so all writes after a failure are
    /// refused.
    fn append(&mut self, text: &str) -> Result<(), String> {
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        if text.is_empty() {
            return Ok(());
        }
        self.file.write_all(text.as_bytes()).map_err(|error| {
            let reason = format!("writing {}: {error}", self.path.display());
            self.broken = Some(reason.clone());
            reason
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: &str = " CPU 0/TCG-1234    [001] d..1.  1234.567890: kvm_mmu_split_huge_page: gfn 40200 spte 86000000408000f3 level 2 errno 0\n";

    #[test]
    fn what_is_shown_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = EmulatedFiles::new(folder.path(), 1234, 9).unwrap();
        let files = |n: u64| {
            ["pages_4k", "pages_2m", "pages_1g"]
                .map(|name| (name, format!("{n}\n")))
                .to_vec()
        };
        for n in [700, 3] {
            let counters = kernel.counters(&files(n));
            assert_eq!(counters.value().unwrap().pages_2m, n);
        }
        assert_eq!(kernel.splits(SPLIT).value().unwrap().len(), 1);
        assert_eq!(kernel.splits("").value().unwrap().len(), 0);
        let said = vec!["kvm_intel: one".to_owned(), "two\nlines".to_owned()];
        assert_eq!(kernel.kernel_log(&said), Reading::Read(said));
        assert_eq!(kernel.kernel_log(&[]), Reading::Read(Vec::new()));
        assert!(folder.path().join("debugfs/kvm/1234-9/pages_4k").exists());
    }

    #[test]
    fn guests_that_follow_each_other_in_a_folder_start_afresh() {
        let folder = tempfile::tempdir().unwrap();
        for pid in [7, 7, 8] {
            let mut kernel = EmulatedFiles::new(folder.path(), pid, 9).unwrap();
            assert_eq!(kernel.splits(SPLIT).value().unwrap().len(), 1);
            let said = vec![format!("kvm_intel: {pid}")];
            assert_eq!(kernel.kernel_log(&said), Reading::Read(said));
        }
    }

    #[test]
    fn counters_that_are_not_shown_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = EmulatedFiles::new(folder.path(), 1, 9).unwrap();
        assert!(
            kernel
                .counters(&[("pages_4k", "1\n".into())])
                .value()
                .is_none()
        );
    }
}
