//! Packages of Debian by name, without a change to the machine: nothing is installed, and package
//! lists that are missing are fetched into a folder of the lab's own.

mod apt;
pub(crate) mod closure;
mod complaint;
pub(crate) mod deb;
pub(crate) mod kernel;
