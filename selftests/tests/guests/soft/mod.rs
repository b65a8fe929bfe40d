//! The host `soft` through its interface: a real guest in a real QEMU, and failures of either.

mod boot;
mod booted;
mod operations;
mod races;
mod unhappy;
mod used_qemu;
