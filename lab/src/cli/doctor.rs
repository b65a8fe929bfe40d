//! `tdxlab doctor`: what this machine can do, and what to do about the rest.

use clap::Args;
use comfy_table::Table;
use console::style;

use super::error::CliError;
use super::{exit, output, signals};
use crate::doctor::{self, Fact, Machine, Standing};
use crate::host::select;
use crate::report::table;

/// Looks at this machine: what was found, whether the lab can use it, and what to do. Changes
/// nothing, and makes no TD unless asked to.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Also boot a TD, accept memory in it, punch a hole, and read every witness
    #[arg(long)]
    deep: bool,
}

impl Doctor {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let mut facts = doctor::examine(&Machine::this());
        facts.extend(select::hosts());
        if self.deep {
            signals::install()?;
            facts.extend(match select::tdx() {
                Ok(host) => doctor::deep(&host),
                Err(error) => vec![Fact {
                    name: "deep".to_owned(),
                    found: format!("no TD can be made: {error}"),
                    standing: Standing::Unusable,
                    advice: Some("see the facts about tdx above".to_owned()),
                }],
            });
        }
        if self.json {
            let text = serde_json::json!({ "version": 1, "facts": facts });
            output::say(format!("{text:#}"));
        } else {
            output::say(table(&facts).trim_fmt());
        }
        Ok(exit::PASSED)
    }
}

fn table(facts: &[Fact]) -> Table {
    let mut table = table::list();
    for fact in facts {
        let standing = style(fact.standing.name());
        let standing = match fact.standing {
            Standing::Usable => standing.green(),
            Standing::Limited => standing.yellow(),
            Standing::Unusable => standing.red(),
        };
        let mut found = fact.found.clone();
        if let Some(advice) = &fact.advice {
            found += &format!("\n-> {advice}");
        }
        table.add_row([fact.name.clone(), standing.to_string(), found]);
    }
    table
}
