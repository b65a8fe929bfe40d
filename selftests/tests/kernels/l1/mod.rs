//! An L1, from outside and from inside.
//!
//! `TDXLAB_L1_KERNEL` names the kernel to boot; the distribution's own where it does not. What a
//! machine cannot do is skipped with the reason, unless it is asked for: an L1 by
//! `TDXLAB_REQUIRE_L1` or by `TDXLAB_L1_KERNEL=newest`, and with the newest kernel all that it has.

mod bad;
mod clock;
mod command;
mod fuzz;
mod gmem;
mod set;
mod skip;
mod two_vms;
