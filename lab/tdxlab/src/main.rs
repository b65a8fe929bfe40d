//! The binary: passes the command line to the library.

use std::process::ExitCode;

/// Hunts make and drop small things all the time, most of them on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tdxlab::cli::main(std::env::args_os())
}
