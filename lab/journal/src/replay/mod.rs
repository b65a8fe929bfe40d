//! Replay files: a plan with everything that is needed to run it again exactly as it was.
//!
//! A replay file is JSON: the origin, the steps in words (`story`, which is never read back), the
//! plan, and the order of turns in races where the seed alone does not determine it. Version 1 was
//! the bare plan; version 2 lacked starts of operations and allowed lines of the kernel log. Both
//! still run.
//!
//! | file | what it does |
//! |---|---|
//! | `file` | reads and writes replay files |
//! | `model` | content of a replay file |
//! | `orders` | rejects orders for steps that do not race |
//! | `origin` | extracts replays from a journal |
//! | `signature` | how a plan failed, in comparable form |

mod error;
mod file;
mod model;
mod orders;
mod origin;
mod signature;
#[cfg(test)]
mod tests;

pub use error::ReplayError;
pub use file::{FILE, read};
pub use model::{Replay, ReplayOrigin, VERSION};
pub use origin::{all, from_journal};
pub use signature::Signature;
