//! What a first process does as long as it lives.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Buries the dead: orphans of a load become children of the first process.
pub(crate) fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
