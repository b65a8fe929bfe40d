//! Qualifies the lab: seeds every fault, one at a time, and records which scenario fails, at which
//! step, by which witnesses.
//!
//! On `sim` every plan is run under every fault. On `soft`, where every plan boots a guest, `sim`
//! first finds the plans that catch the fault; those are run in order until one fails by the
//! expected witness. A failure under a fault counts only if the plan passes without it.

mod markdown;
mod matrix;
mod pick;

pub use markdown::markdown;
pub use matrix::{Catch, Matrix, Row, Unjudged};
pub use pick::caught;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use miette::Diagnostic;
use parking_lot::Mutex;
use tdxlab_faults::Fault;
use tdxlab_host::{Host, HostError};
use tdxlab_host_soft::SoftwareHost;
use tdxlab_host_soft::sim::SimHost;
use tdxlab_journal::{FolderError, Verdict};
use tdxlab_plan::{Action, Design, HostKind, TdxModule};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_run::{InMemoryRunner, TestCase, in_parallel};
use thiserror::Error;

/// Faults to seed, and the plans that have to catch them.
pub struct Qualify<'a> {
    /// The plans.
    pub items: &'a [TestCase],
    /// The faults.
    pub faults: &'a [&'static Fault],
    /// Where guests run; one of software.
    pub host: HostKind,
    /// The TDX module that sim plays, for plans that need none in particular; `None` for the usual one.
    pub module: Option<TdxModule>,
    /// Opens that host, with a fault seeded into it or without.
    pub open: &'a OpenHost,
    /// Faults tried at the same time.
    pub jobs: usize,
    /// Longest a single operation may take.
    pub patience: Duration,
    /// Stops it early.
    pub interrupt: &'a Interrupt,
    /// Called with every fault that was tried, from several threads.
    pub watcher: &'a (dyn Fn(&Row) + Sync),
}

/// Opens a host, with a fault seeded into it or without.
pub type OpenHost = dyn Fn(Option<&'static Fault>) -> Result<Box<dyn Host>, HostError> + Sync;

/// Why there is no matrix.
#[derive(Debug, Error, Diagnostic)]
pub enum QualifyError {
    /// The host is not usable, or has no faults to be seeded with.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Host(#[from] HostError),
    /// There is no room for the files of a guest.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Folder(#[from] FolderError),
}

impl Qualify<'_> {
    /// Tries all faults. An interrupted matrix holds the faults that were tried.
    pub fn run(&self) -> Result<Matrix, QualifyError> {
        let started = Instant::now();
        let rows = Mutex::new(BTreeMap::new());
        let sound = Sound::new(self)?;
        let faults: Vec<(usize, &'static Fault)> =
            self.faults.iter().copied().enumerate().collect();
        in_parallel(self.jobs, &faults, |_, &(index, fault)| {
            if self.interrupt.is_raised() {
                return Ok(false);
            }
            let row = self.try_fault(fault, &sound)?;
            if self.interrupt.is_raised() {
                return Ok(false);
            }
            (self.watcher)(&row);
            rows.lock().insert(index, row);
            Ok::<_, QualifyError>(true)
        })?;
        let rows: Vec<Row> = rows.into_inner().into_values().collect();
        Ok(Matrix {
            host: self.host,
            untried: self.faults.len() - rows.len(),
            rows,
            took: started.elapsed(),
        })
    }

    fn sim(&self) -> SimHost {
        let sim = SimHost::in_memory();
        match self.module {
            Some(module) => sim.with_module(module),
            None => sim,
        }
    }

    fn try_fault(&self, fault: &'static Fault, sound: &Sound<'_>) -> Result<Row, QualifyError> {
        let started = Instant::now();
        let all: Vec<Try> = (0..self.items.len()).map(Try::first).collect();
        let sim = self.sim().with_fault(fault.seeded());
        let mut row = match self.host {
            HostKind::Sim => self.sweep(fault, &sim, &all, sound, false)?,
            _ => {
                let rehearsed = self.sweep(fault, &sim, &all, &Sound::assumed(), false)?;
                let mut order: Vec<Try> = rehearsed
                    .ranked()
                    .flat_map(|one| self.chances(one.plan))
                    .collect();
                order.extend(
                    all.iter()
                        .filter(|one| rehearsed.caught(one.plan).is_none()),
                );
                let host = (self.open)(Some(fault))?;
                self.sweep(fault, host.as_ref(), &order, sound, true)?
            }
        };
        row.took = started.elapsed();
        Ok(row)
    }

    /// A race in QEMU may go another way than on `sim`, so a plan that has one is run again.
    fn chances(&self, plan: usize) -> impl Iterator<Item = Try> + use<> {
        let mut steps = self.items[plan].plan.steps.iter();
        let chances = match steps.any(|step| matches!(step.action, Action::Parallel(_))) {
            true => CHANCES_OF_A_RACE,
            false => 1,
        };
        (0..chances).map(move |chance| Try { plan, chance })
    }

    /// Runs plans in this order, all of them or until one catches the fault by the witness one would
    /// expect.
    fn sweep(
        &self,
        fault: &'static Fault,
        host: &dyn Host,
        order: &[Try],
        sound: &Sound<'_>,
        first_only: bool,
    ) -> Result<Row, QualifyError> {
        let design = design(fault);
        let trial = InMemoryRunner::new(host, design)?.with_patience(self.patience);
        let mut row = Row::new(fault);
        for &one in order {
            if self.interrupt.is_raised() {
                break;
            }
            let plan = one.plan;
            let item = one.of(&self.items[plan]);
            let tried = trial.run(&item);
            match tried.outcome.verdict {
                Verdict::Skip => continue,
                Verdict::Pass => {}
                Verdict::Fail if !sound.passes(design, one)? => row.unjudged.push(Unjudged {
                    plan: item.plan.name.clone(),
                    reason: "it fails without a fault too".to_owned(),
                }),
                Verdict::Fail => row.catches.extend(pick::caught(plan, &item, &tried)),
                Verdict::Error => match pick::stuck(plan, &item, &tried) {
                    Some(catch) if sound.passes(design, one)? => row.catches.push(catch),
                    _ => row.unjudged.push(Unjudged {
                        plan: item.plan.name.clone(),
                        reason: tried.outcome.reason.unwrap_or_default(),
                    }),
                },
            }
            row.plans += 1;
            row.reached += usize::from(tried.outcome.fault_reached == Some(true));
            if first_only && row.catches.iter().any(|catch| row.is_expected(catch)) {
                break;
            }
        }
        Ok(row)
    }
}

/// How often a plan that races is run in QEMU, unless it catches the fault before.
const CHANCES_OF_A_RACE: u64 = 40;

/// A plan, and how often it has had its chance before.
#[derive(Clone, Copy)]
struct Try {
    plan: usize,
    chance: u64,
}

impl Try {
    const fn first(plan: usize) -> Try {
        Try { plan, chance: 0 }
    }

    /// The plan as it is run. Each repetition has a different seed: the order in which vCPUs resume
    /// is drawn from it, and an order that hides the fault would hide it again.
    fn of(self, item: &TestCase) -> Cow<'_, TestCase> {
        let mut item = Cow::Borrowed(item);
        if self.chance > 0 {
            let seed = &mut item.to_mut().plan.seed;
            *seed = seed.wrapping_add(self.chance);
        }
        item
    }
}

/// The design under which a fault shows. A test of the catalogue makes sure that there is one.
fn design(fault: &Fault) -> &'static Design {
    Design::named(fault.design).unwrap_or(&Design::all()[0])
}

/// With how many chances a plan was run without a fault, and whether it passed each time.
type Known = (u64, bool);

/// Plans that pass on the host without a fault; evaluated lazily.
struct Sound<'a> {
    qualify: Option<(&'a [TestCase], Box<dyn Host>, Duration)>,
    /// By design and plan.
    known: Mutex<BTreeMap<(&'static str, usize), Known>>,
}

impl<'a> Sound<'a> {
    fn new(qualify: &Qualify<'a>) -> Result<Sound<'a>, QualifyError> {
        let host: Box<dyn Host> = match qualify.host {
            HostKind::Sim => Box::new(qualify.sim()),
            _ => (qualify.open)(None)?,
        };
        Ok(Sound {
            qualify: Some((qualify.items, host, qualify.patience)),
            known: Mutex::default(),
        })
    }

    /// Takes every plan for sound, where a wrong guess costs only time.
    fn assumed() -> Sound<'a> {
        Sound {
            qualify: None,
            known: Mutex::default(),
        }
    }

    /// Whether a plan passes without a fault, with every seed that it was given under one.
    fn passes(&self, design: &'static Design, tried: Try) -> Result<bool, QualifyError> {
        let Some((items, host, patience)) = &self.qualify else {
            return Ok(true);
        };
        let key = (design.name, tried.plan);
        let known = self.known.lock().get(&key).copied();
        let (mut chances, mut passes) = known.unwrap_or((0, true));
        if passes && chances <= tried.chance {
            let trial = InMemoryRunner::new(host.as_ref(), design)?.with_patience(*patience);
            while passes && chances <= tried.chance {
                let plan = tried.plan;
                let one = Try {
                    plan,
                    chance: chances,
                };
                let item = one.of(&items[plan]);
                passes = trial.run(&item).outcome.verdict == Verdict::Pass;
                chances += 1;
            }
            self.known.lock().insert(key, (chances, passes));
        }
        Ok(passes)
    }
}
