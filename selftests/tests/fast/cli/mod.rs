//! Tests of the command line, through the program.

mod commands;
mod continued;
mod diagnostics;
mod exit_codes;
mod first_hour;
mod fuzz;
mod init;
mod interrupt;
mod judge;
mod output;
mod readme;
mod replay;
mod reports;
mod words;
