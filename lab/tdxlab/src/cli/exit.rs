//! What the exit code says. Scripts and CI go by these, so they never change their meaning.

use std::process::ExitCode;

/// Everything that ran passed.
pub const PASSED: u8 = 0;
/// Something failed: the host or the guest did wrong.
pub const FAILED: u8 = 1;
/// Nothing ran, because every scenario was skipped. (kselftest's code for skip.)
pub const SKIPPED: u8 = 4;
/// The command line is wrong. (EX_USAGE)
pub const USAGE: u8 = 64;
/// A scenario is wrong. (EX_DATAERR)
pub const SCENARIO: u8 = 65;
/// The host is not usable on this machine. (EX_UNAVAILABLE)
pub const HOST: u8 = 69;
/// The lab could not judge. (EX_SOFTWARE)
pub const LAB: u8 = 70;
/// Interrupted by SIGINT or SIGTERM. (128 + SIGINT)
pub const INTERRUPTED: u8 = 130;

/// Every exit code and what it says, in order.
pub const ALL: [(u8, &str); 8] = [
    (PASSED, "all passed"),
    (FAILED, "something failed: the host or the guest did wrong"),
    (SKIPPED, "nothing ran, every scenario was skipped"),
    (USAGE, "the command line is wrong"),
    (SCENARIO, "a scenario is wrong; nothing was started"),
    (HOST, "the host is not usable on this machine"),
    (LAB, "the lab could not judge"),
    (INTERRUPTED, "interrupted"),
];

/// The table of exit codes for `--help`.
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in ALL {
        text += &format!("  {code:>3}  {meaning}\n");
    }
    text
}

/// As the process hands it over.
pub fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}
