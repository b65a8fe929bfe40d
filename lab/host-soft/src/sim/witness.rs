//! The kernel interface files of `sim`, on disk or in memory.

use std::io;
use std::path::Path;

use tdxlab_journal::{PageCounters, Reading, SplitEvent};
use tdxlab_kernel::emulated::EmulatedFiles;
use tdxlab_kernel::tracefs::{self, Line};
use tdxlab_softkvm::memory::SimMachine;
use tdxlab_softkvm::{PageGauges, SoftKvm};

/// File descriptor number of the VM in the name of its debugfs folder.
const VM_FD: i32 = 12;

/// The witnesses of one VM.
#[derive(Debug)]
pub(super) struct Witnesses {
    /// The files; `None` if they are not wanted.
    files: Option<EmulatedFiles>,
    /// Text of each debugfs file at the last read.
    debugfs: Vec<(&'static str, String)>,
    /// Without files: the counters at the last read, and the reading.
    read: Option<(PageGauges, Reading<PageCounters>)>,
    trace: String,
    log: Vec<String>,
}

impl Witnesses {
    /// Files below `folder`, or none.
    pub(super) fn new(folder: Option<&Path>) -> io::Result<Witnesses> {
        let files = match folder {
            Some(folder) => Some(EmulatedFiles::new(folder, std::process::id(), VM_FD)?),
            None => None,
        };
        Ok(Witnesses {
            files,
            debugfs: Vec::new(),
            read: None,
            trace: String::new(),
            log: Vec::new(),
        })
    }

    /// The page counters. Only files whose text has changed are written.
    pub(super) fn counters(&mut self, core: &SoftKvm<SimMachine>) -> Reading<PageCounters> {
        let gauges = core.gauges();
        if let Some((seen, reading)) = &self.read
            && *seen == gauges
        {
            return reading.clone();
        }
        let now = core.debugfs();
        let reading = match &mut self.files {
            Some(files) => {
                let old = &self.debugfs;
                let changed: Vec<_> = now
                    .iter()
                    .filter(|file| !old.contains(file))
                    .cloned()
                    .collect();
                files.counters(&changed)
            }
            None => {
                let reading = counters(&now);
                self.read = Some((gauges, reading.clone()));
                reading
            }
        };
        self.debugfs = now;
        reading
    }

    /// Split events since the previous call.
    pub(super) fn splits(&mut self, core: &mut SoftKvm<SimMachine>) -> Reading<Vec<SplitEvent>> {
        let lines = core.take_trace();
        let reading = match &mut self.files {
            Some(files) => files.splits(&lines),
            None => splits(&lines),
        };
        self.trace.push_str(&lines);
        reading
    }

    /// Kernel log lines since the previous call.
    pub(super) fn kernel_log(&mut self, core: &mut SoftKvm<SimMachine>) -> Reading<Vec<String>> {
        let lines = core.take_log();
        let reading = match &mut self.files {
            Some(files) => files.kernel_log(&lines),
            None => Reading::Read(lines.clone()),
        };
        self.log.extend(lines);
        reading
    }

    /// All evidence, by file name.
    pub(super) fn evidence(&mut self, core: &mut SoftKvm<SimMachine>) -> Vec<(String, Vec<u8>)> {
        self.trace.push_str(&core.take_trace());
        self.log.extend(core.take_log());
        let log: String = self.log.iter().map(|line| format!("{line}\n")).collect();
        let mut files: Vec<(String, Vec<u8>)> = core
            .debugfs()
            .into_iter()
            .map(|(name, text)| (format!("debugfs-{name}"), text.into_bytes()))
            .collect();
        files.push(("trace".to_owned(), self.trace.clone().into_bytes()));
        files.push(("kernel.log".to_owned(), log.into_bytes()));
        files.push(("sept.txt".to_owned(), core.describe_memory().into_bytes()));
        files
    }
}

fn counters(files: &[(&'static str, String)]) -> Reading<PageCounters> {
    let number = |name: &str| {
        let (_, text) = files.iter().find(|(file, _)| *file == name)?;
        text.trim_end().parse().ok()
    };
    match (number("pages_4k"), number("pages_2m"), number("pages_1g")) {
        (Some(pages_4k), Some(pages_2m), Some(pages_1g)) => Reading::Read(PageCounters {
            pages_4k,
            pages_2m,
            pages_1g,
        }),
        _ => Reading::missing("the software KVM shows a page counter that is no number"),
    }
}

fn splits(lines: &str) -> Reading<Vec<SplitEvent>> {
    let mut events = Vec::new();
    for line in lines.lines() {
        match tracefs::parse_line(line) {
            Ok(Line::Split(event)) => events.push(event),
            Ok(Line::Lost(_)) => return Reading::missing("the trace lost events"),
            Ok(Line::Other) => {}
            Err(reason) => return Reading::missing(reason),
        }
    }
    Reading::Read(events)
}
