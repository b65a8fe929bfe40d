//! `tdxlab qualify --host rehearsal`: bugs seeded into KVM's own code, and what catches each.
//!
//! One emulated machine serves all of them: a parameter of KVM seeds the bug, and the TD of each plan is
//! judged as any other on `tdx`. What fails is only believed where it passes without the bug.

mod reach;
mod row;
mod selftests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use reach::REACHES;
pub(super) use row::Form;
use row::{DESIGN, Row, show};
use selftests::Selftests;
use tdxlab_fuzz::qualify::{Catch, Unjudged, caught};
use tdxlab_host::Host;
use tdxlab_host_kvm::kvm::KvmHost;
use tdxlab_journal::{Verdict, Witness};
use tdxlab_plan::{Design, HostKind};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_run::{InMemoryRunner, PlanResult, TestCase};
use tdxlab_softtdx::Bug;

use super::error::CliError;
use super::options::Scenarios;
use super::{exit, load, output};
use tdxlab_launch::select;

/// What a host says of a guest that never answers.
const NO_ANSWER: &str = "guest did not answer";

/// KVM's parameters.
const PARAMETERS: &str = "/sys/module/kvm/parameters";

/// What is asked for.
pub(super) struct KernelBugs<'a> {
    pub(super) scenarios: &'a Scenarios,
    /// Names of bugs; none for all.
    pub(super) bugs: &'a [String],
    /// Folder of programs that are run under each bug, too.
    pub(super) selftests: Option<&'a Path>,
    pub(super) patience: Duration,
    pub(super) interrupt: &'static Interrupt,
}

/// The bugs of these names, or all.
pub(super) fn named(names: &[String]) -> Result<Vec<&'static Bug>, CliError> {
    if names.is_empty() {
        return Ok(tdxlab_softtdx::bugs().iter().collect());
    }
    let known = |name: &String| {
        let bug = tdxlab_softtdx::bugs().iter().find(|bug| bug.name == name);
        bug.ok_or_else(|| {
            CliError::usage(
                format!("there is no kernel bug `{name}`"),
                "`tdxlab rehearse --bug list` names them all",
            )
        })
    };
    names.iter().map(known).collect()
}

impl KernelBugs<'_> {
    /// Tries them all on this machine, which is that of a rehearsal.
    pub(super) fn run(&self, form: Form) -> Result<u8, CliError> {
        let bugs = named(self.bugs)?;
        let started = Instant::now();
        let kvm = Kvm::with_design(DESIGN.0)?;
        let hosts = [
            Box::new(select::tdx()?) as Box<dyn Host>,
            Box::new(KvmHost::find()?),
        ];
        let selftests = self
            .selftests
            .map(|folder| Selftests::sound(folder, self.patience));
        let selftests = selftests.transpose()?;
        let mut trial = Trial {
            kvm,
            selftests,
            hosts,
            patience: self.patience,
            sound: BTreeMap::new(),
        };
        let mut rows = Vec::new();
        for (index, bug) in bugs.iter().enumerate() {
            if self.interrupt.is_raised() {
                break;
            }
            let reach = REACHES.iter().find(|reach| reach.bug == bug.name);
            let (items, first_only) = match reach.filter(|_| self.scenarios.paths.is_empty()) {
                Some(reach) => (reach.items()?, true),
                None => (load::items_for(self.scenarios, HostKind::Tdx)?, false),
            };
            let mut row = trial.bug(bug, reach.and_then(|one| one.witness), &items, first_only)?;
            row.why_not = reach.and_then(|one| one.why_not);
            output::note(format!("[{}/{}] {}", index + 1, bugs.len(), row.said()));
            rows.push(row);
        }
        show(&rows, form, started.elapsed());
        Ok(if self.interrupt.is_raised() {
            exit::INTERRUPTED
        } else if rows.iter().any(Row::escaped) {
            exit::FAILED
        } else {
            exit::PASSED
        })
    }
}

/// KVM of this machine, whose parameters are as they were when this is let go.
struct Kvm {
    design: String,
}

impl Kvm {
    fn with_design(design: &str) -> Result<Kvm, CliError> {
        let path = Path::new(PARAMETERS).join("softtdx_design");
        let before = fs::read_to_string(&path).map_err(|source| CliError::System {
            doing: format!("reading {}", path.display()),
            source,
        })?;
        set("softtdx_design", design)?;
        Ok(Kvm { design: before })
    }

    fn seed(&self, bug: &str) -> Result<(), CliError> {
        set("softtdx_bug", bug)
    }
}

impl Drop for Kvm {
    fn drop(&mut self) {
        // The machine ends with this program; only a shell in it would see the difference.
        let _ = set("softtdx_bug", "none");
        let _ = set("softtdx_design", self.design.trim());
    }
}

fn set(parameter: &str, value: &str) -> Result<(), CliError> {
    let path = Path::new(PARAMETERS).join(parameter);
    fs::write(&path, value).map_err(|source| CliError::System {
        doing: format!("writing {value} to {}", path.display()),
        source,
    })
}

/// Plans on this machine, with a bug and without.
struct Trial {
    kvm: Kvm,
    selftests: Option<Selftests>,
    /// Of TDs, and of plain VMs.
    hosts: [Box<dyn Host>; 2],
    patience: Duration,
    /// Plans that were run without a bug, and whether they passed.
    sound: BTreeMap<String, bool>,
}

impl Trial {
    fn bug(
        &mut self,
        bug: &'static Bug,
        expected: Option<Witness>,
        items: &[TestCase],
        first_only: bool,
    ) -> Result<Row, CliError> {
        let started = Instant::now();
        let mut row = Row {
            bug,
            expected,
            why_not: None,
            plans: 0,
            catches: Vec::new(),
            unjudged: Vec::new(),
            selftests: None,
            took: Duration::ZERO,
        };
        for (index, item) in items.iter().enumerate() {
            if Interrupt::of_process().is_raised() {
                break;
            }
            self.kvm.seed(bug.name)?;
            let tried = self.run(item)?;
            let verdict = tried.outcome.verdict;
            if verdict == Verdict::Skip {
                continue;
            }
            row.plans += 1;
            if verdict == Verdict::Pass {
                continue;
            }
            let unjudged = |reason: String| Unjudged {
                plan: item.plan.name.clone(),
                reason,
            };
            if !self.passes(item)? {
                let reason = "it does not pass without the bug either".to_owned();
                row.unjudged.push(unjudged(reason));
            } else if let Some(catch) =
                caught(index, item, &tried).or_else(|| hung(index, item, &tried))
            {
                row.catches.push(catch);
            } else {
                let reason = tried.outcome.reason.unwrap_or_default();
                row.unjudged.push(unjudged(reason));
            }
            if first_only && row.as_expected() {
                break;
            }
        }
        if let Some(selftests) = &self.selftests {
            self.kvm.seed(bug.name)?;
            row.selftests = Some(selftests.failing()?);
        }
        row.took = started.elapsed();
        Ok(row)
    }

    fn run(&self, item: &TestCase) -> Result<PlanResult, CliError> {
        let [of_tds, of_plain_vms] = &self.hosts;
        let (host, design) = match item.plan.guest.backing {
            None => (of_tds, Design::named(DESIGN.1)),
            Some(_) => (of_plain_vms, of_plain_vms.design()),
        };
        let design = design.expect("the host has a design");
        let runner = InMemoryRunner::new(host.as_ref(), design)?.with_patience(self.patience);
        Ok(runner.run(item))
    }

    fn passes(&mut self, item: &TestCase) -> Result<bool, CliError> {
        if let Some(&known) = self.sound.get(&item.plan.name) {
            return Ok(known);
        }
        self.kvm.seed("none")?;
        let passes = self.run(item)?.outcome.verdict == Verdict::Pass;
        self.sound.insert(item.plan.name.clone(), passes);
        Ok(passes)
    }
}

/// A guest that never comes back from an operation that it comes back from without the bug. A run says of
/// it that it could not be judged.
fn hung(index: usize, item: &TestCase, tried: &PlanResult) -> Option<Catch> {
    let reason = tried.outcome.reason.as_ref()?;
    if !reason.contains(NO_ANSWER) {
        return None;
    }
    let step = tried.control.as_ref().map(|_| tried.steps.len());
    let line = step.and_then(|step| item.plan.steps.get(step));
    Some(Catch {
        plan: index,
        name: item.plan.name.clone(),
        file: item.scenario.clone(),
        line: line.map_or(0, |step| step.line),
        seed: item.plan.seed,
        step: step.map(|step| step + 1),
        action: reason.clone(),
        witnesses: vec![Witness::Td],
        later: Vec::new(),
        findings: vec![reason.clone()],
    })
}
