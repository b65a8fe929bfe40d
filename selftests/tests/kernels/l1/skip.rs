//! When a test may be skipped.

/// Whether this is the inside of an L1.
pub(super) fn is_inside() -> bool {
    std::env::var_os(tdxlab::qemu::environment::INSIDE_L1).is_some()
}

/// Whether the newest kernel is asked for, which lacks nothing that is tested.
pub(super) fn is_newest() -> bool {
    std::env::var_os("TDXLAB_L1_KERNEL").is_some_and(|kernel| kernel == "newest")
}

/// Says why a test does not test, where it may do so.
#[track_caller]
pub(super) fn skip(required: bool, why: &str) {
    assert!(!required, "must be tested here: {why}");
    eprintln!("skipped: {why}");
}
