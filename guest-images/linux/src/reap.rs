//! Duty of the first process for its whole life: reaping children.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Reaps orphans of a load, which become children of the first process.
pub(crate) fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
