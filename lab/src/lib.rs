//! A test lab for how Linux KVM handles huge pages of Intel TDX guests.
//!
//! One step of one scenario, from YAML to verdict:
//!
//! 1. [`scenario`] reads the YAML and makes a [`plan`] of it: seeds drawn, addresses fixed.
//! 2. [`predict`] says what the step must show, from rules on ranges.
//! 3. [`host`] does it: on a TDX host, or in software that really keeps page tables.
//! 4. [`witness`] reads what can be seen from outside: counters, events, page cache, kernel log.
//! 5. [`run`] compares, judges and writes the journal; [`report`] renders the journal.

pub mod agent;
pub mod cli;
pub mod doctor;
pub mod faults;
pub mod fuzz;
pub mod host;
pub mod l1;
pub mod plan;
pub mod predict;
pub mod qemu;
pub mod qualify;
pub mod rehearse;
pub mod replay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod soak;
mod sync;
pub mod witness;

pub use tdxlab_protocol::addr;
