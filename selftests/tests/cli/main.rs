//! The command line from the outside.

mod commands;
mod diagnostics;
mod exit_codes;
mod output;
mod readme;
mod replay;
mod reports;
