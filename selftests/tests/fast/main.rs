//! Tests without a guest or a kernel: the command line, the book, the rules of the source tree.

mod book;
mod cli;
mod house;
mod setup;
mod sweep;
