//! The `tdx` host, rehearsed: KVM's own TDX code and an unmodified QEMU in an emulated machine.
//!
//! `make test-rehearsal` runs these. They take parts of 404 MB to download once, and minutes, so
//! `cargo test` alone passes them over.

mod bisect;
mod bugs;
mod command;
mod compare;
mod designs;
mod fuzz;
mod lies;
mod linux;
mod own_kernel;
mod qemu;
mod stock;
