//! `tdxlab faults`: lists the faults for software hosts.

use clap::Args;
use tdxlab_faults as faults;
use tdxlab_faults::Fault;
use tdxlab_report::table;

use super::error::CliError;
use super::{exit, output};

/// Lists the faults that `--fault` seeds into a host: what a real kernel would do wrong, its source,
/// and the rows of the catalogue (docs/faults.md) that it seeds.
#[derive(Args, Debug)]
pub(super) struct Faults {
    /// Only faults with this text in their name, description or source
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl Faults {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let wanted = self.text.as_deref().unwrap_or_default().to_lowercase();
        let faults: Vec<&Fault> = faults::all()
            .filter(|fault| {
                [fault.name, fault.wrong, fault.source]
                    .iter()
                    .any(|text| text.to_lowercase().contains(&wanted))
            })
            .collect();
        if faults.is_empty() {
            return Err(CliError::usage(
                format!("no fault has `{wanted}` in its name, description or source"),
                "`tdxlab faults` lists them all",
            ));
        }
        if self.json {
            for fault in faults {
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
        for fault in faults {
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
