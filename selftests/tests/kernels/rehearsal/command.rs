//! Calls `tdxlab rehearse`.

use std::path::Path;
use std::process::Output;

use tdxlab_selftests::command::{root, tdxlab};
use tdxlab_selftests::turn::Turn;

/// The program under test.
pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_tdxlab-under-test");

/// Runs `tdxlab rehearse` on parts that are there, with its report below `out`.
pub(super) fn rehearse(out: &Path, arguments: &[&str]) -> Output {
    let _turn = Turn::wait();
    let mut command = tdxlab(PROGRAM);
    command
        .current_dir(root())
        .args(["rehearse", "--offline", "--out"])
        .arg(out)
        .args(arguments);
    command.output().unwrap()
}

/// All output, for the message of a failed test.
pub(super) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}
