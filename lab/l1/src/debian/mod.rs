//! Debian packages by name, without changing the machine: none is installed, and missing package
//! lists are fetched into the lab's own folder.

mod apt;
pub(crate) mod closure;
pub(crate) mod complaint;
pub(crate) mod deb;
pub(crate) mod kernel;
