//! `tdxlab faults`: what can be seeded into a host of software.

use clap::Args;
use tdxlab_faults as faults;
use tdxlab_report::table;

use super::error::CliError;
use super::{exit, output};

/// Lists the faults that `--fault` seeds into a host: what a real kernel would do wrong, where that
/// was seen or feared, and the rows of the catalogue (docs/faults.md) that it seeds.
#[derive(Args, Debug)]
pub(super) struct Faults {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl Faults {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        if self.json {
            for fault in faults::all() {
                output::say(serde_json::json!({
                    "name": fault.name,
                    "wrong": fault.wrong,
                    "source": fault.source,
                    "rows": fault.rows,
                    "design": fault.design,
                    "witnesses": fault.witnesses,
                }));
            }
            return Ok(exit::PASSED);
        }
        let mut table = table::list();
        for fault in faults::all() {
            table.add_row([
                fault.name.to_owned(),
                format!("{} ({})", fault.wrong, fault.source),
                fault.rows_in_words(),
            ]);
        }
        output::say(table.trim_fmt());
        Ok(exit::PASSED)
    }
}
