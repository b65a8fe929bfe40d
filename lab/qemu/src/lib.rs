//! QEMU as the lab uses it: a process that is told everything on its command line and over
//! inherited sockets, and that cannot outlive the lab.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`] | a typed description and the command line it stands for |
//! | [`Ram`] | the guest's memory |
//! | [`installed`] | finding QEMU and asking it for its version |
//! | [`process`] | starting it, noticing its end at once, ending it |
//! | [`qmp`] | the one QMP client of the lab |
//! | [`fds`] | taking its memory files from outside |
//! | [`error`] | what can go wrong with it, and what to do about it |

pub mod agent;
pub mod command;
pub mod environment;
pub mod error;
pub mod fds;
pub mod head_tail;
pub mod installed;
pub mod interrupt;
pub mod process;
pub mod qmp;
mod ram;
mod spawner;
pub mod version;

pub use self::command::{Accelerator, CommandLine, Cpu, Image, Line, QemuCommand};
pub use self::error::QemuError;
pub use self::installed::Installed;
pub use self::process::Process;
pub use self::qmp::Qmp;
pub use self::ram::{RAM_ID, Ram, RamBacking, TestPages};
pub use self::version::Version;
