//! `tdxlab doctor`: checks what this machine can do, with remedies.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::Table;
use console::style;
use tdxlab_journal::folder::write_whole;
use tdxlab_journal::input;
use tdxlab_kernel::doctor::{self, Fact, MachineRecording, Status, ThisMachine};
use tdxlab_report::table;

use super::error::CliError;
use super::{exit, output, signals};
use tdxlab_launch::select;

/// Looks at this machine: what was found, whether the lab can use it, and what to do. Changes
/// nothing, and makes no TD unless asked to.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Also boot a TD, accept memory in it, punch a hole, and read every witness; exit 69 where that
    /// finds something that cannot be used
    #[arg(long)]
    deep: bool,

    /// Keep evidence of a failed check: command line, QMP, serial line, kernel log
    #[arg(long, value_name = "DIR", requires = "deep")]
    out: Option<PathBuf>,

    /// Also record every question and answer, to be looked at elsewhere
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Look at a recorded machine instead of this one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["deep", "record"])]
    recorded: Option<PathBuf>,
}

impl Doctor {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let machine = match (&self.recorded, &self.record) {
            (Some(file), _) => recorded(file)?,
            (None, Some(_)) => ThisMachine::recorder(),
            (None, None) => ThisMachine::this(),
        };
        let mut facts = doctor::examine(&machine);
        if let Some(file) = &self.record {
            let text = machine.recording().to_string();
            write_whole(file, text.as_bytes())?;
        }
        if self.recorded.is_none() {
            facts.extend(select::hosts());
        }
        let mut code = exit::PASSED;
        if self.deep {
            signals::install()?;
            let deep = match select::tdx() {
                Ok(host) => tdxlab_host_kvm::deep(&host, self.out.as_deref()),
                Err(error) => vec![Fact {
                    name: "deep".to_owned(),
                    found: format!("no TD can be made: {error}"),
                    standing: Status::Unusable,
                    advice: Some("see the facts about tdx above".to_owned()),
                }],
            };
            if deep.iter().any(|fact| fact.standing == Status::Unusable) {
                code = exit::HOST;
            }
            facts.extend(deep);
        }
        if self.json {
            let text = serde_json::json!({ "version": 1, "facts": facts });
            output::say(format!("{text:#}"));
        } else {
            output::say(table(&facts).trim_fmt());
        }
        Ok(code)
    }
}

/// Most bytes of a recording that are read. A whole one has 20 KiB.
const MOST_RECORDED: u64 = 16 << 20;

fn recorded(file: &Path) -> Result<ThisMachine, CliError> {
    let mut text = String::new();
    let read =
        input::open(file).and_then(|open| open.take(MOST_RECORDED + 1).read_to_string(&mut text));
    let file = file.display();
    let unusable = |what| {
        let wanted = "--recorded wants a file that `tdxlab doctor --record FILE` wrote";
        CliError::usage(what, wanted)
    };
    read.map_err(|source| unusable(format!("cannot read {file}: {source}")))?;
    if text.len() as u64 > MOST_RECORDED {
        return Err(unusable(format!(
            "{file} is longer than {MOST_RECORDED} bytes, and a recording has 20 KiB"
        )));
    }
    let recording = MachineRecording::parse(&text);
    if recording.is_empty() {
        return Err(unusable(format!(
            "{file} is no recording of a machine: it has no line `--- PATH`"
        )));
    }
    Ok(ThisMachine::recorded(recording))
}

fn table(facts: &[Fact]) -> Table {
    let mut table = table::list();
    for fact in facts {
        let standing = style(fact.standing.name());
        let standing = match fact.standing {
            Status::Usable => standing.green(),
            Status::Limited => standing.yellow(),
            Status::Unusable => standing.red(),
        };
        let mut found = fact.found.clone();
        if let Some(advice) = &fact.advice {
            found += &format!("\n-> {advice}");
        }
        table.add_row([fact.name.clone(), standing.to_string(), found]);
    }
    table
}
