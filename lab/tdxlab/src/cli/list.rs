//! `tdxlab list`: lists scenarios.

use clap::Args;
use tdxlab_report::table;

use super::error::CliError;
use super::options::Scenarios;
use super::{exit, load, output};

/// Lists scenarios with what they show.
#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    scenarios: Scenarios,
    /// List every point of every matrix
    #[arg(long)]
    plans: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let mut table = table::list();
        for one in load::load(&self.scenarios)? {
            if self.json {
                for item in &one.items {
                    output::say(serde_json::json!({
                        "name": item.plan.name,
                        "about": item.plan.about,
                        "file": one.scenario.path(),
                        "steps": item.plan.steps.len(),
                        "needs": item.plan.needs,
                    }));
                }
            } else if self.plans {
                for item in &one.items {
                    table.add_row([item.plan.name.as_str(), item.plan.about.as_str()]);
                }
            } else {
                let points = match one.items.len() {
                    1 => String::new(),
                    points => format!(" ({points} points)"),
                };
                table.add_row([
                    format!("{}{points}", one.scenario.name()),
                    one.scenario.about().to_owned(),
                ]);
            }
        }
        if !self.json {
            output::say(table.trim_fmt());
        }
        Ok(exit::PASSED)
    }
}
