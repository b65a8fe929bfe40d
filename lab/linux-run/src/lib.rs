//! Plans for Linux guests: expectation, observation and verdict of each step.
//!
//! Invariant: the model follows the plan alone; it sees no guest, and the guest sees no model.
//!
//! | file | what it does |
//! |---|---|
//! | `model` | what a step must show, from the plan |
//! | `observe` | does a step and records guest and host |
//! | `judge` | compares the two |
//! | `runner` | boots, runs the steps, writes journal and evidence |
//!
//! A step is judged in one of three ways, named in its report. *Exactly*, where the plan alone
//! determines the result: contents, sizes, pages under a hole. *By bounds*, where Linux decides:
//! how much memory it finds and touches. Values that are only *shown*, such as times, are for
//! `report diff` and for people.

mod judge;
mod model;
mod observe;
mod runner;
#[cfg(test)]
mod tests;

pub use runner::{LinuxCase, LinuxRunner, Place};
