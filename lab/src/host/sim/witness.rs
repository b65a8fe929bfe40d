//! Witness files of `sim`: debugfs- and tracefs-shaped, in the kernel's formats.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::machine::SimMachine;
use crate::addr::Gpa;
use crate::host::softkvm::SoftKvm;
use crate::witness::{PageCounters, Reading, SplitEvent};

/// File descriptor number of the VM in the name of its debugfs directory.
const VM_FD: u32 = 12;

/// Head of a tracefs `trace` file.
const TRACE_HEAD: &str = "# tracer: nop\n#\n";

/// What others can see of the host: as files, or in memory where nobody looks at files.
#[derive(Debug)]
pub(super) struct WitnessFiles {
    folder: Option<PathBuf>,
    /// Text of each debugfs file as last written.
    debugfs: Vec<(&'static str, String)>,
    /// The trace up to now.
    trace: String,
    /// How much of the trace has been read.
    seen: usize,
    log: Vec<String>,
}

impl WitnessFiles {
    /// Files below `folder`, or none.
    pub(super) fn new(folder: Option<&Path>) -> WitnessFiles {
        WitnessFiles {
            folder: folder.map(Path::to_path_buf),
            debugfs: Vec::new(),
            trace: TRACE_HEAD.to_owned(),
            seen: TRACE_HEAD.len(),
            log: Vec::new(),
        }
    }

    /// Brings the files up to date and reads counters and new split events back.
    pub(super) fn sample(
        &mut self,
        core: &mut SoftKvm<SimMachine>,
    ) -> (Reading<PageCounters>, Reading<Vec<SplitEvent>>) {
        let lines = core.take_trace();
        self.trace.push_str(&lines);
        let debugfs = core.debugfs();
        let written = self.write(&debugfs, !lines.is_empty());
        self.debugfs = debugfs;
        match written.and_then(|()| self.read()) {
            Ok((counters, trace)) => {
                let splits = split_events(&trace[self.seen.min(trace.len())..]);
                self.seen = trace.len();
                (counters, splits)
            }
            Err(error) => {
                let reason = format!("witness files of sim: {error}");
                (
                    Reading::Missing {
                        reason: reason.clone(),
                    },
                    Reading::Missing { reason },
                )
            }
        }
    }

    /// New lines of the kernel log.
    pub(super) fn kernel_log(&mut self, core: &mut SoftKvm<SimMachine>) -> Reading<Vec<String>> {
        let lines = core.take_log();
        self.log.extend_from_slice(&lines);
        Reading::Read(lines)
    }

    /// Everything there is, by file name.
    pub(super) fn evidence(&mut self, core: &mut SoftKvm<SimMachine>) -> Vec<(String, Vec<u8>)> {
        self.trace.push_str(&core.take_trace());
        self.log.extend(core.take_log());
        let mut log = self.log.join("\n");
        if !log.is_empty() {
            log.push('\n');
        }
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

    fn vm_folder(&self) -> Option<PathBuf> {
        let name = format!("debugfs/kvm/{}-{VM_FD}", std::process::id());
        Some(self.folder.as_ref()?.join(name))
    }

    fn trace_file(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join("tracefs/instances/tdxlab/trace"))
    }

    fn write(&self, debugfs: &[(&'static str, String)], traced: bool) -> io::Result<()> {
        let (Some(vm), Some(trace)) = (self.vm_folder(), self.trace_file()) else {
            return Ok(());
        };
        let first = self.debugfs.is_empty();
        if first {
            fs::create_dir_all(&vm)?;
            if let Some(folder) = trace.parent() {
                fs::create_dir_all(folder)?;
            }
        }
        for (name, text) in debugfs {
            let old = self.debugfs.iter().find(|(old, _)| old == name);
            if old.is_none_or(|(_, old)| old != text) {
                fs::write(vm.join(name), text)?;
            }
        }
        if first || traced {
            fs::write(trace, &self.trace)?;
        }
        Ok(())
    }

    fn read(&self) -> io::Result<(Reading<PageCounters>, String)> {
        let (Some(vm), Some(trace)) = (self.vm_folder(), self.trace_file()) else {
            let text = |name| {
                let file = self.debugfs.iter().find(|(file, _)| *file == name);
                file.map_or(String::new(), |(_, text)| text.clone())
            };
            return Ok((
                counters(&text("pages_4k"), &text("pages_2m"), &text("pages_1g")),
                self.trace.clone(),
            ));
        };
        let text = |name| fs::read_to_string(vm.join(name));
        let counters = counters(&text("pages_4k")?, &text("pages_2m")?, &text("pages_1g")?);
        Ok((counters, fs::read_to_string(trace)?))
    }
}

fn counters(pages_4k: &str, pages_2m: &str, pages_1g: &str) -> Reading<PageCounters> {
    let number = |text: &str| text.trim_end().parse::<u64>();
    match (number(pages_4k), number(pages_2m), number(pages_1g)) {
        (Ok(pages_4k), Ok(pages_2m), Ok(pages_1g)) => Reading::Read(PageCounters {
            pages_4k,
            pages_2m,
            pages_1g,
        }),
        _ => Reading::Missing {
            reason: "debugfs of sim: a counter is not a number".to_owned(),
        },
    }
}

fn split_events(lines: &str) -> Reading<Vec<SplitEvent>> {
    let events: Option<Vec<SplitEvent>> = lines.lines().map(split_event).collect();
    match events {
        Some(events) => Reading::Read(events),
        None => Reading::Missing {
            reason: "tracefs of sim: a line is not a split event".to_owned(),
        },
    }
}

fn split_event(line: &str) -> Option<SplitEvent> {
    let (head, event) = line.split_once(": kvm_mmu_split_huge_page: ")?;
    let (task, _) = head.split_once(" [")?;
    let (_, tid) = task.trim_end().rsplit_once('-')?;
    let mut words = event.split_ascii_whitespace();
    let mut field = |name| (words.next()? == name).then(|| words.next()).flatten();
    let gfn = u64::from_str_radix(field("gfn")?, 16).ok()?;
    field("spte")?;
    let level = field("level")?.parse().ok()?;
    let errno = field("errno")?.parse().ok()?;
    Some(SplitEvent {
        gpa: Gpa::from_gfn(gfn),
        level,
        errno,
        tid: tid.parse().ok()?,
    })
}
