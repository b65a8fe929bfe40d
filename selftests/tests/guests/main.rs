//! Tests that boot guests in this machine's QEMU.

mod fleet;
mod kill;
mod linux;
mod scenarios;
mod soft;
