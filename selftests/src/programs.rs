//! Other programs that tests call, such as git.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program of that name, or the reason to skip the test, which is printed. Daemons are not in the
/// PATH of every user.
pub fn program(names: &[&str], what: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|file| file.is_file());
    if found.is_none() {
        eprintln!(
            "skipped: {what} needs {}, which is not installed",
            names.join(" or ")
        );
    }
    found
}

/// Output of a command, which must succeed.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().expect("it can be started");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A git repository in a temporary folder.
pub struct Repository {
    folder: tempfile::TempDir,
    git: PathBuf,
}

impl Repository {
    /// An empty one; `None`, having said so, without git.
    pub fn new() -> Option<Repository> {
        let git = program(&["git"], "a bisection")?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let repository = Repository { folder, git };
        output_of(repository.git().args(["init", "--quiet"]));
        Some(repository)
    }

    /// Its working tree.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// git as on any machine, whatever its user has set.
    pub fn git(&self) -> Command {
        let mut git = Command::new(&self.git);
        git.current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["-c", "user.name=lab", "-c", "user.email=lab@localhost"]);
        git
    }

    /// Commits all that is in the working tree; the commit's id.
    pub fn commit(&self, subject: &str) -> String {
        output_of(self.git().args(["add", "."]));
        output_of(self.git().args(["commit", "--quiet", "-m", subject]));
        let id = output_of(self.git().args(["rev-parse", "HEAD"]));
        id.trim().to_owned()
    }

    /// `git bisect run` between these commits, with `command`.
    pub fn bisect(&self, bad: &str, good: &str, command: &[&str]) -> Output {
        output_of(self.git().args(["bisect", "start", bad, good]));
        let mut git = self.git();
        git.args(["bisect", "run"]).args(command);
        git.env_remove("TDXLAB_REQUIRE");
        git.output().expect("git can be started")
    }

    /// What was said to git so far.
    pub fn bisect_log(&self) -> String {
        output_of(self.git().args(["bisect", "log"]))
    }
}
