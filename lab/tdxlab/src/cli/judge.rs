//! `tdxlab judge`: judges a recorded run again, without a host.

use std::path::{Path, PathBuf};

use clap::Args;
use tdxlab_journal::reader::JournalReader;
use tdxlab_judge::{RejudgeError, rejudge};
use tdxlab_plan::TdxModule;
use tdxlab_report as report;
use tdxlab_report::{Report, terminal};

use super::error::CliError;
use super::report::exit_code;
use super::{options, output};
use tdxlab_launch::spec::FinishedRun;

/// Judges a recorded run again, from its journal alone: no host, no QEMU. Everything is predicted
/// anew, by the design the run was recorded under or by another.
#[derive(Args, Debug)]
pub(super) struct JudgeCommand {
    /// Folder of the run
    #[arg(value_name = "DIR", default_value = "reports/latest")]
    folder: PathBuf,
    /// Design to judge by; by default the recorded one
    #[arg(long, value_name = "D")]
    design: Option<String>,
    /// TDX module to judge for: 1.5.01, 1.5.25, 1.5.34 or 2.0.18; by default the recorded one. No verdict
    /// depends on it; the new report names it
    #[arg(long, value_name = "V")]
    module: Option<TdxModule>,
    /// File of kernel log texts to allow, one per line; by default the recorded ones
    #[arg(long, value_name = "FILE")]
    allow_log: Option<PathBuf>,
    /// Parent directory for the new report
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
}

impl JudgeCommand {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let design = self.design.as_deref().map(options::design).transpose()?;
        let recording = open(&self.folder)?;
        let allow = self.allow_log.as_deref();
        let allowed_log = options::allow_list_or(allow, &recording.head().allowed_log)?;
        let recorded = report::from_recording(open(&self.folder)?)?;
        let folder = rejudge(recording, design, self.module, allowed_log, &self.out)?;
        let mut finished = FinishedRun::of(&folder)?;
        output::print(terminal::summary(&finished.report, &finished.folder));
        for line in differences(&recorded, &finished.report) {
            output::say(line);
        }
        finished.whole()?;
        Ok(exit_code(&finished.report, false))
    }
}

fn open(folder: &Path) -> Result<JournalReader, CliError> {
    Ok(JournalReader::of_run(folder).map_err(RejudgeError::from)?)
}

/// Scenarios with a different verdict.
fn differences(recorded: &Report, judged: &Report) -> Vec<String> {
    let pairs = recorded.scenarios.iter().zip(&judged.scenarios);
    let mut lines: Vec<String> = pairs
        .filter(|(was, is)| was.verdict != is.verdict)
        .map(|(was, is)| {
            format!(
                "{}: {} when it ran, {} now",
                is.name, was.verdict, is.verdict
            )
        })
        .collect();
    if lines.is_empty() {
        lines.push(format!(
            "every verdict is as it was under design {}",
            recorded.design
        ));
    }
    lines
}
