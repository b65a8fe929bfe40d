//! `tdxlab list`: lists scenarios.

use clap::Args;
use tdxlab_linux_run::LinuxCase;
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
        let (loaded, linux) = load::load_all(&self.scenarios)?;
        for one in loaded {
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
                let points = points(one.items.len());
                table.add_row([
                    format!("{}{points}", one.scenario.name()),
                    one.scenario.about().to_owned(),
                ]);
            }
        }
        for of_file in linux.chunk_by(|one, other| one.scenario == other.scenario) {
            for row in self.linux(of_file) {
                table.add_row(row);
            }
        }
        if !self.json {
            output::say(table.trim_fmt());
        }
        Ok(exit::PASSED)
    }

    /// Rows of the plans of one scenario of a Linux guest. JSON is printed.
    fn linux(&self, cases: &[LinuxCase]) -> Vec<[String; 2]> {
        if self.json {
            for LinuxCase { plan, scenario } in cases {
                output::say(serde_json::json!({
                    "name": plan.name,
                    "about": plan.about,
                    "file": scenario,
                    "steps": plan.steps.len(),
                    "needs": { "td": plan.td },
                }));
            }
            return Vec::new();
        }
        let row = |case: &LinuxCase| [case.plan.name.clone(), case.plan.about.clone()];
        match cases {
            [first, ..] if !self.plans => {
                let name = first.plan.name.split('[').next().unwrap_or_default();
                let name = format!("{name}{}", points(cases.len()));
                vec![[name, first.plan.about.clone()]]
            }
            all => all.iter().map(row).collect(),
        }
    }
}

/// The number of points of a matrix, after the scenario's name.
fn points(plans: usize) -> String {
    match plans {
        1 => String::new(),
        points => format!(" ({points} points)"),
    }
}
