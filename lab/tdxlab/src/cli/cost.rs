//! `tdxlab report cost`: what operations cost.

use std::path::PathBuf;

use clap::Args;
use tdxlab_report::cost::{Costs, csv, tables};

use super::error::CliError;
use super::recorded::read;
use super::{exit, output};

#[derive(Args, Debug)]
pub(super) struct CostOf {
    /// Folders of runs to show side by side, all on hosts of one kind
    #[arg(value_name = "DIR", default_value = "reports/latest")]
    folders: Vec<PathBuf>,
    /// Only scenarios whose names contain TEXT; by default those below cost/, if there are any
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// Print CSV, a line for each step, with the counts of the whole step
    #[arg(long)]
    csv: bool,
}

impl CostOf {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let reports = self
            .folders
            .iter()
            .map(|folder| read(folder))
            .collect::<Result<Vec<_>, _>>()?;
        let costs = Costs::over(&reports, self.scenario.as_deref()).map_err(|error| {
            let help = "`tdxlab run cost --repeat 5` makes a run; name runs on one kind of host";
            CliError::usage(error.to_string(), help)
        })?;
        output::print(match self.csv {
            true => csv::render(&costs),
            false => tables::render(&costs),
        });
        Ok(exit::PASSED)
    }
}
