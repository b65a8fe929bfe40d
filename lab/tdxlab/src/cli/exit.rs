//! Exit codes. Scripts and CI depend on them, so their meaning never changes.

use std::process::ExitCode;

/// Everything that ran passed.
pub const PASSED: u8 = 0;
/// Something failed: the host or the guest did wrong.
pub const FAILED: u8 = 1;
/// No scenario ran, because all were skipped. (kselftest's code for skip.)
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

/// Under `--bisect`: this commit can neither be called good nor bad. (git-bisect's code for skip)
pub const CANNOT_TELL: u8 = 125;
/// Under `--bisect`: no commit will do better, so the bisection is to end. (git-bisect ends from 128)
pub const STOP_BISECTING: u8 = 128;

/// The code for `git bisect run`: 0 is good, 1 is bad, 125 skips the commit, and from 128 on the
/// bisection ends. An unusable host, a step that could not be judged or a panic of tdxlab prove
/// nothing about a commit, but git would take each for bad. A wrong command line is wrong at every
/// commit.
pub fn bisect(code: u8) -> u8 {
    match code {
        PASSED | FAILED | STOP_BISECTING.. => code,
        USAGE | SCENARIO => STOP_BISECTING,
        _ => CANNOT_TELL,
    }
}

/// All exit codes and their meaning, in order.
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(PASSED, 0)]
    #[case(FAILED, 1)]
    #[case(SKIPPED, 125)]
    #[case(HOST, 125)]
    #[case(LAB, 125)]
    #[case(101, 125)]
    #[case(USAGE, 128)]
    #[case(SCENARIO, 128)]
    #[case(INTERRUPTED, 130)]
    fn git_is_told_in_its_own_codes(#[case] ours: u8, #[case] gits: u8) {
        assert_eq!(bisect(ours), gits);
        // A rehearsal passes on the code of the run inside, which is converted already.
        assert_eq!(bisect(gits), gits);
    }

    #[test]
    fn only_a_failure_is_bad() {
        let bad: Vec<u8> = (0..=255).filter(|code| bisect(*code) == FAILED).collect();
        assert_eq!(bad, [FAILED]);
    }
}
