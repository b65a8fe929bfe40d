//! Whole runs: the host they are on, their folder and reports, once or over many rounds.
//!
//! Invariant: knows all kinds of hosts and every report, and no command line.
//!
//! | file | holds |
//! |---|---|
//! | `select` | the host that is asked for, or the best of this machine |
//! | `spec` | a run: folder, journal, plans, reports |
//! | `rounds` | the same scenarios over and over, without reports |
//! | `busy` | load on all CPUs meanwhile |

pub mod busy;
pub mod rounds;
pub mod select;
pub mod spec;

#[cfg(test)]
mod tests;
