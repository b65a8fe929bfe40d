//! Linux guests: the guest that people run, with an agent in it that finds out whose data it is.
//!
//! | module | what it does |
//! |---|---|
//! | [`image`] | kernel and initramfs, made once and kept by what they were made of |
//! | [`pages_module`] | builds the kernel module through which pages are converted |
//! | [`machine`] | QEMU's command line and the kernel's |
//! | [`guest`] | a running guest: boots, answers, powers off |
//! | [`conversation`] | bytes to messages and back |
//! | [`answer`] | the agent's answer to a request, held against what can be |
//! | [`memory`] | the guest's memory as the host has it |
//! | [`account`] | what the guest kernel says of its memory and of its health |
//! | [`firmware`] | finds what starts a TD |
//! | [`error`] | what can go wrong, and what to do about it |

pub mod account;
pub mod answer;
pub mod conversation;
pub mod error;
pub mod firmware;
pub mod guest;
mod hash;
pub mod image;
pub mod machine;
pub mod memory;
pub mod pages_module;

pub use self::error::LinuxError;
pub use self::guest::LinuxGuest;
pub use self::image::{ImageOptions, LinuxImage};
pub use self::machine::{Board, Machine};
