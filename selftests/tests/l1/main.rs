//! Real kernels: guest_memfd of this machine's, and the KVM of one that is booted in QEMU.
//!
//! `TDXLAB_L1_KERNEL` names the kernel to boot; the distribution's own where it does not. What a
//! machine cannot do is skipped with the reason, unless it is asked for: an L1 by
//! `TDXLAB_REQUIRE_L1` or by `TDXLAB_L1_KERNEL=newest`, and with the newest kernel all that it has.

mod bad;
mod clock;
mod fuzz;
mod gmem;
mod set;
mod two_vms;

/// Whether this is the inside of an L1.
fn is_inside() -> bool {
    std::env::var_os(tdxlab::qemu::environment::INSIDE_L1).is_some()
}

/// Whether the newest kernel is asked for, which lacks nothing that is tested.
fn is_newest() -> bool {
    std::env::var_os("TDXLAB_L1_KERNEL").is_some_and(|kernel| kernel == "newest")
}

/// Says why a test does not test, where it may do so.
#[track_caller]
fn skip(required: bool, why: &str) {
    assert!(!required, "must be tested here: {why}");
    eprintln!("skipped: {why}");
}
