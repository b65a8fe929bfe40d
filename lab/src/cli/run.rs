//! `tdxlab run`: runs scenarios and judges every step.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use super::options::{self, HostName, Scenarios};
use super::report::exit_code;
use super::{load, output, progress, signals};
use crate::host::select::{self, Selected};
use crate::predict::Predictor;
use crate::report::{self, terminal};
use crate::run::folder::RunFolder;
use crate::run::journal::{self, Event, RunStarted};
use crate::run::{AllowList, Drive, Item, Journal, Lab, Offer, pool};

/// Longest a single operation may take before the guest counts as hung, unless said otherwise.
const PATIENCE_SECONDS: u64 = 60;

/// Runs scenarios and judges every step.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    scenarios: Scenarios,
    /// Where guests run
    #[arg(long, value_enum, default_value = "auto", env = "TDXLAB_HOST")]
    host: HostName,
    /// Design whose KVM is played (soft, sim) or expected (tdx)
    #[arg(long, value_name = "D", default_value = "headtail")]
    design: String,
    /// Scenarios run at the same time; by default as many as there are processors
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Folder below which the report goes
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Go on after a failure (this is the default)
    #[arg(long, overrides_with = "fail_fast")]
    keep_going: bool,
    /// Start no further scenario after a failure
    #[arg(long, overrides_with = "keep_going")]
    fail_fast: bool,
    /// This machine must be able to run on this host: fail where it is not, or where nothing runs
    #[arg(long, value_enum, value_name = "HOST", env = "TDXLAB_REQUIRE")]
    require: Option<HostName>,
    /// Say only what failed
    #[arg(long, short)]
    quiet: bool,
    /// Keep the evidence of scenarios that passed too
    #[arg(long)]
    keep: bool,
    /// Texts of kernel log lines that may appear, one a line
    #[arg(long, value_name = "FILE")]
    allow_log: Option<PathBuf>,
    /// Longest a single operation may take before the guest counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    patience: u64,
}

impl Run {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let design = options::design(&self.design)?;
        let allowed_log = self.allow_list()?;
        let items = load::items(load::load(&self.scenarios)?);
        let selected = self.select()?;
        let interrupt = signals::install()?;
        if !self.quiet {
            output::note(format!(
                "host {}: {}; design {}: {}",
                selected.host.kind().name(),
                selected.why,
                design.name,
                design.about
            ));
        }
        let folder = RunFolder::create(&self.out)?;
        let journal = folder.journal()?;
        let jobs = self.jobs(items.len());
        journal.write(&self.head(&folder, &items, &selected, jobs))?;
        let outcome = {
            let watcher = progress::watcher(items.len(), jobs, self.quiet);
            let lab = Lab {
                host: selected.host.as_ref(),
                offer: Offer {
                    host: selected.host.kind(),
                    design,
                },
                oracle: &|guest| Box::new(Predictor::new(design, guest)),
                journal: &journal,
                folder: &folder,
                allowed_log,
                interrupt,
                patience: Duration::from_secs(self.patience),
                keep: self.keep,
                watcher: watcher.as_ref(),
            };
            let drive = Drive {
                jobs,
                fail_fast: self.fail_fast,
            };
            pool::run(&items, &lab, drive)
        };
        let code = self.close(&folder, &journal)?;
        outcome?;
        Ok(code)
    }

    fn select(&self) -> Result<Selected, CliError> {
        let selected = match self.require {
            None => select::select(self.host.into())?,
            Some(required) => {
                let choice = match self.host {
                    HostName::Auto => required,
                    chosen => chosen,
                };
                let selected = select::select(choice.into())?;
                if required != HostName::Auto && choice != required {
                    return Err(CliError::usage(
                        format!("--require {required:?} and --host {choice:?} cannot both be met")
                            .to_lowercase(),
                        "leave --host away, or require what is chosen",
                    ));
                }
                selected
            }
        };
        Ok(selected)
    }

    fn allow_list(&self) -> Result<AllowList, CliError> {
        let Some(path) = &self.allow_log else {
            return Ok(AllowList::default());
        };
        let text = std::fs::read_to_string(path).map_err(|source| {
            CliError::usage(
                format!("cannot read {}: {source}", path.display()),
                "--allow-log wants a text file",
            )
        })?;
        AllowList::parse(&text).map_err(|error| {
            CliError::usage(
                format!("{}: {error}", path.display()),
                "write more of the line that is to pass",
            )
        })
    }

    fn jobs(&self, plans: usize) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.map_or(processors, usize::from);
        jobs.clamp(1, plans.max(1))
    }

    fn head(&self, folder: &RunFolder, items: &[Item], selected: &Selected, jobs: usize) -> Event {
        Event::RunStarted(RunStarted {
            version: journal::VERSION,
            tdxlab: env!("CARGO_PKG_VERSION").to_owned(),
            run: folder.name().to_owned(),
            started: folder.started().to_string(),
            command: std::env::args().collect(),
            host: selected.host.kind(),
            host_reason: selected.why.clone(),
            facts: selected.host.facts(),
            design: self.design.clone(),
            seed: self.scenarios.seed,
            jobs,
            plans: items.iter().map(|item| item.plan.name.clone()).collect(),
        })
    }

    /// Makes the report and prints it. What the journal holds is shown even where it could not be
    /// written to its end.
    fn close(&self, folder: &RunFolder, journal: &Journal) -> Result<u8, CliError> {
        let report = report::from_journal(journal.path())?;
        output::print(if self.quiet {
            terminal::failures(&report, folder.path())
        } else {
            terminal::summary(&report, folder.path())
        });
        report::write_all(&report, folder.path())?;
        Ok(exit_code(&report, self.require.is_some()))
    }
}
