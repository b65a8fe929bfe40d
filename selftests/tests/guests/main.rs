//! What boots guests in a QEMU of this machine.

mod kill;
mod linux;
mod scenarios;
mod soft;
