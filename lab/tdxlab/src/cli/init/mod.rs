//! `tdxlab init`: a folder to start from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::error::CliError;
use super::{exit, output};

/// Lays out a folder to start from: a commented scenario, the schema that editors complete and check
/// it with, and a file for the CI engine that is named.
#[derive(Args, Debug)]
pub(super) struct Init {
    /// The folder; files that are there already are never changed
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Also write what this engine needs to run the scenarios every night
    #[arg(long, value_enum, value_name = "ENGINE")]
    ci: Option<Engine>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    /// .github/workflows/tdxlab.yaml
    Github,
    /// .gitlab-ci.yml
    Gitlab,
    /// A job array, ci/slurm/nightly.sbatch, and ci/slurm/merge.sbatch
    Slurm,
}

impl Engine {
    /// Paths and texts of its files.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Engine::Github => &[(".github/workflows/tdxlab.yaml", include_str!("github.yaml"))],
            Engine::Gitlab => &[(".gitlab-ci.yml", include_str!("gitlab.yaml"))],
            Engine::Slurm => &[
                (
                    "ci/slurm/nightly.sbatch",
                    include_str!("../../../../../ci/slurm/nightly.sbatch"),
                ),
                (
                    "ci/slurm/merge.sbatch",
                    include_str!("../../../../../ci/slurm/merge.sbatch"),
                ),
                ("ci/sweep", include_str!("../../../../../ci/sweep")),
            ],
        }
    }
}

impl Init {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let schema = format!("{:#}\n", tdxlab_scenario::schema());
        let mut files = vec![
            ("scenario.schema.json", schema.as_str()),
            ("scenarios/first/hole.yaml", include_str!("first.yaml")),
        ];
        files.extend(self.ci.map_or(&[][..], Engine::files));
        // All files or none: checked before the first is written.
        for (path, _) in &files {
            let path = self.folder.join(path);
            if fs::symlink_metadata(&path).is_ok() {
                return Err(CliError::usage(
                    format!("{} is there already", path.display()),
                    "nothing was written; name another folder, or move it away",
                ));
            }
        }
        for (path, text) in files {
            let path = self.folder.join(path);
            write(&path, text).map_err(|source| CliError::System {
                doing: format!("writing {}", path.display()),
                source,
            })?;
            output::say(path.display());
        }
        Ok(exit::PASSED)
    }
}

/// A new file; what starts with `#!` can be executed.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mode = if text.starts_with("#!") { 0o777 } else { 0o666 };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}
