//! `tdxlab man`: the manual pages.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use tdxlab_journal::folder::write_whole;

use super::error::CliError;
use super::{exit, output};

/// Prints a manual page, or writes all of them.
#[derive(Args, Debug)]
pub(super) struct Man {
    /// The page of this command, such as `run` or `report diff`
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    of: Vec<String>,
    /// Write every page into this directory: tdxlab.1, tdxlab-run.1, tdxlab-report-diff.1
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(super) fn execute(self, command: Command) -> Result<u8, CliError> {
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder).map_err(|source| CliError::System {
                doing: format!("making {}", folder.display()),
                source,
            })?;
            write_all(command, "tdxlab", folder)?;
            return Ok(exit::PASSED);
        }
        let mut page = command;
        let mut name = "tdxlab".to_owned();
        // `report-diff` is the name of the page, `report diff` that of the command.
        for word in self.of.iter().flat_map(|word| word.split('-')) {
            page = page.find_subcommand(word).cloned().ok_or_else(|| {
                CliError::usage(
                    format!("there is no command `{}`", self.of.join(" ")),
                    "`tdxlab --help` lists the commands",
                )
            })?;
            name = format!("{name}-{word}");
        }
        output::print(String::from_utf8_lossy(&render(page, &name)?));
        Ok(exit::PASSED)
    }
}

/// Writes the page of a command, and of every command in it.
fn write_all(command: Command, name: &str, folder: &Path) -> Result<(), CliError> {
    let inner: Vec<Command> = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
        .cloned()
        .collect();
    let path = folder.join(format!("{name}.1"));
    write_whole(&path, &render(command, name)?)?;
    output::say(path.display());
    for inner in inner {
        let name = format!("{name}-{}", inner.get_name());
        write_all(inner, &name, folder)?;
    }
    Ok(())
}

fn render(command: Command, name: &str) -> Result<Vec<u8>, CliError> {
    let command = command
        .display_name(name.to_owned())
        .bin_name(name.replace('-', " "));
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|source| CliError::System {
            doing: format!("making the manual page {name}"),
            source,
        })?;
    Ok(page)
}
