//! `tdxlab l1`: runs a command on a real kernel with a real KVM, booted in QEMU.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, ValueEnum};
use tdxlab_l1 as l1;
use tdxlab_l1::{
    AcceleratorChoice, Ended, KernelChoice, L1Error, Memory, Options, Outcome, Sink, Timing,
};

use super::error::CliError;
use super::{Cli, output, signals};

/// Boot a real kernel with a real KVM in QEMU and run a command in it.
///
/// The command sees this machine's files under the same paths; what it writes stays in the L1's
/// memory, but for the report folder, which comes back. `tdxlab`'s own commands need no program
/// name: `tdxlab l1 -- run scenarios/kvm --host kvm`.
#[derive(Args, Debug)]
pub(super) struct L1 {
    /// Kernel: a bzImage or vmlinux, PACKAGE or PACKAGE@SUITE, `distribution` or `newest`
    #[arg(long, value_name = "KERNEL", default_value = "distribution")]
    kernel: KernelChoice,

    /// Folder of the kernel's modules, where it is not found beside the image
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,

    /// Download the package even if it is cached
    #[arg(long)]
    refresh: bool,

    /// Memory of the L1
    #[arg(long, value_name = "SIZE", default_value_t = Memory::USUAL)]
    memory: Memory,

    /// What executes the L1's instructions
    #[arg(long, value_enum, default_value_t = AcceleratorName::Auto)]
    accel: AcceleratorName,

    /// QEMU to run
    #[arg(
        long,
        value_name = "PATH",
        env = "TDXLAB_QEMU",
        default_value = "qemu-system-x86_64"
    )]
    qemu: PathBuf,

    /// Time limit without a sign of life, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,

    /// Folder of which new and changed files come back, here and in the L1; also gets the console
    /// output
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,

    /// Print time-stamped progress
    #[arg(long, short)]
    verbose: bool,

    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl L1 {
    /// The exit code is the command's own, or 128 and the signal that ended it.
    pub(super) fn execute(self) -> Result<u8, CliError> {
        let folder = std::env::current_dir().map_err(|source| CliError::System {
            doing: "finding the working folder".to_owned(),
            source,
        })?;
        let verbose = self.verbose;
        let options = Options {
            kernel: self.kernel,
            modules: self.modules,
            fresh: self.refresh,
            accelerator: self.accel.into(),
            memory: self.memory,
            qemu: self.qemu,
            patience: Duration::from_secs(self.patience),
            command: resolved(self.command)?,
            report: Some(folder.join(&self.out)),
            folder,
        };
        let outcome = run(&options)?;
        let writes_elsewhere = |word: &String| word == "--out" || word.starts_with("--out=");
        if outcome.files == 0 && options.command.iter().any(writes_elsewhere) {
            output::note(format!(
                "l1: no report came back: the command wrote nothing below {}; give --out the same \
                 folder before and after `--`",
                self.out.display()
            ));
        }
        if verbose || io::stderr().is_terminal() {
            output::note(format!("l1: {}", summary(&outcome)));
        }
        Ok(exit_code(&outcome))
    }
}

/// Runs a command in an L1, with its output on ours.
pub(super) fn run(options: &Options) -> Result<Outcome, CliError> {
    let interrupt = signals::install()?;
    let (mut out, mut err) = (output::Stdout, io::stderr());
    let mut sink = Sink {
        out: &mut out,
        err: &mut err,
        note: &mut |text| output::note(format!("l1: {text}")),
    };
    Ok(l1::run(options, &mut sink, interrupt)?)
}

/// How the command in an L1 ended, as an exit code.
pub(super) fn exit_code(outcome: &Outcome) -> u8 {
    match outcome.ended {
        Ended::Code(code) => u8::try_from(code).unwrap_or(255),
        Ended::Signal(signal) => 128 + u8::try_from(signal).unwrap_or(127),
    }
}

/// The command with `tdxlab` replaced by this program's path.
fn resolved(command: Vec<String>) -> Result<Vec<String>, CliError> {
    let own_command = |word: &str| Cli::command().find_subcommand(word).is_some();
    let skip = match command.first().map(String::as_str) {
        Some("tdxlab") => 1,
        Some(word) if own_command(word) => 0,
        _ => return Ok(command),
    };
    let own = std::env::current_exe().map_err(|source| CliError::System {
        doing: "finding this program".to_owned(),
        source,
    })?;
    let own = own
        .into_os_string()
        .into_string()
        .map_err(|path| L1Error::Usage {
            what: format!("{} is not UTF-8", path.display()),
        })?;
    Ok([own]
        .into_iter()
        .chain(command.into_iter().skip(skip))
        .collect())
}

/// One line about an L1 that answered.
fn summary(outcome: &Outcome) -> String {
    let Timing {
        hello,
        command,
        done,
        ..
    } = outcome.timing;
    let seconds = |at: Option<Duration>| {
        at.map_or_else(|| "?".into(), |at| format!("{:.1}", at.as_secs_f64()))
    };
    format!(
        "kernel {} on {}, up after {} s, command after {} s, all after {} s, {} report files",
        outcome.release,
        outcome.accelerator,
        seconds(hello),
        seconds(command),
        seconds(done),
        outcome.files
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &[&str]) -> Vec<String> {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        resolved(command).unwrap()
    }

    #[test]
    fn own_commands_need_no_program() {
        let own = std::env::current_exe().unwrap().display().to_string();
        assert_eq!(words(&["run", "x"]), [own.as_str(), "run", "x"]);
        assert_eq!(words(&["tdxlab", "run"]), [own.as_str(), "run"]);
        assert_eq!(words(&["/bin/sh", "-c", "true"]), ["/bin/sh", "-c", "true"]);
    }
}

/// What shall run the L1's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AcceleratorName {
    /// The machine's KVM where it runs guests and lets them use KVM themselves, else the translator.
    Auto,
    /// QEMU's translator: works everywhere.
    Tcg,
    /// The machine's KVM: fast, where it lets its guests use KVM themselves.
    Kvm,
}

impl From<AcceleratorName> for AcceleratorChoice {
    fn from(name: AcceleratorName) -> AcceleratorChoice {
        match name {
            AcceleratorName::Auto => AcceleratorChoice::Auto,
            AcceleratorName::Tcg => AcceleratorChoice::Tcg,
            AcceleratorName::Kvm => AcceleratorChoice::Kvm,
        }
    }
}
