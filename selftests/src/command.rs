//! Runs tdxlab as users do.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::assert::Assert;

/// The command line of the binary under test, from the root of the repository.
#[macro_export]
macro_rules! tdxlab {
    ($($arg:expr),* $(,)?) => {{
        let mut command = $crate::command::tdxlab(env!("CARGO_BIN_EXE_tdxlab-under-test"));
        $(command.arg($arg);)*
        command
    }};
}

/// `program` in a known environment: no colours, none of the lab's own variables, no terminal.
pub fn tdxlab(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(root())
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "0");
    for variable in ["TDXLAB_HOST", "TDXLAB_REQUIRE", "TDXLAB_QEMU"] {
        command.env_remove(variable);
    }
    command
}

/// Standard output of a command.
pub fn stdout(said: &Assert) -> String {
    String::from_utf8_lossy(&said.get_output().stdout).into_owned()
}

/// Standard error of a command.
pub fn stderr(said: &Assert) -> String {
    String::from_utf8_lossy(&said.get_output().stderr).into_owned()
}

/// Asserts that a text contains all of `parts`.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file with `text` in a temporary folder.
pub fn scenario(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("scenario.yaml");
    std::fs::write(&path, text).expect("a file in it");
    (folder, path)
}
