//! Shared code of the self tests.

pub mod command;
pub mod failing;
pub mod programs;
pub mod recorded;
pub mod turn;
pub mod uefi_disk;
