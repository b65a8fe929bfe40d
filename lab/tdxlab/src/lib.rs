//! A test lab for how Linux KVM handles huge pages of Intel TDX guests.
//!
//! Invariant: the command line. Only this crate uses clap and indicatif; the crates below do the
//! work. It re-exports them for users of several.
//!
//! One step of one scenario, from YAML to verdict:
//!
//! 1. [`scenario`] reads the YAML and expands it into a [`plan`]: seeds drawn, addresses fixed.
//! 2. [`predict`] predicts the step from rules on ranges.
//! 3. [`host`] does it: on a TDX host ([`host_kvm`]), or in software with real page tables
//!    ([`host_soft`] over [`softkvm`]).
//! 4. [`kernel`] reads the kernel's interfaces: counters, events, page cache, kernel log.
//! 5. [`judge`] compares; [`run`] writes the [`journal`]; [`report`] renders it.

pub mod cli;

pub use tdxlab_faults as faults;
pub use tdxlab_fuzz as fuzz;
pub use tdxlab_host as host;
pub use tdxlab_host_kvm as host_kvm;
pub use tdxlab_host_soft as host_soft;
pub use tdxlab_journal as journal;
pub use tdxlab_judge as judge;
pub use tdxlab_kernel as kernel;
pub use tdxlab_l1 as l1;
pub use tdxlab_launch::{rounds, select, spec};
pub use tdxlab_plan as plan;
pub use tdxlab_plan::addr;
pub use tdxlab_predict as predict;
pub use tdxlab_qemu as qemu;
pub use tdxlab_report as report;
pub use tdxlab_run as run;
pub use tdxlab_scenario as scenario;
pub use tdxlab_softkvm as softkvm;
