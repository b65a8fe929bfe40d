//! `tdxlab schema`: JSON Schemas of the lab's file formats.

use clap::{Args, ValueEnum};

use super::error::CliError;
use super::{exit, output};

/// Prints a JSON Schema. Editors use that of scenarios to complete and check as one types.
#[derive(Args, Debug)]
pub(super) struct Schema {
    /// Which schema
    #[arg(value_enum, default_value = "scenario")]
    of: Of,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    /// A scenario file
    Scenario,
    /// `report.json` of a run
    Report,
}

impl Schema {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let schema = match self.of {
            Of::Scenario => tdxlab_scenario::schema(),
            Of::Report => tdxlab_report::schema(),
        };
        output::say(format!("{schema:#}"));
        Ok(exit::PASSED)
    }
}
