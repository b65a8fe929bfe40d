//! The module's rules, call by call.

mod bench;
mod guest;
mod host;
mod tree;
