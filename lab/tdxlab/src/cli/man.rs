//! `tdxlab man`: the manual page.

use clap::Args;

use super::error::CliError;
use super::{exit, output};

/// Prints the manual page, for example: tdxlab man | man -l -
#[derive(Args, Debug)]
pub(super) struct Man {
    /// The page of this command
    #[arg(value_name = "COMMAND")]
    of: Option<String>,
}

impl Man {
    pub(super) fn execute(self, command: clap::Command) -> Result<u8, CliError> {
        let command = match &self.of {
            None => command,
            Some(name) => {
                let page = command.find_subcommand(name).cloned().ok_or_else(|| {
                    CliError::usage(
                        format!("there is no command `{name}`"),
                        "see `tdxlab --help` for the commands there are",
                    )
                })?;
                page.display_name(format!("tdxlab-{name}"))
                    .bin_name(format!("tdxlab {name}"))
            }
        };
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|source| CliError::System {
                doing: "making the manual page".to_owned(),
                source,
            })?;
        output::print(String::from_utf8_lossy(&page));
        Ok(exit::PASSED)
    }
}
