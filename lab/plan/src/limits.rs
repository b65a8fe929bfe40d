//! Bounds of a plan from any source: a scenario, a replay file, a random draw.

pub use tdxlab_protocol::layout::{MAX_VCPUS, WINDOW_BYTES};
pub use tdxlab_protocol::message::MAX_TASKS as MAX_BRANCHES;

/// End of what test memory may take below 4 GiB.
pub const LOW_END: u64 = 2 << 30;

/// Bound on memory slots.
pub const MAX_SLOTS: usize = 64;

/// Most bytes of initial image.
pub const MAX_IMAGE: u64 = 1 << 30;

/// Most operations of a plan.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most single actions of one operation (ACCEPTs, accesses, 4K pages of a fill or a prefault):
/// 16 GiB at 4K, 8 TiB at 2M.
pub const MAX_ACTIONS: u64 = 4 << 20;
