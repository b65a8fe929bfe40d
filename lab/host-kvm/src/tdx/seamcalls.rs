//! The TDX module's own answers: return values of the kernel's SEAMCALL wrappers, by kprobes.
//!
//! Counters can move although the S-EPT did not follow; these calls change the S-EPT. They are not
//! judged but written to a file, since kernels differ in the calls they make.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tdxlab_kernel::instance::Instance;

/// The wrappers, in arch/x86/virt/vmx/tdx/tdx.c.
const FUNCTIONS: [(&str, &str); 5] = [
    ("aug", "tdh_mem_page_aug"),
    ("block", "tdh_mem_range_block"),
    ("demote", "tdh_mem_page_demote"),
    ("remove", "tdh_mem_page_remove"),
    ("track", "tdh_mem_track"),
];

/// Most different return values kept for one function.
const MAX_VALUES: usize = 64;

/// Most threads whose TRACKs are counted, of the whole machine.
const MAX_THREADS: usize = 4096;

/// A watch on the wrappers.
#[derive(Debug)]
pub(super) struct Seamcalls {
    pipe: File,
    unread: String,
    counts: BTreeMap<(String, u64), u64>,
    /// TRACKs that were done, by the thread that made them.
    tracks: BTreeMap<u32, u64>,
    /// Whether the trace has lost calls.
    lost: bool,
    absent: Vec<String>,
    /// Last, since the kernel removes no instance that is being read.
    _instance: Instance,
}

impl Seamcalls {
    /// Attaches to all wrappers that exist.
    ///
    /// # Errors
    ///
    /// There are none; as text.
    pub(super) fn watch(tracefs: &Path) -> Result<Seamcalls, String> {
        let mut instance = Instance::new(tracefs)?;
        let mut absent = Vec::new();
        for (name, function) in FUNCTIONS {
            if let Err(reason) = instance.probe_return(name, function) {
                absent.push(reason);
            }
        }
        if absent.len() == FUNCTIONS.len() {
            return Err(format!("no SEAMCALL can be watched: {}", absent[0]));
        }
        let pipe = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(instance.pipe())
            .map_err(|error| format!("{}: {error}", instance.pipe().display()))?;
        Ok(Seamcalls {
            _instance: instance,
            pipe,
            unread: String::new(),
            counts: BTreeMap::new(),
            tracks: BTreeMap::new(),
            lost: false,
            absent,
        })
    }

    /// Which are watched, and which are not.
    pub(super) fn described(&self) -> String {
        let mut text = format!(
            "{} of {} wrappers are watched",
            FUNCTIONS.len() - self.absent.len(),
            FUNCTIONS.len()
        );
        for reason in &self.absent {
            let _ = write!(text, "; not watched: {reason}");
        }
        text
    }

    /// Reads the calls since the last time.
    pub(super) fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = self.pipe.read(&mut buffer) {
            self.unread
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
            while let Some(end) = self.unread.find('\n') {
                let line: String = self.unread.drain(..=end).collect();
                self.lost |= line.contains("LOST");
                if let Some(thread) = tracked_by(&line)
                    && (self.tracks.contains_key(&thread) || self.tracks.len() < MAX_THREADS)
                {
                    *self.tracks.entry(thread).or_default() += 1;
                }
                if let Some(call) = parse(&line)
                    && (self.counts.contains_key(&call)
                        || self.counts.len() < MAX_VALUES * FUNCTIONS.len())
                {
                    *self.counts.entry(call).or_default() += 1;
                }
            }
        }
    }

    /// TRACKs that these threads have made so far; `None` where they are not watched, or some were
    /// lost.
    pub(super) fn tracks(&self, threads: &[u32]) -> Option<u64> {
        let unwatched = |reason: &String| reason.starts_with("tdh_mem_track");
        if self.lost || self.tracks.len() >= MAX_THREADS || self.absent.iter().any(unwatched) {
            return None;
        }
        let made = threads.iter().filter_map(|thread| self.tracks.get(thread));
        Some(made.sum())
    }

    /// How often each was called, by return value.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::from("# SEAMCALL wrapper, return value, calls (whole machine)\n");
        for ((name, value), count) in &self.counts {
            let function = FUNCTIONS.iter().find(|(known, _)| known == name);
            let function = function.map_or(name.as_str(), |(_, function)| function);
            let _ = writeln!(text, "{function} {value:#x} {count}");
        }
        for reason in &self.absent {
            let _ = writeln!(text, "# not watched: {reason}");
        }
        text
    }
}

/// `  qemu-7  [001] d..1.  1.5: aug: (tdx_sept_set+0x1 <- tdh_mem_page_aug) ret=0x0`.
fn parse(line: &str) -> Option<(String, u64)> {
    let (before, value) = line.trim_end().rsplit_once(" ret=0x")?;
    let value = u64::from_str_radix(value, 16).ok()?;
    let (context, _) = before.split_once(": (")?;
    let name = context.rsplit_once(": ")?.1;
    Some((name.to_owned(), value))
}

/// The thread that has made a TRACK, if the line tells of one that was done.
fn tracked_by(line: &str) -> Option<u32> {
    let (name, 0) = parse(line)? else {
        return None;
    };
    let (task, _) = line.split_once(" [").filter(|_| name == "track")?;
    task.trim_end().rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_from_trace_lines() {
        let line = "  CPU 0/KVM-77   [001] d..1.  12.345678: demote: (tdx_split+0x5/0x10 [kvm_intel] \
                    <- tdh_mem_page_demote) ret=0x8000020000000092\n";
        assert_eq!(
            parse(line),
            Some(("demote".to_owned(), 0x8000_0200_0000_0092))
        );
        assert_eq!(tracked_by(line), None);
        let track = "  CPU 0/KVM-77   [001] d..1.  12.3: track: (tdx_track+0x5/0x10 [kvm_intel] \
                     <- tdh_mem_track) ret=0x0\n";
        assert_eq!(tracked_by(track), Some(77));
        let busy = track.replace("ret=0x0", "ret=0x8000020000000001");
        assert_eq!(tracked_by(&busy), None);
        assert_eq!(parse("CPU:1 [LOST 3 EVENTS]\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn where_nothing_can_be_watched_it_is_said() {
        assert!(Seamcalls::watch(Path::new("/nonexistent")).is_err());
    }
}
