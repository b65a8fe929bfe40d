//! Tests that boot guests in this machine's QEMU.

mod kill;
mod linux;
mod scenarios;
mod soft;
