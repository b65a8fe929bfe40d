//! Options that several commands share.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tdxlab_faults as faults;
use tdxlab_faults::Fault;
use tdxlab_host::Host;
use tdxlab_journal::input;
use tdxlab_judge::AllowList;
use tdxlab_plan::{Design, HostKind, TdxModule};

use super::error::CliError;
use super::output;
use tdxlab_launch::select::Choice;

/// Scenarios to work on.
#[derive(Args, Clone, Debug)]
pub(super) struct Scenarios {
    /// Scenario files, folders of them, or names of the default set; without any, all of that set
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// RNG seed, in place of those in the scenarios
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

/// The TDX module that a host of software plays, as said on the command line.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct PlayedModule {
    /// TDX module that a host of software plays: 1.5.01, 1.5.25, 1.5.34 or 2.0.18; a scenario may need
    /// another
    #[arg(long, value_name = "V")]
    pub module: Option<TdxModule>,
}

/// Where guests run, as said on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum HostName {
    /// The best this machine has: tdx, else soft, else sim
    Auto,
    /// A TD on a TDX host
    Tdx,
    /// A plain VM on a real KVM
    Kvm,
    /// QEMU, over a software KVM and TDX module
    Soft,
    /// An in-process guest, over the same software KVM and TDX module
    Sim,
}

impl HostName {
    /// The kind of host it names; `None` for `auto`.
    pub(super) fn kind(self) -> Option<HostKind> {
        match Choice::from(self) {
            Choice::Auto => None,
            Choice::Only(kind) => Some(kind),
        }
    }
}

impl From<HostName> for Choice {
    fn from(name: HostName) -> Choice {
        match name {
            HostName::Auto => Choice::Auto,
            HostName::Tdx => Choice::Only(HostKind::Tdx),
            HostName::Kvm => Choice::Only(HostKind::Kvm),
            HostName::Soft => Choice::Only(HostKind::Soft),
            HostName::Sim => Choice::Only(HostKind::Sim),
        }
    }
}

/// The default design of software hosts.
const USUAL_DESIGN: &str = "headtail";

/// The design of that name.
pub(super) fn design(name: &str) -> Result<&'static Design, CliError> {
    Design::named(name).ok_or_else(|| {
        let all = Design::all().iter().chain(Design::converting_otherwise());
        let known: Vec<&str> = all.map(|design| design.name).collect();
        CliError::usage(
            format!("there is no design `{name}`"),
            format!("designs are {}", known.join(", ")),
        )
    })
}

/// The fault of that name, if one was named.
pub(super) fn fault(name: Option<&str>) -> Result<Option<&'static Fault>, CliError> {
    let Some(name) = name else {
        return Ok(None);
    };
    faults::named(name).map(Some).ok_or_else(|| {
        let nearest = faults::all().max_by(|a, b| {
            strsim::jaro_winkler(a.name, name).total_cmp(&strsim::jaro_winkler(b.name, name))
        });
        let help = match nearest {
            Some(fault) => format!(
                "the nearest is `{}`; `tdxlab faults` lists them all",
                fault.name
            ),
            None => "`tdxlab faults` lists them all".to_owned(),
        };
        CliError::usage(format!("there is no fault `{name}`"), help)
    })
}

/// Refuses options that were given and that a rehearsal does not have.
pub(super) fn of_sim_only(options: &[(&str, bool)]) -> Result<(), CliError> {
    match options.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(CliError::usage(
            format!("{option} is not for --host rehearsal"),
            "leave it out",
        )),
    }
}

/// The value of an option: as given, else that of its environment variable, unless that is empty. It is no
/// part of the command line, with whose words it would be in conflict there.
pub(super) fn or_environment<T: ValueEnum>(
    given: Option<T>,
    variable: &str,
) -> Result<Option<T>, CliError> {
    let value = std::env::var(variable).unwrap_or_default();
    if given.is_some() || value.is_empty() {
        return Ok(given);
    }
    T::from_str(&value, true).map(Some).map_err(|_| {
        let values = T::value_variants().iter();
        let known: Vec<String> = values
            .filter_map(|one| Some(one.to_possible_value()?.get_name().to_owned()))
            .collect();
        CliError::usage(
            format!("{variable} is `{value}`"),
            format!("it can be {}", known.join(", ")),
        )
    })
}

/// The kernel log lines that may appear, from the file that lists them.
pub(super) fn allow_list(path: Option<&Path>) -> Result<AllowList, CliError> {
    let Some(path) = path else {
        return Ok(AllowList::default());
    };
    let text = input::open(path)
        .and_then(io::read_to_string)
        .map_err(|source| {
            CliError::usage(
                format!("cannot read {}: {source}", path.display()),
                "--allow-log wants a text file",
            )
        })?;
    AllowList::parse(&text).map_err(|error| {
        CliError::usage(
            format!("{}: {error}", path.display()),
            "write more of the line that is to pass",
        )
    })
}

/// The kernel log lines of this file, or those that a run was started with.
pub(super) fn allow_list_or(
    path: Option<&Path>,
    recorded: &[String],
) -> Result<AllowList, CliError> {
    if path.is_some() {
        return allow_list(path);
    }
    AllowList::parse(&recorded.join("\n")).map_err(|error| {
        CliError::usage(
            format!("the recorded list of log lines: {error}"),
            "give another with --allow-log",
        )
    })
}

impl From<HostKind> for HostName {
    fn from(kind: HostKind) -> HostName {
        match kind {
            HostKind::Tdx => HostName::Tdx,
            HostKind::Kvm => HostName::Kvm,
            HostKind::Soft => HostName::Soft,
            HostKind::Sim => HostName::Sim,
        }
    }
}

/// The design to judge by: the one given, else the one detected on the host, else [`USUAL_DESIGN`].
/// A conflict of the first two is reported, not resolved. A TDX host boots a TD for detection even
/// if a design is given: there is no other way to find out, and a run judged by the wrong design
/// proves nothing.
pub(super) fn design_for(asked: Option<&'static Design>, host: &dyn Host) -> &'static Design {
    let found = host.design();
    if let Some(misfit) = asked.and_then(|asked| host.misfit(asked)) {
        output::note(format!("design {misfit}"));
    }
    asked
        .or(found)
        .unwrap_or_else(|| Design::named(USUAL_DESIGN).expect("it is a design"))
}
