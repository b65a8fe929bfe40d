//! Environment variables that more than one part of the lab reads.

/// Set inside an L1, which boots no further L1.
pub const INSIDE_L1: &str = "TDXLAB_L1";
