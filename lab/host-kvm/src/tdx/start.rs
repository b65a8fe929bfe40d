//! Barrier at which the branches of a race start together, and the time at which each operation is
//! due.

use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

/// How much of a wait is spent looking at the clock: sleep ends later than it should.
const LOOKING: Duration = Duration::from_micros(300);

/// The line at which all branches wait until the last is ready.
#[derive(Debug)]
pub(super) struct StartBarrier {
    barrier: Barrier,
    began: OnceLock<Instant>,
    longest: Duration,
}

impl StartBarrier {
    /// A barrier for so many threads; the longest recorded delay is capped at `longest`.
    pub(super) fn new(threads: usize, longest: Duration) -> StartBarrier {
        StartBarrier {
            barrier: Barrier::new(threads),
            began: OnceLock::new(),
            longest,
        }
    }

    /// Waits for all others. The race begins when the last has come.
    pub(super) fn ready(&self) {
        self.barrier.wait();
        self.began();
    }

    fn began(&self) -> Instant {
        *self.began.get_or_init(Instant::now)
    }

    /// Waits until an operation is due, counted from the start of the race, and returns the actual
    /// time: at once if it is overdue or was not recorded.
    pub(super) fn wait_for(&self, due: Option<Duration>) -> Duration {
        let began = self.began();
        if let Some(due) = due.map(|due| due.min(self.longest)) {
            let left = due.saturating_sub(began.elapsed());
            std::thread::sleep(left.saturating_sub(LOOKING));
            while began.elapsed() < due {
                std::hint::spin_loop();
            }
        }
        began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_starts_before_the_last_is_there_or_before_it_is_due() {
        let line = StartBarrier::new(2, Duration::from_secs(10));
        let due = Duration::from_millis(2);
        std::thread::scope(|scope| {
            let early = scope.spawn(|| {
                line.ready();
                line.wait_for(Some(due))
            });
            std::thread::sleep(Duration::from_millis(5));
            assert!(!early.is_finished(), "it started alone");
            line.ready();
            let at = line.wait_for(None);
            let later = line.wait_for(Some(at));
            assert!(at <= later);
            assert!(early.join().unwrap() >= due);
        });
    }
}
