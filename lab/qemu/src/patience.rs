//! How long a guest is waited for.
//!
//! What it prints shows that it lives, and not that it gets on: a kernel whose processor is stuck complains
//! of that two or three times a minute for ever. So its words renew the patience with a guest up to a bound,
//! and what it was to do renews both.

use std::time::{Duration, Instant};

/// Longest that a chatty guest may take for one thing, in units of the patience with a silent one.
pub const MOST_PATIENCE: u32 = 10;

/// The wait for one thing.
#[derive(Debug)]
pub struct Waiting {
    patience: Duration,
    /// The last thing that it was to do, or the start.
    progress: Instant,
    /// The last sign of life.
    sign: Instant,
}

/// Why a guest is waited for no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It has been silent for so long.
    Silent(Duration),
    /// It has done nothing for so long but speak.
    Babbling(Duration),
}

impl Waiting {
    /// From `now` on.
    pub fn new(patience: Duration, now: Instant) -> Waiting {
        Waiting {
            patience,
            progress: now,
            sign: now,
        }
    }

    /// It has done a part of what it was to do.
    pub fn progress(&mut self, now: Instant) {
        *self = Waiting::new(self.patience, now);
    }

    /// It has said something.
    pub fn sign(&mut self, now: Instant) {
        self.sign = now;
    }

    /// Whether the wait is over.
    pub fn over(&self, now: Instant) -> Option<Over> {
        let silent = now.saturating_duration_since(self.sign);
        if silent > self.patience {
            return Some(Over::Silent(silent));
        }
        let idle = now.saturating_duration_since(self.progress);
        (idle > self.patience.saturating_mul(MOST_PATIENCE)).then_some(Over::Babbling(idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A guest that prints every 30 seconds.
    #[test]
    fn words_renew_the_patience_up_to_a_bound() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut waiting = Waiting::new(PATIENCE, start);
        for seconds in (0..=600).step_by(30) {
            assert_eq!(waiting.over(at(seconds)), None, "{seconds}");
            waiting.sign(at(seconds));
        }
        let bound = Duration::from_secs(630);
        assert_eq!(waiting.over(at(630)), Some(Over::Babbling(bound)));
        waiting.progress(at(630));
        assert_eq!(waiting.over(at(690)), None);
        let silent = Duration::from_secs(61);
        assert_eq!(waiting.over(at(691)), Some(Over::Silent(silent)));
    }
}
