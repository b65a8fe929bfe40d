//! Draws plans until one fails or time is up; then confirms and shrinks it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use miette::Diagnostic;
use parking_lot::Mutex;
use tdxlab_host::{Host, HostError};
use tdxlab_journal::Verdict;
use tdxlab_plan::{Design, Guest, HostProfile, Plan, Races, Step};
use tdxlab_qemu::interrupt::Interrupt;
use thiserror::Error;

use super::coverage::Coverage;
use super::coverage_model::CoverageModel;
use super::draw::Draw;
use super::harness::{Failure, Harness, Orders, Stepped, attempt};
use super::plain;
use super::shared_guest::{FailingPlan, Windows};
use super::shrink::{Shrunk, shrink};
use super::steps::plan;

/// How often a plan that failed is run again.
pub const CONFIRMATIONS: u32 = 10;

/// Bound on the guests booted to shrink a plan, by the cost of one.
pub const fn most_guests(host: HostProfile) -> usize {
    match (host.boots_cost, host.races) {
        (false, _) => 50_000,
        (true, Races::Drawn) => 1_500,
        (true, Races::Started) => 100,
    }
}

/// A hunt for plans that fail.
pub struct Fuzz<'a> {
    /// The host that runs the guests.
    pub host: &'a dyn Host,
    /// The design, emulated or expected.
    pub design: &'static Design,
    /// Seed of everything drawn. With one job and a number of plans, it fixes everything.
    pub seed: u64,
    /// When to stop.
    pub budget: Budget,
    /// Plans run at the same time.
    pub jobs: usize,
    /// Steps drawn for each one taken: [`super::CANDIDATES`], or 1 for no preference.
    pub candidates: usize,
    /// Stops it early.
    pub interrupt: &'a Interrupt,
    /// Room for files of guests.
    pub folder: &'a Path,
    /// Updated during the hunt.
    pub progress: &'a FuzzProgress,
}

/// How far a hunt is. May be read from other threads.
#[derive(Debug, Default)]
pub struct FuzzProgress {
    /// Plans that were run.
    pub plans: AtomicU64,
    /// Steps that were judged.
    pub steps: AtomicU64,
    /// Whether something failed, and is being confirmed and shrunk.
    pub shrinking: AtomicBool,
}

/// When a hunt ends, unless it finds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// After this duration.
    Time(Duration),
    /// After so many plans.
    Plans(u64),
}

/// Result of a hunt.
#[derive(Debug)]
pub struct Outcome {
    /// Plans that were run.
    pub plans: u64,
    /// Steps that were judged.
    pub steps: u64,
    /// How long that took, without confirming and shrinking.
    pub took: Duration,
    /// Combinations exercised.
    pub coverage: Coverage,
    /// The first failure.
    pub found: Option<Found>,
    /// What ended the hunt beside it: a guest that could not be booted.
    pub broken: Option<HostError>,
}

/// A plan that failed.
#[derive(Clone, Debug)]
pub struct Found {
    /// As it was drawn.
    pub plan: Plan,
    /// Its failure.
    pub failure: Failure,
    /// How often it failed like that, of `runs`.
    pub again: u32,
    /// How often it was run again: [`CONFIRMATIONS`], fewer if that was interrupted.
    pub runs: u32,
    /// The smallest plan that fails like that.
    pub shrunk: Shrunk,
}

/// An interrupt ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// Why there is no hunt.
#[derive(Debug, Error, Diagnostic)]
pub enum FuzzError {
    /// A guest could not be booted at all.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Host(#[from] HostError),
}

/// Shared by all workers.
struct Shared {
    started: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    coverage: Mutex<Coverage>,
    found: Mutex<Option<FailingPlan>>,
    broken: Mutex<Option<HostError>>,
}

impl Fuzz<'_> {
    /// Runs the hunt.
    pub fn run(&self) -> Result<Outcome, FuzzError> {
        let shared = Shared {
            started: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            coverage: Mutex::new(self.no_coverage()),
            found: Mutex::new(None),
            broken: Mutex::new(None),
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| match self.host.profile().boots_cost {
                    false => self.work_alone(&shared),
                    true => self.work_in_windows(&shared),
                });
            }
        });
        let took = shared.started.elapsed();
        let found = shared.found.lock().take();
        // What was found outranks what went wrong beside it.
        let broken = match (shared.broken.lock().take(), &found) {
            (Some(error), None) => return Err(error.into()),
            (broken, _) => broken,
        };
        self.progress
            .shrinking
            .store(found.is_some(), Ordering::Relaxed);
        let found = found.map(|suspect| {
            let alone = self.confirm(suspect.failure, suspect.plan);
            match suspect.history {
                // Earlier plans in the same guest contributed.
                Some((failure, plan)) if alone.again == 0 => self.confirm(failure, plan),
                _ => alone,
            }
        });
        Ok(Outcome {
            plans: self.progress.plans.load(Ordering::Relaxed),
            steps: self.progress.steps.load(Ordering::Relaxed),
            took,
            coverage: shared.coverage.into_inner(),
            found,
            broken,
        })
    }

    fn no_coverage(&self) -> Coverage {
        Coverage::new(CoverageModel::of(self.host.profile()))
    }

    /// Counts one more plan, and its steps.
    fn count(&self, steps: u64) {
        self.progress.plans.fetch_add(1, Ordering::Relaxed);
        self.progress.steps.fetch_add(steps, Ordering::Relaxed);
    }

    /// The seed of the next plan; `None` when it is time to end.
    fn next(&self, shared: &Shared) -> Option<u64> {
        if shared.stop.load(Ordering::Relaxed) || self.interrupt.is_raised() {
            return None;
        }
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        let over = match self.budget {
            Budget::Plans(most) => index >= most,
            Budget::Time(time) => shared.started.elapsed() >= time,
        };
        // Seeds of neighbouring plans are unrelated, and each is a number that a scenario can hold
        // (less than 2^52).
        (!over).then(|| mix(self.seed, index) >> 12)
    }

    /// Boots a guest for every plan.
    fn work_alone(&self, shared: &Shared) {
        let mut coverage = self.no_coverage();
        while let Some(seed) = self.next(shared) {
            let (draw, guest) = Draw::with_guest(seed, self.host.profile());
            let mut draw = draw.with_candidates(self.candidates);
            let mut steps = Vec::new();
            let run = catch_unwind(AssertUnwindSafe(|| {
                self.one(seed, &mut draw, &guest, &mut steps, &mut coverage)
            }));
            self.count(steps.len() as u64);
            let failure = match run {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(failure))) => failure,
                Ok(Err(error)) => {
                    shared.broken.lock().get_or_insert(error);
                    shared.stop.store(true, Ordering::Relaxed);
                    break;
                }
                Err(_) => Failure::panicked(steps.len().saturating_sub(1)),
            };
            shared.found(FailingPlan {
                failure,
                plan: plan(guest, seed, steps),
                history: None,
            });
        }
        shared.coverage.lock().merge(&coverage);
    }

    fn one(
        &self,
        seed: u64,
        draw: &mut Draw,
        guest: &Guest,
        steps: &mut Vec<Step>,
        coverage: &mut Coverage,
    ) -> Result<Option<Failure>, HostError> {
        let mut bench = Harness::boot(self.host, self.design, guest, seed, self.folder)?;
        let drawn = draw.steps();
        for index in 0..=drawn {
            let action = if index < drawn {
                draw.step(bench.predictor(), coverage)
            } else {
                draw.last_look()
            };
            steps.push(Step {
                line: 0,
                action,
                expect: Default::default(),
            });
            let stepped = match steps.last() {
                Some(step) => bench.step(&step.action),
                None => Stepped::Refused,
            };
            match stepped {
                Stepped::Refused => {
                    steps.pop();
                }
                Stepped::Passed { alive: true } => {}
                Stepped::Passed { alive: false } => break,
                Stepped::Failed(failure) => return Ok(Some(failure)),
            }
        }
        Ok(bench.end())
    }

    /// Many plans in each guest.
    fn work_in_windows(&self, shared: &Shared) {
        let mut coverage = self.no_coverage();
        let room = match tempfile::tempdir_in(self.folder) {
            Ok(room) => room,
            Err(source) => {
                let doing = "making a folder for a guest".to_owned();
                shared
                    .broken
                    .lock()
                    .get_or_insert(HostError::System { doing, source });
                return;
            }
        };
        let backings = plain::backings(self.host);
        let mut windows: Option<Windows> = None;
        while let Some(seed) = self.next(shared) {
            let mut guest = match windows.take() {
                Some(guest) if !guest.is_full() => guest,
                full => {
                    if self.ends(full, shared) {
                        break;
                    }
                    let _ = std::fs::remove_dir_all(room.path());
                    let _ = std::fs::create_dir_all(room.path());
                    let booted =
                        Windows::boot(self.host, self.design, seed, &backings, room.path());
                    match booted {
                        Ok(guest) => guest,
                        Err(error) => {
                            shared.broken.lock().get_or_insert(error);
                            shared.stop.store(true, Ordering::Relaxed);
                            break;
                        }
                    }
                }
            };
            let run = guest.run(seed, &mut coverage);
            self.count(run.steps);
            match run.failed {
                None => windows = Some(guest),
                Some(suspect) => self.suspect(suspect, shared),
            }
        }
        self.ends(windows, shared);
        shared.coverage.lock().merge(&coverage);
    }

    /// Ends a guest; whether that failed.
    fn ends(&self, windows: Option<Windows>, shared: &Shared) -> bool {
        let failing = windows.and_then(Windows::end);
        let failed = failing.is_some();
        if let Some(failing) = failing {
            self.suspect(failing, shared);
        }
        failed
    }

    /// Keeps a failure, but for errors that the interrupt may have made.
    fn suspect(&self, failing: FailingPlan, shared: &Shared) {
        if failing.failure.verdict == Verdict::Fail || !self.interrupt.is_raised() {
            shared.found(failing);
        }
    }

    /// Runs a plan in a guest of its own.
    ///
    /// # Errors
    ///
    /// An interrupt came, whose doing the end may be.
    pub fn once(&self, plan: &Plan, orders: &Orders) -> Result<Option<Failure>, Interrupted> {
        self.uninterrupted()?;
        let room = tempfile::tempdir_in(self.folder);
        let folder = room.as_ref().map_or(self.folder, |room| room.path());
        let failed = attempt(self.host, self.design, plan, orders, folder);
        self.uninterrupted()?;
        Ok(failed)
    }

    fn uninterrupted(&self) -> Result<(), Interrupted> {
        match self.interrupt.is_raised() {
            true => Err(Interrupted),
            false => Ok(()),
        }
    }

    /// Runs a plan again and shrinks it; one that never fails again is left as it was drawn.
    ///
    /// Races first follow the recorded order. If that does not fail again, their order is free.
    fn confirm(&self, failure: Failure, plan: Plan) -> Found {
        let again = |orders: &Orders| -> Vec<Option<Failure>> {
            let runs = (0..CONFIRMATIONS).map_while(|_| self.once(&plan, orders).ok());
            runs.map(|failed| failed.filter(|again| again.is_like(&failure)))
                .collect()
        };
        let free = Orders::new();
        let mut runs = again(&failure.orders);
        if runs.iter().all(Option::is_none) && !failure.orders.is_empty() {
            runs = again(&free);
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(CONFIRMATIONS);
        let mut found = Found {
            again: number(runs.iter().flatten().count()),
            runs: number(runs.len()),
            shrunk: Shrunk {
                plan: plan.clone(),
                failure: failure.clone(),
                tried: 0,
            },
            plan,
            failure,
        };
        let Some(again) = runs.into_iter().flatten().next() else {
            return found;
        };
        // One that fails now and then gets several chances for each simpler plan.
        let chances = found.runs.div_ceil(found.again);
        let most = most_guests(self.host.profile());
        let booted = Cell::new(0);
        let stop = || self.interrupt.is_raised() || booted.get() >= most;
        found.shrunk = shrink(&found.plan, &again, most, stop, |simpler, orders| {
            let followed = (!orders.is_empty()).then_some(orders);
            let left_alone = std::iter::repeat_n(&free, chances as usize);
            let tries = followed.into_iter().chain(left_alone);
            let mut failed = tries.filter_map(|orders| {
                if booted.get() >= most {
                    return None;
                }
                booted.set(booted.get() + 1);
                self.once(simpler, orders).ok().flatten()
            });
            failed.find(|failure| failure.is_like(&again))
        });
        found.failure = again;
        found
    }
}

impl Shared {
    fn found(&self, what: FailingPlan) {
        self.found.lock().get_or_insert(what);
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the `index`th number of the sequence from `seed`.
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
