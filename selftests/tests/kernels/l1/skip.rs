//! When a test may be skipped.

/// Whether this is the inside of an L1.
pub(super) fn is_inside() -> bool {
    std::env::var_os(tdxlab::qemu::environment::INSIDE_L1).is_some()
}

/// Whether the newest kernel is selected, which has all features that are tested.
pub(super) fn is_newest() -> bool {
    std::env::var_os("TDXLAB_L1_KERNEL").is_some_and(|kernel| kernel == "newest")
}

/// Prints why a test is skipped; panics if it is required.
#[track_caller]
pub(super) fn skip(required: bool, why: &str) {
    assert!(!required, "must be tested here: {why}");
    eprintln!("skipped: {why}");
}
