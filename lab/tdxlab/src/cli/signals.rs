//! SIGINT and SIGTERM: the first ends the run in an orderly way, a later one at once.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM};
use tdxlab_qemu::interrupt::Interrupt;

use super::error::CliError;
use super::exit;

/// A signal this soon after the first is the same request: `timeout` signals its child and then the
/// group that the child is in, and some engines do alike.
const ECHO_MILLIS: u64 = 500;

/// When the first signal came, in milliseconds; 0 for none yet.
static FIRST: AtomicU64 = AtomicU64::new(0);

/// From now on signals raise the flag that every wait of the lab watches.
pub(super) fn install() -> Result<&'static Interrupt, CliError> {
    let flag = Interrupt::of_process();
    for signal in [SIGINT, SIGTERM] {
        // SAFETY: reading a clock, atomics, Interrupt::raise and _exit are async-signal-safe; the
        // flag of the process was made above.
        unsafe {
            signal_hook::low_level::register(signal, move || {
                let now = millis().max(1);
                let first = FIRST.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
                match first {
                    Err(first) if now.saturating_sub(first) >= ECHO_MILLIS => {
                        signal_hook::low_level::exit(i32::from(exit::INTERRUPTED));
                    }
                    _ => flag.raise(),
                }
            })
        }
        .map_err(|source| CliError::System {
            doing: "installing signal handlers".to_owned(),
            source,
        })?;
    }
    Ok(flag)
}

/// A file that grows past its limit (`ulimit -f`) is an error of the write, not the end of the program.
pub(super) fn survive_file_limits() {
    // SAFETY: to ignore a signal runs no code.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Milliseconds on a clock that only goes forward.
fn millis() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds * 1000 + nanos / 1_000_000
    })
}
