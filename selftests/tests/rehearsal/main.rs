//! The `tdx` host, rehearsed: QEMU's own TDX code on a real KVM, in an emulated machine.
//!
//! `make test-rehearsal` runs these. They take parts of 411 MB to download once, and minutes, so
//! `cargo test` alone passes them over.

mod fuzz;
mod lies;
mod qemu;
mod stock;

use std::path::Path;
use std::process::Output;

use tdxlab_selftests::command::{root, tdxlab};
use tdxlab_selftests::turn::Turn;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tdxlab-under-test");

/// Runs `tdxlab rehearse` on parts that are there, with its report below `out`.
fn rehearse(out: &Path, arguments: &[&str]) -> Output {
    let _turn = Turn::wait();
    let mut command = tdxlab(PROGRAM);
    command
        .current_dir(root())
        .args(["rehearse", "--offline", "--out"])
        .arg(out)
        .args(arguments);
    command.output().unwrap()
}

/// All that was said, for a person to read where a test fails.
fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}
