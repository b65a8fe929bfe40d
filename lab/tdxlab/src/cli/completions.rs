//! `tdxlab completions`: completion scripts.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command};
use clap_complete::Shell;
use tdxlab_faults as faults;
use tdxlab_plan::Design;
use tdxlab_scenario as scenario;

use super::error::CliError;
use super::{exit, output};

/// Prints a completion script. It completes names of faults, designs and scenarios, too.
#[derive(Args, Debug)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(self, command: Command) -> Result<u8, CliError> {
        let mut script = Vec::new();
        let mut command = with_names(command);
        clap_complete::generate(self.shell, &mut command, "tdxlab", &mut script);
        output::print(String::from_utf8_lossy(&script));
        Ok(exit::PASSED)
    }
}

/// The command line with every name that an option takes. Only scripts want them: as the values that
/// an option allows they would fill the screen at every mistake, and the lab names the nearest.
fn with_names(command: Command) -> Command {
    command.mut_subcommands(with_names).mut_args(|arg| {
        let names = match arg.get_long() {
            Some("fault") => faults::all().map(|fault| fault.name).collect(),
            Some("design" | "designs") => designs(),
            Some("scenario") => scenarios(),
            _ => return arg,
        };
        complete(arg, names)
    })
}

fn complete(arg: Arg, names: Vec<&'static str>) -> Arg {
    arg.value_parser(PossibleValuesParser::new(names))
}

fn designs() -> Vec<&'static str> {
    let twins = Design::converting_otherwise();
    let all = Design::all().iter().chain(twins);
    all.map(|design| design.name).collect()
}

/// Scenarios of the default set, without the points of a matrix, whose names no shell takes unquoted.
fn scenarios() -> Vec<&'static str> {
    let all = scenario::embedded().unwrap_or_default();
    // They live as long as the process, which ends when the script is printed.
    all.iter()
        .map(|one| &*one.name().to_owned().leak())
        .collect()
}
