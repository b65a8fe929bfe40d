//! Plans for Linux guests: expectation, observation and verdict of each step.
//!
//! Invariant: what a step must show follows from its plan alone, or from how its memory was mapped
//! before.
//!
//! | file | what it does |
//! |---|---|
//! | `model` | what a step must show, from the plan |
//! | `observe` | does a step and records guest and host |
//! | `judge` | compares the two |
//! | `images` | the image of a plan |
//! | `own_disk` | plans on a user's own disk |
//! | `complaints` | which lines of a kernel log are complaints |
//! | `guest_log` | reads the log of a guest's kernel |
//! | `host` | what the host's kernel shows of leaves and splits |
//! | `leaves`, `ledger` | what a step must do to them |
//! | `laws` | compares those two, exactly or by what must hold |
//! | `demotes` | counts DEMOTEs where the module hides them |
//! | `unaccepted` | memory that Linux has not accepted yet |
//! | `attest` | TDREPORTs and quotes |
//! | `plug` | memory that is plugged into a running guest |
//! | `ending` | judges what is said and left at the end of a plan |
//! | `boot` | the account of a boot |
//! | `baseline` | judges a boot by an earlier run |
//! | `runner` | boots, runs the steps, writes journal and evidence |
//! | `set` | runs many plans |
//!
//! A step is judged in one of three ways, named in its report. *Exactly*, where the plan alone
//! determines the result: contents, sizes, pages under a hole, leaves under conversions. *By bounds* and
//! by what *must hold* whatever Linux does: how much memory it finds and touches, how many leaves it
//! has. Values that are only *shown*, such as times, are for
//! `report diff` and for people.

mod attest;
mod baseline;
mod boot;
mod complaints;
mod court;
mod demotes;
mod ending;
mod file;
mod guest_log;
mod host;
mod images;
mod judge;
mod laws;
mod leaves;
mod ledger;
mod model;
mod observe;
mod own_disk;
mod plug;
mod quote_buffer;
mod runner;
mod set;
#[cfg(test)]
mod tests;
mod unaccepted;

pub use baseline::Baseline;
pub use images::Images;
pub use runner::{LinuxCase, LinuxRunner, Place};
