//! QEMU as the lab uses it: configured by its command line, controlled over inherited sockets, and
//! unable to outlive the lab.
//!
//! Invariant: this crate knows no kind of host.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`] | a typed description and its command line |
//! | [`Ram`] | the guest's memory |
//! | [`installed`] | finding QEMU and its version |
//! | [`process`] | starting it, noticing its end at once, ending it |
//! | [`patience`] | how long a guest that lives is waited for |
//! | [`qmp`] | the one QMP client of the lab |
//! | [`qga`] | the one client of qemu-ga, QEMU's agent in guests |
//! | [`conversation`] | messages to and from a program in a guest |
//! | [`agent`] | the conversation with the micro guest |
//! | [`fds`] | duplicating its memory file descriptors |
//! | [`scratch`] | temporary folders that do not stay when the lab is killed |
//! | [`head_tail`], [`mod@cut`] | bounds on what is kept and shown |
//! | [`error`] | errors, each with a remedy |

pub mod agent;
pub mod command;
pub mod conversation;
pub mod cut;
pub mod environment;
pub mod error;
pub mod fds;
pub mod head_tail;
pub mod installed;
pub mod interrupt;
pub mod patience;
pub mod process;
pub mod qga;
pub mod qmp;
mod ram;
mod record;
pub mod scratch;
mod socket;
mod spawner;
pub mod version;

pub use self::command::{Accelerator, CommandLine, Cpu, Image, Line, QemuCommand};
pub use self::error::QemuError;
pub use self::installed::Installed;
pub use self::process::Process;
pub use self::qga::Qga;
pub use self::qmp::Qmp;
pub use self::ram::{RAM_ID, Ram, RamBacking, TestPages};
pub use self::version::Version;
