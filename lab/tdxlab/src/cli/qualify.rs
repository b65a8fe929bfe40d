//! `tdxlab qualify`: seeds every fault, and shows which scenario catches it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::Cell;
use tdxlab_faults as faults;
use tdxlab_faults::Fault;
use tdxlab_fuzz::qualify::{self, Matrix, Row};
use tdxlab_host_kvm::tdx;
use tdxlab_plan::HostKind;
use tdxlab_report::table;

use super::error::CliError;
use super::kernel_bugs::{self, KernelBugs};
use super::options::{self, PlayedModule, Scenarios};
use super::rehearse::Rehearse;
use super::{exit, load, output, signals};
use tdxlab_launch::select::{self, Choice, Played};

/// Runs the scenarios under every seeded fault and shows which scenario catches it, at which step,
/// by which witnesses. Exits with 1 where one is not caught, or only by unexpected witnesses.
///
/// Each fault is tried under the design it is a fault of. On sim all scenarios run under every
/// fault; on soft the first that catches it as expected is enough. With --host rehearsal, bugs are
/// seeded into KVM's own code, in one emulated machine; without paths, the few plans that reach each run.
#[derive(Args, Debug)]
pub(super) struct Qualify {
    #[command(flatten)]
    scenarios: Scenarios,
    /// Where guests run
    #[arg(long, value_enum, default_value = "sim")]
    host: SoftwareHost,
    #[command(flatten)]
    played: PlayedModule,
    /// With --host rehearsal: folder of programs that are run under each bug, too; by default KVM's
    /// own selftests for private memory, of the kernel that is rehearsed
    #[arg(long, value_name = "DIR")]
    selftests: Option<PathBuf>,
    /// Only this fault; may be given several times
    #[arg(long, value_name = "NAME")]
    fault: Vec<String>,
    /// Faults tried in parallel; by default one per CPU
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Time limit of a single operation; a guest that exceeds it counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    patience: u64,
    /// Print every finding of what caught a fault
    #[arg(long)]
    findings: bool,
    /// Print JSON, one fault a line
    #[arg(long, conflicts_with_all = ["markdown", "findings"])]
    json: bool,
    /// Print tables in Markdown, as in the chapter on faults
    #[arg(long, conflicts_with = "findings")]
    markdown: bool,
}

/// A host that faults can be seeded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SoftwareHost {
    /// An in-process guest over the software KVM and TDX module
    Sim,
    /// QEMU over the same
    Soft,
    /// KVM's own TDX code in an emulated machine, with bugs seeded into it
    Rehearsal,
}

impl From<SoftwareHost> for HostKind {
    fn from(host: SoftwareHost) -> HostKind {
        match host {
            SoftwareHost::Sim => HostKind::Sim,
            SoftwareHost::Soft => HostKind::Soft,
            SoftwareHost::Rehearsal => HostKind::Tdx,
        }
    }
}

impl Qualify {
    pub(super) fn execute(self) -> Result<u8, CliError> {
        if self.host == SoftwareHost::Rehearsal {
            return self.rehearse();
        }
        if self.selftests.is_some() {
            return Err(CliError::usage(
                "--selftests are run on a real KVM",
                "add `--host rehearsal`",
            ));
        }
        let items = load::items_for(&self.scenarios, self.host.into())?;
        let faults = self.faults()?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let interrupt = signals::install()?;
        let choice = Choice::Only(self.host.into());
        let module = self.played.module;
        let open = move |fault| {
            let played = Played {
                module,
                ..Played::from(fault)
            };
            Ok(select::select_with(choice, played)?.host)
        };
        let matrix = qualify::Qualify {
            items: &items,
            faults: &faults,
            host: self.host.into(),
            module,
            open: &open,
            jobs: self.jobs.map_or(processors, usize::from),
            patience: Duration::from_secs(self.patience),
            interrupt,
            watcher: &|row| {
                if row.catches.is_empty() {
                    output::note(format!("{} {}", row.fault.name, row.escape()));
                }
            },
        }
        .run()?;
        self.show(&matrix);
        Ok(if interrupt.is_raised() {
            exit::INTERRUPTED
        } else if matrix.escaped().chain(matrix.unexpected()).next().is_some() {
            exit::FAILED
        } else {
            exit::PASSED
        })
    }

    /// In the emulated machine: tries the bugs. Outside: boots one, with this very command in it.
    fn rehearse(&self) -> Result<u8, CliError> {
        options::of_sim_only(&[
            ("--module", self.played.module.is_some()),
            ("--jobs", self.jobs.is_some()),
        ])?;
        kernel_bugs::named(&self.fault)?;
        if !tdx::is_rehearsal() {
            let inside = Rehearse::of_this_program(std::env::args_os().skip(1));
            return match &self.selftests {
                Some(_) => inside.execute(),
                None => inside.with_selftests().execute(),
            };
        }
        let form = match (self.json, self.markdown) {
            (true, _) => kernel_bugs::Form::Json,
            (_, true) => kernel_bugs::Form::Markdown,
            _ => kernel_bugs::Form::Table {
                findings: self.findings,
            },
        };
        let bugs = KernelBugs {
            scenarios: &self.scenarios,
            bugs: &self.fault,
            selftests: self.selftests.as_deref(),
            patience: Duration::from_secs(self.patience),
            interrupt: signals::install()?,
        };
        bugs.run(form)
    }

    fn faults(&self) -> Result<Vec<&'static Fault>, CliError> {
        if self.fault.is_empty() {
            return Ok(faults::all().collect());
        }
        self.fault
            .iter()
            .filter_map(|name| options::fault(Some(name)).transpose())
            .collect()
    }

    fn show(&self, matrix: &Matrix) {
        if self.json {
            for row in &matrix.rows {
                output::say(json(row, matrix.host));
            }
            return;
        }
        if self.markdown {
            output::print(qualify::markdown(matrix));
            return;
        }
        let mut table = table::table(["fault", "caught by", "step", "witnesses", "plans"]);
        for row in &matrix.rows {
            table.add_row(self.cells(row));
        }
        output::say(table.trim_fmt());
        self.unjudged(matrix);
        for row in matrix.unexpected() {
            output::note(format!(
                "{} is caught, but not by the expected witness ({})",
                row.fault.name,
                row.fault
                    .witnesses
                    .first()
                    .map_or("none", |first| first.name())
            ));
        }
        let untried = match matrix.untried {
            0 => String::new(),
            untried => format!(", {untried} not tried"),
        };
        output::say(format!(
            "\n{} of {} faults caught on {} in {:.1} s, {} by the expected witness, {} by two \
             witnesses or more at one step{untried}",
            matrix.rows.len() - matrix.escaped().count(),
            matrix.rows.len(),
            matrix.host.name(),
            matrix.took.as_secs_f64(),
            matrix.as_expected(),
            matrix.by_two_witnesses(),
        ));
    }

    fn cells(&self, row: &Row) -> Vec<Cell> {
        let plans = table::number(format!("{}/{}", row.catches.len(), row.plans));
        let Some(best) = row.best() else {
            let escape = row.escape().to_uppercase();
            let nothing = [row.fault.name, &escape, "", ""];
            return nothing.map(Cell::new).into_iter().chain([plans]).collect();
        };
        let witnesses: Vec<&str> = best.witnesses.iter().map(|one| one.name()).collect();
        let step = match best.step {
            Some(step) => format!("{step}: {}", best.action),
            None => best.action.clone(),
        };
        let said = match self.findings {
            true => best.findings.join("\n"),
            false => witnesses.join(", "),
        };
        vec![
            Cell::new(row.fault.name),
            Cell::new(&best.name),
            Cell::new(step),
            Cell::new(said),
            plans,
        ]
    }

    /// Plans that could not be judged under a fault: the fault is caught by others, or it escapes.
    fn unjudged(&self, matrix: &Matrix) {
        for row in &matrix.rows {
            for one in &row.unjudged {
                output::note(format!(
                    "{}: {} was not judged: {}",
                    row.fault.name, one.plan, one.reason
                ));
            }
        }
    }
}

fn json(row: &Row, host: HostKind) -> serde_json::Value {
    serde_json::json!({
        "fault": row.fault.name,
        "host": host,
        "design": row.fault.design,
        "rows": row.fault.rows,
        "expected": row.fault.witnesses,
        "best": row.best(),
        "as_expected": row.best().is_some_and(|best| row.is_expected(best)),
        "plans": row.plans,
        "reached": row.reached,
        "caught_by": row.catches.iter().map(|one| &one.name).collect::<Vec<_>>(),
        "unjudged": row.unjudged,
        "micros": u64::try_from(row.took.as_micros()).unwrap_or(u64::MAX),
    })
}
