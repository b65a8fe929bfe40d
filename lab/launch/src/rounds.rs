//! Repeats scenarios with new seeds and on a busy machine, to find false alarms: a lab that fails
//! now and then without a reason is not trusted when it fails with one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_host::Host;
use tdxlab_journal::{Finding, FolderError, Verdict};
use tdxlab_plan::Design;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_run::{InMemoryRunner, PlanResult, TestCase};

use crate::busy::Busy;

/// Parameters of repeated rounds.
pub struct Rounds<'a, E> {
    /// The plans of a round, given its seed.
    pub plans: &'a (dyn Fn(u64) -> Result<Vec<TestCase>, E> + Sync),
    /// The host that runs the guests.
    pub host: &'a dyn Host,
    /// Designs, one round after the other.
    pub designs: &'a [&'static Design],
    /// Number of rounds.
    pub times: u64,
    /// Seed from which those of the rounds are drawn.
    pub seed: u64,
    /// Plans run at the same time.
    pub jobs: usize,
    /// Threads that keep processors busy.
    pub load: usize,
    /// Longest a single operation may take.
    pub patience: Duration,
    /// Stops it early.
    pub interrupt: &'a Interrupt,
    /// Called for everything that did not pass, and at the start of every round.
    pub watcher: &'a (dyn Fn(&Told<'_>) + Sync),
}

/// Progress of the rounds.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// A round begins, counted from 0, with this seed and design.
    Round(u64, u64, &'static Design),
    /// A plan did not pass.
    Bad(&'a Bad),
}

/// A plan that did not pass.
#[derive(Clone, Debug)]
pub struct Bad {
    /// The plan.
    pub item: TestCase,
    /// Seed of its round.
    pub seed: u64,
    /// Its design.
    pub design: &'static Design,
    /// Failed, or could not be judged.
    pub verdict: Verdict,
    /// The first step that did not pass, from 1, if any.
    pub step: Option<usize>,
    /// Findings, in words.
    pub said: Vec<String>,
}

/// Result of the rounds.
#[derive(Clone, Debug, Default)]
pub struct RoundsDone {
    /// Rounds that were begun.
    pub rounds: u64,
    /// Number of plans that passed.
    pub passed: u64,
    /// Plans that the design does not fit.
    pub skipped: u64,
    /// Steps that were judged.
    pub steps: u64,
    /// Plans that did not pass.
    pub bad: Vec<Bad>,
    /// How long it took.
    pub took: Duration,
}

/// Why it cannot continue.
#[derive(Debug)]
pub enum RoundsError<E> {
    /// The plans of a round cannot be made.
    Plans(E),
    /// There is no room for the files of a guest.
    Folder(FolderError),
}

impl<E: Send> Rounds<'_, E> {
    /// Runs all rounds.
    pub fn run(&self) -> Result<RoundsDone, RoundsError<E>> {
        let started = Instant::now();
        let queue = Mutex::new(Queue::new(self));
        let done = Mutex::new(RoundsDone::default());
        let broken = Mutex::new(None);
        let _busy = Busy::threads(self.load);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1))
                .map(|_| {
                    scope.spawn(|| {
                        if let Err(error) = self.work(&queue, &done) {
                            queue.lock().stop();
                            broken.lock().get_or_insert(error);
                        }
                    })
                })
                .collect();
            for worker in workers {
                // A plan that panics is caught where it runs; there is no other source of panics.
                let _ = worker.join();
            }
        });
        if let Some(error) = broken.lock().take() {
            return Err(error);
        }
        let rounds = queue.lock().begun;
        let done = done.into_inner();
        Ok(RoundsDone {
            rounds,
            took: started.elapsed(),
            ..done
        })
    }

    fn work(
        &self,
        queue: &Mutex<Queue<'_, '_, E>>,
        done: &Mutex<RoundsDone>,
    ) -> Result<(), RoundsError<E>> {
        let trials = self
            .designs
            .iter()
            .map(|design| {
                InMemoryRunner::new(self.host, design)
                    .map(|trial| trial.with_patience(self.patience))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(RoundsError::Folder)?;
        while !self.interrupt.is_raised() {
            let Some((round, index)) = queue.lock().next().map_err(RoundsError::Plans)? else {
                break;
            };
            let item = &round.items[index];
            let tried = trials[round.design].run(item);
            if self.interrupt.is_raised() {
                break;
            }
            let mut done = done.lock();
            done.steps += tried.steps.len() as u64;
            match tried.outcome.verdict {
                Verdict::Pass => done.passed += 1,
                Verdict::Skip => done.skipped += 1,
                Verdict::Fail | Verdict::Error => {
                    let bad = bad(item, round.seed, self.designs[round.design], tried);
                    (self.watcher)(&Told::Bad(&bad));
                    done.bad.push(bad);
                }
            }
        }
        Ok(())
    }
}

fn bad(item: &TestCase, seed: u64, design: &'static Design, tried: PlanResult) -> Bad {
    let step = tried
        .steps
        .iter()
        .position(|judgement| judgement.verdict != Verdict::Pass);
    let judgements = match step {
        Some(step) => &tried.steps[step..=step],
        None => &[],
    };
    let findings = tried.control.iter().chain(judgements);
    let mut said: Vec<String> = findings
        .flat_map(|judgement| &judgement.findings)
        .map(Finding::to_string)
        .collect();
    said.extend(tried.outcome.reason);
    Bad {
        item: item.clone(),
        seed,
        design,
        verdict: tried.outcome.verdict,
        step: step.map(|index| index + 1),
        said,
    }
}

/// The plans of one round.
struct Round {
    items: Vec<TestCase>,
    seed: u64,
    /// Index of its design.
    design: usize,
}

/// Plans that wait, round after round.
struct Queue<'a, 's, E> {
    rounds: &'a Rounds<'s, E>,
    seeds: ChaCha8Rng,
    begun: u64,
    round: Option<Arc<Round>>,
    waiting: VecDeque<usize>,
    stopped: bool,
}

impl<'a, 's, E> Queue<'a, 's, E> {
    fn new(rounds: &'a Rounds<'s, E>) -> Queue<'a, 's, E> {
        Queue {
            rounds,
            seeds: ChaCha8Rng::seed_from_u64(rounds.seed),
            begun: 0,
            round: None,
            waiting: VecDeque::new(),
            stopped: false,
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    /// The next plan of this round, or the first of the next one.
    fn next(&mut self) -> Result<Option<(Arc<Round>, usize)>, E> {
        loop {
            if self.stopped {
                return Ok(None);
            }
            if let (Some(round), Some(index)) = (&self.round, self.waiting.pop_front()) {
                return Ok(Some((Arc::clone(round), index)));
            }
            if self.begun == self.rounds.times {
                return Ok(None);
            }
            let seed = self.seeds.next_u64();
            let design = (self.begun % self.rounds.designs.len().max(1) as u64) as usize;
            let told = Told::Round(self.begun, seed, self.rounds.designs[design]);
            (self.rounds.watcher)(&told);
            let items = (self.rounds.plans)(seed)?;
            if items.is_empty() {
                return Ok(None);
            }
            self.begun += 1;
            self.waiting = (0..items.len()).collect();
            self.round = Some(Arc::new(Round {
                items,
                seed,
                design,
            }));
        }
    }
}
