//! The command line from the outside.

mod commands;
mod diagnostics;
mod exit_codes;
mod fuzz;
mod init;
mod judge;
mod output;
mod readme;
mod replay;
mod reports;
