//! SIGINT and SIGTERM: the first ends the run in good order, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use tdxlab_qemu::interrupt::Interrupt;

use super::error::CliError;
use super::exit;

/// From now on signals raise the flag that every wait of the lab watches.
pub(super) fn install() -> Result<&'static Interrupt, CliError> {
    let flag = Interrupt::of_process();
    let twice = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let failed = |source| CliError::System {
            doing: "installing signal handlers".to_owned(),
            source,
        };
        // The order matters: the flag must still be down when the first signal comes by here.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(exit::INTERRUPTED),
            Arc::clone(&twice),
        )
        .map_err(failed)?;
        let twice = Arc::clone(&twice);
        // SAFETY: storing to an atomic and Interrupt::raise are async-signal-safe; the flag of
        // the process was made above.
        unsafe {
            signal_hook::low_level::register(signal, move || {
                twice.store(true, Ordering::SeqCst);
                flag.raise();
            })
        }
        .map_err(failed)?;
    }
    Ok(flag)
}
