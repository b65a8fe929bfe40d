//! What a Linux kernel shows, and what a machine can do.
//!
//! Invariant: nothing here changes the machine beyond a tracefs instance of its own, and which one-shot
//! warnings have fired.
//!
//! | reader | reads |
//! |---|---|
//! | [`debugfs`] | the page counters of one VM |
//! | [`query_stats`] | the same counters, through QEMU's monitor |
//! | [`tracefs`] | split events |
//! | [`instance`] | a private instance of tracefs to read them from |
//! | [`cachestat`] | populated pages of a guest_memfd |
//! | [`kmsg`] | the kernel log |
//! | [`once`] | nothing: it has warnings fire again that a kernel gives once a boot |
//!
//! [`doctor`] says what this machine can do. [`emulated`] holds the files in which the software KVM shows itself: laid out and worded like a
//! kernel's, so that the same readers read both.

pub mod cachestat;
pub mod debugfs;
pub mod doctor;
pub mod emulated;
pub mod instance;
pub mod kmsg;
pub mod once;
pub mod query_stats;
pub mod tracefs;
