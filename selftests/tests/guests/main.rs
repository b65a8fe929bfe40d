//! What boots guests in a QEMU of this machine.

mod kill;
mod scenarios;
mod soft;
