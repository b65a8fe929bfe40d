//! `tdxlab report`: what a run has left, looked at again.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::error::CliError;
use super::{exit, output};
use crate::report::{self, Report, terminal};
use crate::run::Verdict;
use crate::run::journal;

/// Works on the report of a run, also of one that was cut off.
#[derive(Args, Debug)]
pub(super) struct ReportCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the summary
    Show(Folder),
    /// Write report.json, junit.xml and results.ktap again, from the journal
    Files(Folder),
}

#[derive(Args, Debug)]
struct Folder {
    /// Folder of the run
    #[arg(value_name = "DIR", default_value = "reports/latest")]
    folder: PathBuf,
}

impl ReportCommand {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        match self.what {
            What::Show(Folder { folder }) => {
                let report = read(&folder)?;
                output::print(terminal::summary(&report, &folder));
                Ok(exit_code(&report, false))
            }
            What::Files(Folder { folder }) => {
                let report = read(&folder)?;
                report::write_all(&report, &folder)?;
                for name in report::REPORT_FILES {
                    output::say(folder.join(name).display());
                }
                Ok(exit::PASSED)
            }
        }
    }
}

fn read(folder: &Path) -> Result<Report, CliError> {
    Ok(report::from_journal(&folder.join(journal::FILE))?)
}

/// What the exit code says of a run. On a machine that must run something, nothing is a failure.
pub(super) fn exit_code(report: &Report, must_run: bool) -> u8 {
    if report.interrupted {
        return exit::INTERRUPTED;
    }
    match report.verdict {
        Verdict::Pass => exit::PASSED,
        Verdict::Fail => exit::FAILED,
        Verdict::Error => exit::LAB,
        Verdict::Skip if must_run => exit::FAILED,
        Verdict::Skip => exit::SKIPPED,
    }
}
