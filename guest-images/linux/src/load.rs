//! Processes that use memory, and fragmentation of memory.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork as fork_process};
use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::linux::{Failure, Outcome, Pages};

use crate::failure::{Doing, refuse};
use crate::memory::{Mapping, check_room};

const PAGE: u64 = PageLevel::Size4K.bytes();
const PAGES_2M: u32 = PageLevel::Size2M.pages_4k() as u32;

/// Processes map `bytes` together and write to each page once.
pub(crate) fn touch(
    bytes: u64,
    processes: u16,
    mut progress: impl FnMut(u64),
) -> Result<Outcome, Failure> {
    let share = bytes / u64::from(processes.max(1)) / PAGE * PAGE;
    if share == 0 {
        return Err(refuse("not a page for each process"));
    }
    check_room(bytes)?;
    let mut children = Vec::new();
    for _ in 0..processes {
        children.push(child(|| write_all(share))?);
    }
    let mut failed = 0;
    for (done, child) in (1..).zip(children) {
        failed += u16::from(!ended_well(child)?);
        progress(done * share);
    }
    Ok(Outcome::Loaded {
        bytes: share * u64::from(processes),
        failed,
    })
}

/// A process writes `bytes` and forks; each child writes to all of them, which Linux copies.
pub(crate) fn fork(
    bytes: u64,
    processes: u16,
    mut progress: impl FnMut(u64),
) -> Result<Outcome, Failure> {
    let bytes = bytes / PAGE * PAGE;
    check_room(bytes.saturating_mul(2))?;
    let mut failed = 0;
    for done in 1..=processes {
        let parent = child(|| {
            let mut memory = vec![1_u8; bytes as usize];
            let copies = child(|| {
                for byte in memory.iter_mut().step_by(PAGE as usize) {
                    *byte += 1;
                }
                std::hint::black_box(&memory);
                true
            });
            let copied = copies.and_then(ended_well).unwrap_or(false);
            // The same pages, shared with the child until it has written.
            std::hint::black_box(&memory);
            copied
        })?;
        failed += u16::from(!ended_well(parent)?);
        progress(u64::from(done) * bytes);
    }
    Ok(Outcome::Loaded {
        bytes: bytes * u64::from(processes),
        failed,
    })
}

fn write_all(bytes: u64) -> bool {
    let Ok(mapping) = Mapping::new(bytes, Pages::Transparent) else {
        return false;
    };
    mapping.populate(0, (bytes / PAGE) as u32).is_ok()
}

/// A child process that does `work` and ends well if that gives true.
fn child(work: impl FnOnce() -> bool) -> Result<nix::unistd::Pid, Failure> {
    // SAFETY: the agent has one thread, so that the child may do whatever the parent may.
    match unsafe { fork_process() }.doing("fork")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            // Where memory is short a load goes first.
            let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
            let code = i32::from(!work());
            // SAFETY: ends the child without the parent's clean-up.
            unsafe { libc::_exit(code) }
        }
    }
}

fn ended_well(child: nix::unistd::Pid) -> Result<bool, Failure> {
    let status = waitpid(child, None).doing("waiting for a process of the load")?;
    Ok(matches!(status, WaitStatus::Exited(_, 0)))
}

/// One page of every 2M of some memory: what keeps Linux from having 2M in one piece there.
pub(crate) struct Fragments {
    _held: Mapping,
}

impl Fragments {
    /// Takes `bytes` and gives back all but these pages.
    pub(crate) fn make(bytes: u64, mut progress: impl FnMut(u64)) -> Result<Fragments, Failure> {
        check_room(bytes)?;
        let mapping = Mapping::new(bytes, Pages::Small)?;
        let pages = (bytes / PAGE) as u32;
        for first in (0..pages).step_by(PAGES_2M as usize) {
            mapping.populate(first, PAGES_2M.min(pages - first))?;
            progress(u64::from(first) * PAGE);
        }
        for first in (0..pages).step_by(PAGES_2M as usize) {
            let others = (PAGES_2M - 1).min(pages - first - 1);
            if others != 0 {
                mapping.give_back(first + 1, others)?;
            }
        }
        Ok(Fragments { _held: mapping })
    }
}
