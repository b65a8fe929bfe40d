//! L1s, seen from the host and from inside.
//!
//! `TDXLAB_L1_KERNEL` names the kernel to boot; by default the distribution's own. Tests that the
//! machine cannot run are skipped with the reason, unless required: an L1 by `TDXLAB_REQUIRE_L1` or
//! by `TDXLAB_L1_KERNEL=newest`, and with the newest kernel all of its features.

mod bad;
mod clock;
mod command;
mod fuzz;
mod gmem;
mod set;
mod skip;
mod two_vms;
