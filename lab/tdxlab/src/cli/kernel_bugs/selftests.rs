//! KVM's own selftests under a bug, beside the lab's plans.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cli::error::CliError;
use crate::cli::output;

/// Exit code of a kernel selftest that cannot run here (`KSFT_SKIP`).
const SKIPPED: i32 = 4;

/// Most of what a test says that is read.
const MOST_SAID: u64 = 64 << 10;

/// Programs that pass without a bug.
pub(super) struct Selftests {
    programs: Vec<PathBuf>,
    patience: Duration,
}

/// One that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) test: String,
    /// Its last line, or how it ended.
    pub(super) said: String,
}

impl Failure {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "test": self.test, "said": self.said })
    }
}

/// How one ended.
enum Ended {
    Passed,
    Skipped,
    Failed(String),
}

impl Selftests {
    /// Those in `folder` that pass as KVM is now; the others are named and left out.
    pub(super) fn sound(folder: &Path, patience: Duration) -> Result<Selftests, CliError> {
        let failed = |source| CliError::System {
            doing: format!("looking for selftests in {}", folder.display()),
            source,
        };
        let entries = fs::read_dir(folder).map_err(failed)?;
        let mut programs = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.is_file() {
                programs.push(path);
            }
        }
        programs.sort();
        let mut all = Selftests { programs, patience };
        let mut sound = Vec::new();
        for program in &all.programs {
            let why = match all.run(program)? {
                Ended::Passed => {
                    sound.push(program.clone());
                    continue;
                }
                Ended::Skipped => "cannot run here".to_owned(),
                Ended::Failed(said) => format!("does not pass without a bug: {said}"),
            };
            output::note(format!("{}: {why}", name(program)));
        }
        if sound.is_empty() {
            return Err(CliError::usage(
                format!("no selftest in {} passes without a bug", folder.display()),
                "give a folder of built kernel selftests with --selftests",
            ));
        }
        all.programs = sound;
        Ok(all)
    }

    /// Those that fail now.
    pub(super) fn failing(&self) -> Result<Vec<Failure>, CliError> {
        let mut failing = Vec::new();
        for program in &self.programs {
            if let Ended::Failed(said) = self.run(program)? {
                let test = name(program);
                failing.push(Failure { test, said });
            }
        }
        Ok(failing)
    }

    fn run(&self, program: &Path) -> Result<Ended, CliError> {
        self.ended(program).map_err(|source| CliError::System {
            doing: format!("running {}", program.display()),
            source,
        })
    }

    fn ended(&self, program: &Path) -> io::Result<Ended> {
        let mut said = tempfile::tempfile()?;
        let mut child = Command::new(program)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said.try_clone()?)
            .process_group(0)
            .spawn()?;
        let until = Instant::now() + self.patience;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= until {
                let group = Pid::from_raw(child.id().cast_signed());
                killpg(group, Signal::SIGKILL)?;
                child.wait()?;
                break None;
            }
            sleep(Duration::from_millis(5));
        };
        Ok(match status {
            Some(status) if status.success() => Ended::Passed,
            Some(status) if status.code() == Some(SKIPPED) => Ended::Skipped,
            Some(status) => Ended::Failed(last_line(&mut said, status)?),
            None => Ended::Failed(format!("no end after {} s", self.patience.as_secs())),
        })
    }
}

fn name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn last_line(said: &mut fs::File, status: ExitStatus) -> io::Result<String> {
    let length = said.metadata()?.len();
    said.seek(io::SeekFrom::Start(length.saturating_sub(MOST_SAID)))?;
    let mut bytes = Vec::new();
    said.take(MOST_SAID).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    Ok(last.map_or_else(|| status.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(tests: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in tests {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    }

    #[test]
    fn what_does_not_pass_without_a_bug_is_left_out() {
        let switch = tempfile::NamedTempFile::new().unwrap();
        let noticed = format!(
            "[ -s {} ] || exit 0; echo one; echo the reason; exit 254",
            switch.path().display()
        );
        let tests = [
            ("a_test", noticed.as_str()),
            ("b_test", "exit 4"),
            ("c_test", "exit 1"),
            ("d_test", "exit 0"),
        ];
        let folder = folder(&tests);
        let tests = Selftests::sound(folder.path(), Duration::from_secs(20)).unwrap();
        assert_eq!(tests.failing().unwrap(), []);
        fs::write(switch.path(), "1").unwrap();
        let failing = tests.failing().unwrap();
        let failure = |test: &str, said: &str| Failure {
            test: test.to_owned(),
            said: said.to_owned(),
        };
        assert_eq!(failing, [failure("a_test", "the reason")]);
    }

    #[test]
    fn one_that_hangs_has_failed_and_is_gone() {
        let folder = folder(&[("hangs", "sleep 1000")]);
        let tests = Selftests {
            programs: vec![folder.path().join("hangs")],
            patience: Duration::from_millis(100),
        };
        let failing = tests.failing().unwrap();
        assert_eq!(failing[0].said, "no end after 0 s");
    }

    #[test]
    fn a_folder_without_sound_tests_is_an_error() {
        let folder = folder(&[("fails", "exit 1")]);
        let error = Selftests::sound(folder.path(), Duration::from_secs(20));
        assert!(error.is_err_and(|error| error.to_string().contains("passes without a bug")));
    }
}
