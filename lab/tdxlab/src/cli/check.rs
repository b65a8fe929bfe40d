//! `tdxlab check`: validates scenarios without starting anything.

use clap::Args;
use tdxlab_report::terminal::count;

use super::error::CliError;
use super::options::Scenarios;
use super::{exit, load, output};

/// Reads, expands and checks scenarios, against the predictor too. Starts nothing.
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    scenarios: Scenarios,
}

impl Check {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let (loaded, linux) = load::load_all(&self.scenarios)?;
        let plans: usize = loaded.iter().map(|one| one.items.len()).sum();
        let plans = plans + linux.len();
        let files = linux.chunk_by(|one, other| one.scenario == other.scenario);
        output::say(format!(
            "{} with {}: all right",
            count(loaded.len() + files.count(), "file"),
            count(plans, "scenario")
        ));
        Ok(exit::PASSED)
    }
}
