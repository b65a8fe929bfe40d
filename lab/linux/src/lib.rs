//! Linux guests: a real Linux, with an agent in it that finds whose data a page holds.
//!
//! Invariant: nothing here judges.
//!
//! | module | what it does |
//! |---|---|
//! | [`image`] | kernel and initramfs, built once and cached by their inputs |
//! | `image_options` | what it is made of |
//! | `initramfs` | what the kernel starts with: agent, modules, qemu-ga |
//! | `kernel_modules` | which modules those are |
//! | [`pages_module`] | builds the kernel module through which pages are converted |
//! | [`machine`] | QEMU's command line and the kernel's |
//! | [`guest`] | a running guest: boots, answers, powers off |
//! | [`answer`] | the agent's answer to a request, checked for plausibility |
//! | [`memory`] | the guest's memory on the host |
//! | [`account`] | the guest kernel's account of its memory and health |
//! | [`pusher`] | brings the agent into a system that runs, through qemu-ga |
//! | [`disk`] | a user's own disk image |
//! | `loaders` | what on it can start it |
//! | [`firmware`] | finds firmware for TDs and for disks that UEFI starts |
//! | [`quotes`] | plays the quote generation service of a TD's VMM |
//! | [`error`] | errors, each with a remedy |

pub mod account;
pub mod answer;
mod buffers;
pub mod disk;
pub mod error;
pub mod firmware;
pub mod guest;
mod hash;
pub mod image;
mod image_options;
mod initramfs;
mod kernel_modules;
mod loaders;
pub mod machine;
pub mod memory;
pub mod pages_module;
pub mod pusher;
mod pusher_error;
pub mod quotes;
mod running;

pub use self::error::LinuxError;
pub use self::guest::LinuxGuest;
pub use self::image::{ImageOptions, LinuxImage};
pub use self::loaders::Loaders;
pub use self::machine::{Board, Machine};
