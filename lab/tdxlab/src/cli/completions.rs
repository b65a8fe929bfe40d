//! `tdxlab completions`: completion scripts.

use clap::Args;
use clap_complete::Shell;

use super::error::CliError;
use super::{exit, output};

/// Prints a completion script, for example: tdxlab completions bash >> ~/.bash_completion
#[derive(Args, Debug)]
pub(super) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(self, mut command: clap::Command) -> Result<u8, CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "tdxlab", &mut script);
        output::print(String::from_utf8_lossy(&script));
        Ok(exit::PASSED)
    }
}
