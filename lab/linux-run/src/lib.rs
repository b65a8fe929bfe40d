//! Plans for Linux guests: what each step must show, what it showed, and what is said of it.
//!
//! Invariant: the model follows the plan alone; it sees no guest, and the guest sees no model.
//!
//! | file | what it does |
//! |---|---|
//! | `model` | what a step must show, from the plan |
//! | `observe` | does a step and takes down what guest and host show |
//! | `judge` | holds the one against the other |
//! | `runner` | boots, goes through the steps, writes the journal, leaves evidence |
//!
//! A step is judged in one of three ways, and its report says which. *Exactly*, where the plan
//! alone says what must come out: contents, sizes, what lies under a hole. *By bounds*, where Linux
//! decides: how much memory it finds and touches. What is only *shown*, such as times, is for
//! `report diff` and for people.

mod judge;
mod model;
mod observe;
mod runner;
#[cfg(test)]
mod tests;

pub use runner::{LinuxCase, LinuxRunner, Place};
