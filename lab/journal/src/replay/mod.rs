//! Replay files: a plan with everything that is needed to run it again exactly as it was.
//!
//! A replay file is JSON for people and programs: what was recorded where, the steps told in words
//! (`story`, which is never read back), the plan, and the order in which racing operations took
//! turns where the seed alone does not give it. Version 1 was the bare plan, and version 2 knew no starts
//! of operations and no lines of the kernel log that may appear; both still run.
//!
//! | file | what it does |
//! |---|---|
//! | `file` | reads and writes replay files |
//! | `model` | what a replay file holds |
//! | `orders` | refuses orders of steps that do not race |
//! | `origin` | takes replays out of a journal |
//! | `signature` | how a plan failed, in few words |

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
