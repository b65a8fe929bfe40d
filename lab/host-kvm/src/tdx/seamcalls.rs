//! The TDX module's own answers: return values of the kernel's SEAMCALL wrappers, by kprobes.
//!
//! Counters can move although the S-EPT did not follow; these calls change the S-EPT. They are not
//! judged but written to a file, since kernels differ in the calls they make.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use tdxlab_kernel::instance::Instance;
use tdxlab_kernel::returned::Returns;

/// The wrappers, in arch/x86/virt/vmx/tdx/tdx.c.
const FUNCTIONS: [&str; 5] = [
    "tdh_mem_page_aug",
    "tdh_mem_range_block",
    "tdh_mem_page_demote",
    "tdh_mem_page_remove",
    TRACK,
];

const TRACK: &str = "tdh_mem_track";

/// A watch on the wrappers.
#[derive(Debug)]
pub(super) struct Seamcalls {
    watched: Vec<(&'static str, Returns)>,
    absent: Vec<String>,
    /// Why no thread's calls can be told from others'.
    nobodys: Option<String>,
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
        let mut watched = Vec::new();
        let mut absent = Vec::new();
        for function in FUNCTIONS {
            match instance.probe_return(function) {
                Ok(returns) => watched.push((function, returns)),
                Err(reason) => absent.push(reason),
            }
        }
        if watched.is_empty() {
            return Err(format!("no SEAMCALL can be watched: {}", absent[0]));
        }
        Ok(Seamcalls {
            watched,
            absent,
            nobodys: instance.names_our_threads().err(),
            _instance: instance,
        })
    }

    /// Which are watched, and which are not.
    pub(super) fn described(&self) -> String {
        let mut text = format!(
            "{} of {} wrappers are watched",
            self.watched.len(),
            FUNCTIONS.len()
        );
        for reason in &self.absent {
            let _ = write!(text, "; not watched: {reason}");
        }
        if let Some(reason) = &self.nobodys {
            let _ = write!(text, "; not told apart by thread: {reason}");
        }
        text
    }

    /// TRACKs that these threads have made so far; `None` where they are not watched, the threads cannot be
    /// told apart, or some were lost.
    pub(super) fn tracks(&self, threads: &[u32]) -> Option<u64> {
        if self.nobodys.is_some() {
            return None;
        }
        let (_, returns) = self.watched.iter().find(|(name, _)| *name == TRACK)?;
        let all = returns.read().ok()?;
        let made = all
            .iter()
            .filter(|returned| returned.value == 0 && threads.contains(&returned.thread));
        Some(made.map(|returned| returned.count).sum())
    }

    /// How often each was called, by return value.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::from("# SEAMCALL wrapper, return value, calls (whole machine)\n");
        for (function, returns) in &self.watched {
            let mut counts = BTreeMap::<u64, u64>::new();
            match returns.read() {
                Ok(all) => {
                    for returned in all {
                        *counts.entry(returned.value).or_default() += returned.count;
                    }
                }
                Err(reason) => {
                    let _ = writeln!(text, "# not counted: {function}: {reason}");
                }
            }
            for (value, count) in counts {
                let _ = writeln!(text, "{function} {value:#x} {count}");
            }
        }
        for reason in &self.absent {
            let _ = writeln!(text, "# not watched: {reason}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_can_be_watched_it_is_said() {
        assert!(Seamcalls::watch(Path::new("/nonexistent")).is_err());
    }
}
