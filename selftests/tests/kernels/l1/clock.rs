//! The clock of an L1's kernel.

use super::skip::{is_inside, skip};

/// A timer reprogrammed at each interrupt would hang an L1 whose emulated processor loses one.
#[test]
fn an_l1_has_a_clock_that_ticks_for_itself() {
    if !is_inside() {
        return skip(false, "this is no L1");
    }
    let timers = std::fs::read_to_string("/proc/timer_list").unwrap();
    let handlers: Vec<&str> = timers
        .lines()
        .filter_map(|line| line.trim().strip_prefix("event_handler:"))
        .map(str::trim)
        .collect();
    assert!(handlers.contains(&"tick_handle_periodic"), "{handlers:?}");
    assert!(!handlers.contains(&"hrtimer_interrupt"), "{handlers:?}");
}
