//! The host `soft` from the outside: a real guest in a real QEMU, and everything that can go wrong
//! with either.

mod boot;
mod booted;
mod operations;
mod races;
mod unhappy;
