//! Ending a run from outside: a flag that every wait of the lab watches.
//!
//! A signal handler sets it. From then on each wait for a guest or for QEMU returns `Interrupted`,
//! sessions are dropped, and QEMU with them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A flag that can be raised in a signal handler and waited for in `poll`. Once raised it stays.
#[derive(Debug)]
pub struct Interrupt {
    raised: AtomicBool,
    event: Option<EventFd>,
}

impl Interrupt {
    /// A flag that is not raised.
    pub fn new() -> Interrupt {
        Interrupt {
            raised: AtomicBool::new(false),
            // Out of file descriptors, the flag alone still works: every wait looks at it each
            // time it wakes up.
            event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok(),
        }
    }

    /// The flag of this process, which its signal handler raises.
    pub fn of_process() -> &'static Interrupt {
        static FLAG: OnceLock<Interrupt> = OnceLock::new();
        FLAG.get_or_init(Interrupt::new)
    }

    /// Raises it. Async-signal-safe, provided [`Interrupt::of_process`] was called before the
    /// handler was installed.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        if let Some(event) = &self.event {
            let _ = event.write(1);
        }
    }

    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Readable from the moment it is raised, for `poll`.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(|event| event.as_fd())
    }
}

impl Default for Interrupt {
    fn default() -> Self {
        Interrupt::new()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn once_raised_it_stays() {
        let interrupt = Interrupt::new();
        assert!(!interrupt.is_raised());
        interrupt.raise();
        interrupt.raise();
        for _ in 0..2 {
            let fd = interrupt.as_fd().unwrap();
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(1));
        }
        assert!(interrupt.is_raised());
    }
}
