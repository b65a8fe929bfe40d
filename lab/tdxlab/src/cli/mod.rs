//! The command line. One file per command.

mod check;
mod compare;
mod compare_kernel;
mod completions;
mod cost;
mod doctor;
mod error;
mod examples;
pub mod exit;
mod faults;
mod fuzz;
mod init;
mod judge;
mod kernel_bugs;
mod kselftest;
mod ktap;
mod l1;
mod linux;
mod list;
mod load;
mod man;
mod options;
mod output;
mod predict;
mod progress;
mod prompt;
mod qualify;
mod recorded;
mod rehearse;
mod replay;
mod replayer;
mod report;
mod rounds;
mod run;
mod schema;
mod signals;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use error::CliError;

/// Tests how Linux KVM handles huge pages of Intel TDX guests.
///
/// Boots a guest in QEMU, accepts memory, punches holes, converts ranges, and judges after every
/// step whether the right leaves were split and no guest data was lost.
#[derive(Debug, Parser)]
#[command(name = "tdxlab", version, max_term_width = 100, after_help = exit::help())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios and judge every step
    Run(run::Run),
    /// Validate scenarios without starting anything
    Check(check::Check),
    /// Print what every step must show; starts no guest
    Predict(predict::Predict),
    /// Run scenarios under several designs, side by side
    Compare(compare::Compare),
    /// List scenarios
    List(list::List),
    /// Rehearse the tdx host on a machine without TDX
    Rehearse(rehearse::Rehearse),
    /// List the faults that can be seeded into a host
    Faults(faults::Faults),
    /// Seed every fault and show what catches it
    Qualify(qualify::Qualify),
    /// Run random scenarios, and shrink the first that fails
    Fuzz(fuzz::FuzzCommand),
    /// Run a recorded plan again, exactly as it was
    Replay(replay::ReplayCommand),
    /// Judge a recorded run again, without a host
    Judge(judge::JudgeCommand),
    /// Show the report of a run, and write its files again
    Report(report::ReportCommand),
    /// Boot a real kernel with a real KVM in QEMU, and run a command in it
    L1(l1::L1),
    /// Run scenarios of Linux guests
    Linux(linux::Linux),
    /// What an L1 starts with
    #[command(name = tdxlab_l1::INIT_COMMAND, hide = true)]
    L1Init,
    /// Lay out a folder to start from
    Init(init::Init),
    /// Write a directory for the kernel's tools/testing/selftests
    Kselftest(kselftest::Kselftest),
    /// Check what this machine can run, and say what to do about the rest
    Doctor(doctor::Doctor),
    /// Print a JSON Schema
    Schema(schema::Schema),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print the manual page
    Man(man::Man),
}

/// Runs the command line and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    signals::survive_file_limits();
    // Checked before parsing: an error in the command line must not count as a bad commit.
    if !args.iter().any(|word| word == BISECT) {
        return exit::code(run(args));
    }
    let code = std::panic::catch_unwind(|| run(args)).unwrap_or(exit::LAB);
    exit::code(exit::bisect(code))
}

/// The option whose exit codes are those of `git bisect run`, whichever command has it.
const BISECT: &str = "--bisect";

fn run(args: Vec<OsString>) -> u8 {
    let parsed = command_line()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let _ = nested(error).print();
            return exit::USAGE;
        }
        Err(help) => {
            output::note_failure(help.print());
            return after_output(exit::PASSED);
        }
    };
    match execute(cli.command) {
        Ok(code) => after_output(code),
        Err(error) => {
            let code = error.exit_code();
            show(error);
            code
        }
    }
}

/// The exit code of a command that has come to its end: results that could not be written are lost,
/// whatever they said.
fn after_output(code: u8) -> u8 {
    match output::failure() {
        Some(error) if code != exit::INTERRUPTED => {
            output::note(format!("tdxlab: cannot write to standard output: {error}"));
            exit::LAB
        }
        _ => code,
    }
}

fn execute(command: Command) -> Result<u8, CliError> {
    match command {
        Command::Run(run) => run.execute(),
        Command::Check(check) => check.execute(),
        Command::Predict(predict) => predict.execute(),
        Command::Compare(compare) => compare.execute(),
        Command::List(list) => list.execute(),
        Command::Qualify(qualify) => qualify.execute(),
        Command::Faults(faults) => faults.execute(),
        Command::Fuzz(fuzz) => fuzz.execute(),
        Command::Replay(replay) => replay.execute(),
        Command::Judge(judge) => judge.execute(),
        Command::Report(report) => report.execute(),
        Command::Rehearse(rehearse) => rehearse.execute(),
        Command::L1(l1) => l1.execute(),
        Command::Linux(linux) => linux.execute(),
        Command::L1Init => tdxlab_l1::init::main(),
        Command::Init(init) => init.execute(),
        Command::Kselftest(kselftest) => kselftest.execute(),
        Command::Doctor(doctor) => doctor.execute(),
        Command::Schema(schema) => schema.execute(),
        Command::Completions(completions) => completions.execute(command_line()),
        Command::Man(man) => man.execute(command_line()),
    }
}

/// The command line as clap knows it.
pub fn command_line() -> clap::Command {
    examples::with_examples(Cli::command().bin_name("tdxlab"))
}

/// For `tdxlab diff`, the command of that name that another command has: `report diff`.
fn nested(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let command = command_line();
    let mut found: Vec<String> = command
        .get_subcommands()
        .filter(|outer| outer.find_subcommand(word).is_some())
        .map(|outer| format!("{} {word}", outer.get_name()))
        .collect();
    // A command of earlier versions.
    if word == "soak" {
        found = vec!["run --repeat".to_owned()];
    }
    if !found.is_empty() {
        error.insert(
            ContextKind::SuggestedSubcommand,
            ContextValue::Strings(found),
        );
    }
    error
}

/// Each invalid scenario is a separate diagnostic, not a detail of one.
fn show(error: CliError) {
    match error {
        CliError::Scenarios(errors) => {
            for error in errors {
                output::note(format!("{:?}", miette::Report::new(error)));
            }
        }
        other => output::note(format!("{:?}", miette::Report::new(other))),
    }
}
