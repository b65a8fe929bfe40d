//! `tdxlab report`: shows, converts, merges and compares finished runs.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use tdxlab_journal::folder::write_whole;
use tdxlab_journal::{Verdict, journal};
use tdxlab_plan::text::Micros;
use tdxlab_report as report;
use tdxlab_report::diff::Diff;
use tdxlab_report::timeline::Pictures;
use tdxlab_report::trend::{Choice, Trend};
use tdxlab_report::{Report, github, html, kcidb, kernels, lava, merge, table, terminal};

use super::cost::CostOf;
use super::error::CliError;
use super::options::{self, HostName};
use super::recorded::read;
use super::{exit, output};
use tdxlab_launch::spec::FinishedRun;

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
    /// Write report.json, junit.xml, results.ktap and report.html again, from the journal
    Files(Folder),
    /// Write report.html, with the trend where several runs are given
    Html(Html),
    /// Print a KCIDB submission (JSON, version 5.3)
    Kcidb(Kcidb),
    /// Print LAVA signals
    Lava(Folder),
    /// Print GitHub annotations, and the job summary as Markdown
    Github(Folder),
    /// Compare two runs; exit 1 if the later one is worse
    Diff(DiffOf),
    /// Print the numbers of each scenario over the runs in a folder
    Trend(TrendOf),
    /// Print what operations cost, for each MiB, over one or several runs
    Cost(CostOf),
    /// Print a table of kernels and scenarios, as Markdown
    Kernels(Kernels),
    /// Merge shards, or runs on several machines, into one run
    Merge(Merge),
}

#[derive(Args, Debug)]
struct Html {
    /// Folders of runs; the newest is shown, the others are the trend
    #[arg(value_name = "DIR", default_value = "reports/latest")]
    folders: Vec<PathBuf>,
    /// Where to write it; by default report.html in the folder of the newest run
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Kcidb {
    #[command(flatten)]
    folder: Folder,
    /// Name of the CI system that submits
    #[arg(long, value_name = "NAME", default_value = "tdxlab")]
    origin: String,
    /// Build under test, as the database knows it; else one is made that stands for the kernel
    #[arg(long, value_name = "ORIGIN:ID")]
    build: Option<String>,
}

#[derive(Args, Debug)]
struct DiffOf {
    /// Folder of the earlier run
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// Folder of the later run
    #[arg(value_name = "AFTER")]
    after: PathBuf,
}

#[derive(Args, Debug)]
struct TrendOf {
    /// Folder with the folders of runs
    #[arg(value_name = "DIR", default_value = "reports")]
    folder: PathBuf,
    /// Only scenarios whose names contain TEXT
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// Only runs on this host; by default that of the newest run
    #[arg(long, value_enum)]
    host: Option<HostName>,
    /// Only runs under this design; by default that of the newest run
    #[arg(long, value_name = "D")]
    design: Option<String>,
    /// All runs, also seeded, replayed, re-judged and interrupted ones
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct Kernels {
    /// Folders of runs on different kernels
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
}

#[derive(Args, Debug)]
struct Merge {
    /// Folders of the runs
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Parent directory for the merged run
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Merge runs that differ in host, design, kernel or version too
    #[arg(long)]
    mixed: bool,
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
            What::Html(html) => html.execute(),
            What::Kcidb(kcidb) => kcidb.execute(),
            What::Lava(Folder { folder }) => {
                output::print(lava::render(&read(&folder)?));
                Ok(exit::PASSED)
            }
            What::Github(Folder { folder }) => {
                let report = read(&folder)?;
                output::print(github::annotations(&report));
                output::print(github::summary(&report));
                Ok(exit::PASSED)
            }
            What::Diff(DiffOf { before, after }) => {
                let diff = Diff::between(&read(&before)?, &read(&after)?);
                output::print(diff.to_string());
                Ok(if diff.is_worse() {
                    exit::FAILED
                } else {
                    exit::PASSED
                })
            }
            What::Trend(trend) => trend.execute(),
            What::Cost(cost) => cost.execute(),
            What::Kernels(Kernels { folders }) => {
                let reports = folders
                    .iter()
                    .map(|folder| read(folder))
                    .collect::<Result<Vec<_>, _>>()?;
                output::print(kernels::render(&reports));
                Ok(exit::PASSED)
            }
            What::Merge(Merge {
                folders,
                out,
                mixed,
            }) => {
                let target = merge::merge(&folders, &out, mixed)?;
                let mut finished = FinishedRun::of(&target)?;
                output::print(terminal::summary(&finished.report, &finished.folder));
                finished.whole()?;
                Ok(exit_code(&finished.report, false))
            }
        }
    }
}

impl Html {
    fn execute(self) -> Result<u8, CliError> {
        let mut newest: Option<(PathBuf, Report)> = None;
        let mut runs = Vec::new();
        for folder in self.folders {
            let (report, pictures) = read_all(&folder)?;
            if newest
                .as_ref()
                .is_none_or(|(_, known)| known.started <= report.started)
            {
                newest = Some((folder, report.clone()));
            }
            runs.push((report, pictures));
        }
        let Some((folder, report)) = newest else {
            return Err(CliError::usage("no run given", "name the folder of a run"));
        };
        let trend = (runs.len() > 1).then(|| Trend::over(runs));
        let pictures = Pictures::from_journal(&folder.join(journal::FILE))?;
        let page = html::render(&report, &pictures, &folder, trend.as_ref());
        let file = self.output.unwrap_or_else(|| folder.join("report.html"));
        write_whole(&file, page.as_bytes())?;
        output::say(file.display());
        Ok(exit::PASSED)
    }
}

impl TrendOf {
    fn execute(self) -> Result<u8, CliError> {
        let runs = runs_below(&self.folder)?;
        if runs.is_empty() {
            return Err(CliError::usage(
                format!("no run in {}", self.folder.display()),
                "name the folder that holds the folders of runs",
            ));
        }
        let design = self.design.as_deref().map(options::design).transpose()?;
        let choice = Choice {
            host: self.host.and_then(HostName::kind),
            design: design.map(|design| design.name.to_owned()),
            all: self.all,
        };
        let (runs, left_out) = choice.of(runs);
        let left_out: Vec<String> = left_out
            .iter()
            .map(|(why, number)| format!("{number} {why}"))
            .collect();
        let mut shown = Trend::over(runs);
        if let Some(part) = &self.scenario {
            shown.scenarios.retain(|line| line.name.contains(part));
        }
        if shown.runs.is_empty() || shown.scenarios.is_empty() {
            let more = match left_out.is_empty() {
                true => String::new(),
                false => format!(" (left out: {})", left_out.join(", ")),
            };
            return Err(CliError::usage(
                format!("no run in {} to show{more}", self.folder.display()),
                "--all shows every run; --scenario, --host and --design choose among them",
            ));
        }
        output::print(trend_table(&shown));
        if !left_out.is_empty() {
            output::say(format!(
                "left out: {} (--all shows them)",
                left_out.join(", ")
            ));
        }
        Ok(exit::PASSED)
    }
}

impl Kcidb {
    fn execute(self) -> Result<u8, CliError> {
        if !kcidb::is_origin(&self.origin) {
            return Err(CliError::usage(
                format!("`{}` cannot be an origin", self.origin),
                "use lower case letters, digits and underscores",
            ));
        }
        if let Some(build) = self.build.as_deref().filter(|build| !kcidb::is_id(build)) {
            return Err(CliError::usage(
                format!("`{build}` cannot be a build"),
                "write it as the database has it: origin:id",
            ));
        }
        let submission = kcidb::Submission {
            origin: self.origin,
            build: self.build,
        };
        let json = kcidb::render(&read(&self.folder.folder)?, &submission);
        output::say(format!("{json:#}"));
        Ok(exit::PASSED)
    }
}

/// All runs in a folder. Other folders are ignored; a run that cannot be read is an error.
fn runs_below(folder: &Path) -> Result<Vec<(Report, Pictures)>, CliError> {
    let failed = |source| CliError::System {
        doing: format!("reading {}", folder.display()),
        source,
    };
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // The link to the newest run would count it twice.
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && entry.path().join(journal::FILE).is_file()
        {
            runs.push(read_all(&entry.path())?);
        }
    }
    Ok(runs)
}

fn read_all(folder: &Path) -> Result<(Report, Pictures), CliError> {
    let pictures = Pictures::from_journal(&folder.join(journal::FILE))?;
    Ok((read(folder)?, pictures))
}

fn trend_table(trend: &Trend) -> String {
    let mut table = table::table(["scenario", "verdicts", "time", "splits", "slowest hole"]);
    for line in &trend.scenarios {
        let verdicts: String = line
            .verdicts
            .iter()
            .map(|verdict| match verdict {
                Some(Verdict::Pass) => '.',
                Some(Verdict::Fail) => 'F',
                Some(Verdict::Skip) => 's',
                Some(Verdict::Error) => 'E',
                None => '-',
            })
            .collect();
        let series = |series: &[Option<u64>], say: fn(u64) -> String| {
            let known: Vec<u64> = series.iter().flatten().copied().collect();
            match (known.first(), known.last()) {
                (Some(first), Some(last)) if first != last => {
                    format!("{} -> {}", say(*first), say(*last))
                }
                (Some(first), _) => say(*first),
                _ => "-".to_owned(),
            }
        };
        let time = |micros| Micros(micros).to_string();
        let number = |number: u64| number.to_string();
        table.add_row([
            line.name.clone(),
            verdicts,
            series(&line.micros, time),
            series(&line.splits, number),
            series(&line.hole_micros, time),
        ]);
    }
    format!(
        "{}, {} to {}\n{table}\n\
         verdicts, oldest first: . pass  F fail  E error  s skip  - not in that run\n",
        terminal::count(trend.runs.len(), "run"),
        trend.runs.first().map_or("", String::as_str),
        trend.runs.last().map_or("", String::as_str)
    )
}

/// Exit code of a run. Where a run is required, an empty one is a failure.
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
