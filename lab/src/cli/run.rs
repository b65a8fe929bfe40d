//! `tdxlab run`: runs scenarios and judges every step.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use super::options::{self, HostName, Scenarios};
use super::report::exit_code;
use super::{load, output, progress, signals};
use crate::host::select::{self, Selected};
use crate::report::terminal;
use crate::run::conduct::PATIENCE;
use crate::run::{AllowList, Conduct, ConductError, Conducted, Drive};

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
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(),
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
        let jobs = self.jobs(items.len());
        let outcome = {
            let watcher = progress::watcher(items.len(), jobs, self.quiet);
            Conduct {
                host_reason: selected.why,
                drive: Drive {
                    jobs,
                    fail_fast: self.fail_fast,
                },
                allowed_log,
                patience: Duration::from_secs(self.patience),
                keep: self.keep,
                seed: self.scenarios.seed,
                interrupt,
                ..Conduct::new(&items, selected.host.as_ref(), design, watcher.as_ref())
            }
            .run(&self.out)
        };
        match outcome {
            Ok(conducted) => {
                self.show(&conducted);
                Ok(exit_code(&conducted.report, self.require.is_some()))
            }
            Err(error) => {
                if let ConductError::CutOff {
                    so_far: Some(conducted),
                    ..
                } = &error
                {
                    self.show(conducted);
                }
                Err(error.into())
            }
        }
    }

    fn show(&self, conducted: &Conducted) {
        output::print(if self.quiet {
            terminal::failures(&conducted.report, &conducted.folder)
        } else {
            terminal::summary(&conducted.report, &conducted.folder)
        });
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
}
