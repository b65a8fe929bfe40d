//! Parallel operations, in an order drawn from a seed.
//!
//! Branches run in rounds: in each round, some of them (drawn) do their next operation, and all
//! guest operations of the round start together. Within a round the lab holds every request of a
//! vCPU and every stage of a host call, and lets one of them advance at a time (drawn). To have as
//! many as possible to draw from, it first gives running vCPUs a moment to ring; the timing between
//! two requests is theirs. The resulting order is recorded, as evidence and for replay. A replay
//! waits for the party that advanced next, and repeats the pause before a turn that was taken while
//! a vCPU was running.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_host::HostError;
use tdxlab_host::vm::Wake;
use tdxlab_journal::Observed;
use tdxlab_journal::interleaving::{Interleaving, Round as Recorded, Turn as Taken, Who};
use tdxlab_plan::{Op, VcpuId};
use tdxlab_protocol::message::Task;
use tdxlab_qemu::agent::collect::Collector;
use tdxlab_softkvm::HostCall;

use super::schedule::Turn;
use super::session::SoftSession;
use crate::calls::{self, Work};

/// Activity named in timeouts.
const DOING: &str = "racing";

/// How long a resumed vCPU is given to ring before the draw continues without it. From an answer to
/// the next ring it takes some 20 microseconds.
const GRACE: Duration = Duration::from_millis(1);

/// Longest pause, drawn, between two turns while a vCPU is running, so that the stages of a host
/// call are spread over a long fill and do not all precede it.
const LONGEST_PAUSE_MICROS: u64 = 200;

/// Draws the next turn, or follows a recorded order as long as that is possible.
struct Scheduler {
    random: ChaCha8Rng,
    recorded: VecDeque<Recorded>,
    /// Rest of the current recorded round.
    turns: VecDeque<Taken>,
    taken: Interleaving,
    /// When the last turn was taken.
    last: Instant,
}

impl Scheduler {
    /// The branches of the next round.
    fn branches(&mut self, left: &[usize]) -> Vec<usize> {
        self.turns.clear();
        if let Some(recorded) = self.recorded.pop_front() {
            let branches: Vec<usize> = recorded.branches.iter().copied().map(usize::from).collect();
            let unique = branches.iter().enumerate().all(|(place, branch)| {
                left.contains(branch) && !branches[..place].contains(branch)
            });
            if unique && !branches.is_empty() {
                self.turns = recorded.turns.into();
                return branches;
            }
            self.depart();
        }
        choose(left, &mut self.random)
    }

    /// From here on turns are drawn: the recorded order cannot be followed any further.
    fn depart(&mut self) {
        self.recorded.clear();
        self.turns.clear();
    }

    /// Records a turn; `alone` if a vCPU is running.
    fn take(&mut self, turn: Turn, alone: bool) {
        let who = match turn {
            Turn::Vcpu(vcpu) => Who::Vcpu(vcpu),
            Turn::HostCall => Who::Host,
            Turn::Round(_) => return,
        };
        let now = Instant::now();
        let pause = now.duration_since(self.last).as_micros();
        self.last = now;
        self.taken.push(Taken {
            who,
            pause: alone.then(|| u32::try_from(pause).unwrap_or(u32::MAX)),
        });
    }
}

/// The operations of one round.
struct Round {
    began: Instant,
    until: Instant,
    /// When a vCPU was let run last.
    let_run: Instant,
    /// Guest operations: branch and task, in the order of the request.
    tasks: Vec<(usize, Task)>,
    collector: Option<Collector>,
    /// Host operations that have not begun or not ended, the current one first: branch and the
    /// calls it still has to make.
    calls: VecDeque<(usize, VecDeque<HostCall>)>,
    observed: Vec<(usize, Observed)>,
}

impl Round {
    fn observed(&mut self, branch: usize) -> Option<&mut Observed> {
        self.observed
            .iter_mut()
            .find(|(of, _)| *of == branch)
            .map(|(_, observed)| observed)
    }

    fn branch_of(&self, vcpu: VcpuId) -> Option<usize> {
        self.tasks
            .iter()
            .find(|(_, task)| task.vcpu == vcpu)
            .map(|&(branch, _)| branch)
    }

    /// vCPUs whose task is not over.
    fn busy_vcpus(&self) -> impl Iterator<Item = VcpuId> {
        let busy = |vcpu: &VcpuId| {
            self.collector
                .as_ref()
                .is_some_and(|collector| collector.is_busy(*vcpu))
        };
        self.tasks.iter().map(|(_, task)| task.vcpu).filter(busy)
    }

    fn guest_is_over(&self) -> bool {
        self.collector.as_ref().is_none_or(Collector::is_over)
    }

    fn is_over(&self) -> bool {
        self.guest_is_over() && self.calls.is_empty()
    }
}

impl SoftSession {
    /// Runs branches side by side.
    pub(super) fn race(
        &mut self,
        branches: &[&[Op]],
        seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        let recorded = self.follow.take().map(|order| order.rounds);
        let mut scheduler = Scheduler {
            random: ChaCha8Rng::seed_from_u64(seed),
            recorded: recorded.unwrap_or_default().into(),
            turns: VecDeque::new(),
            taken: Interleaving::default(),
            last: Instant::now(),
        };
        let results = self.rounds(branches, &mut scheduler);
        self.interleaving = Some(scheduler.taken);
        results
    }

    fn rounds(
        &mut self,
        branches: &[&[Op]],
        scheduler: &mut Scheduler,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        let mut results: Vec<Vec<Observed>> = vec![Vec::new(); branches.len()];
        loop {
            let left: Vec<usize> = (0..branches.len())
                .filter(|&branch| results[branch].len() < branches[branch].len())
                .collect();
            if left.is_empty() || self.core.kvm.death().is_some() {
                return Ok(results);
            }
            let chosen = scheduler.branches(&left);
            scheduler.taken.begin(chosen.iter().copied());
            let ops: Vec<(usize, &Op)> = chosen
                .into_iter()
                .map(|branch| (branch, &branches[branch][results[branch].len()]))
                .collect();
            for (branch, observed) in self.round(&ops, scheduler)? {
                results[branch].push(observed);
            }
        }
    }

    /// Runs one operation of each of some branches.
    fn round(
        &mut self,
        ops: &[(usize, &Op)],
        scheduler: &mut Scheduler,
    ) -> Result<Vec<(usize, Observed)>, HostError> {
        self.schedule.0.push(Turn::Round(ops.len()));
        let mut round = self.prepare(ops)?;
        while !round.is_over() && self.core.kvm.death().is_none() {
            let turn = match scheduler.turns.pop_front() {
                Some(next) => match self.recorded_turn(&mut round, next, scheduler.last)? {
                    Some(turn) => turn,
                    None => {
                        scheduler.depart();
                        continue;
                    }
                },
                None => {
                    let mut ready = self.ready(&mut round, &mut scheduler.random)?;
                    if ready.is_empty() {
                        continue;
                    }
                    ready.swap_remove(scheduler.random.random_range(0..ready.len()))
                }
            };
            let alone = round.busy_vcpus().any(|vcpu| !self.core.is_waiting(vcpu));
            scheduler.take(turn, alone);
            self.schedule.0.push(turn);
            self.take_turn(turn, &mut round)?;
            self.look_at_clock(round.until, || "racing operations do not end".to_owned())?;
        }
        if let Some(collector) = round.collector.take() {
            for (answer, &(branch, _)) in collector.into_answers().into_iter().zip(&round.tasks) {
                if let Some((_, observed)) = round.observed.iter_mut().find(|(of, _)| *of == branch)
                {
                    observed.add(answer.runs, answer.counts.unwrap_or_default());
                }
            }
        }
        for (_, observed) in &mut round.observed {
            self.conclude(observed, round.began)?;
        }
        Ok(round.observed)
    }

    /// Starts the guest's part of a round.
    fn prepare(&mut self, ops: &[(usize, &Op)]) -> Result<Round, HostError> {
        let began = Instant::now();
        let mut tasks = Vec::new();
        let mut calls = VecDeque::new();
        let mut observed = Vec::new();
        for &(branch, op) in ops {
            let mut result = Observed::default();
            // Branches contain no verify, so there is nothing to read.
            match calls::work(&self.core.kvm, op, &[])? {
                Work::Host(pieces) => {
                    result.errno = Some(0);
                    calls.push_back((branch, pieces.into()));
                }
                Work::Guest(all) => tasks.extend(all.into_iter().map(|task| (branch, task))),
            }
            observed.push((branch, result));
        }
        let collector = if tasks.is_empty() {
            None
        } else {
            let tasks: Vec<Task> = tasks.iter().map(|&(_, task)| task).collect();
            Some(self.send(&tasks)?)
        };
        Ok(Round {
            began,
            until: began + self.patience,
            let_run: Instant::now(),
            tasks,
            collector,
            calls,
            observed,
        })
    }

    /// Waits for the recorded turn to become possible; `None` where it cannot any more.
    fn recorded_turn(
        &mut self,
        round: &mut Round,
        next: Taken,
        last: Instant,
    ) -> Result<Option<Turn>, HostError> {
        let pause = Duration::from_micros(next.pause.map_or(0, u64::from));
        let not_before = last + pause;
        loop {
            if let Some(collector) = &mut round.collector {
                self.qemu.vm.collect(collector)?;
            }
            let running = round.busy_vcpus().any(|vcpu| !self.core.is_waiting(vcpu));
            // No vCPU is running, so a pause has no effect.
            let early = running && Instant::now() < not_before;
            let turn = match next.who {
                Who::Host if round.calls.is_empty() => return Ok(None),
                Who::Host => Some(Turn::HostCall),
                Who::Vcpu(vcpu) if !round.busy_vcpus().any(|busy| busy == vcpu) => return Ok(None),
                Who::Vcpu(vcpu) => self.core.is_waiting(vcpu).then_some(Turn::Vcpu(vcpu)),
            };
            if turn.is_some() && !early {
                return Ok(turn);
            }
            let until = if turn.is_some() {
                not_before.min(round.until)
            } else {
                round.until
            };
            self.listen(until)?;
            self.look_at_clock(round.until, || {
                "racing operations do not end in the recorded order".to_owned()
            })?;
        }
    }

    /// Turns that can be taken, once all running vCPUs have rung or used up their grace. Empty if
    /// there is none yet, or the round is over.
    fn ready(
        &mut self,
        round: &mut Round,
        random: &mut ChaCha8Rng,
    ) -> Result<Vec<Turn>, HostError> {
        let pause = Duration::from_micros(random.random_range(0..=LONGEST_PAUSE_MICROS));
        let grace = (round.let_run + GRACE).max(Instant::now() + pause);
        loop {
            if let Some(collector) = &mut round.collector {
                self.qemu.vm.collect(collector)?;
            }
            let (waiting, running): (Vec<VcpuId>, Vec<VcpuId>) = round
                .busy_vcpus()
                .partition(|&vcpu| self.core.is_waiting(vcpu));
            let mut ready: Vec<Turn> = waiting.into_iter().map(Turn::Vcpu).collect();
            if !round.calls.is_empty() {
                ready.push(Turn::HostCall);
            }
            let drawable = !ready.is_empty();
            let patient = Instant::now() < grace && !running.is_empty();
            if round.is_over() || (drawable && !patient) {
                return Ok(ready);
            }
            let until = if drawable { grace } else { round.until };
            if self.listen(until)? == Wake::Late {
                if drawable {
                    return Ok(ready);
                }
                return Err(self.qemu.vm.silent(DOING, self.patience));
            }
        }
    }

    /// Waits for the next word of the guest or of QEMU, and takes it in.
    fn listen(&mut self, until: Instant) -> Result<Wake, HostError> {
        let wake = self.qemu.vm.wait(until, DOING)?;
        match wake {
            Wake::Extra => {
                self.take_requests()?;
            }
            Wake::Events => {
                self.qemu.vm.take_events();
            }
            Wake::Serial | Wake::Late => {}
        }
        Ok(wake)
    }

    fn take_turn(&mut self, turn: Turn, round: &mut Round) -> Result<(), HostError> {
        let branch = match turn {
            Turn::Vcpu(vcpu) => {
                if self.core.advance(vcpu)? {
                    round.let_run = Instant::now();
                }
                round.branch_of(vcpu)
            }
            Turn::HostCall => self.advance_host(round)?,
            Turn::Round(_) => None,
        };
        if let Some(observed) = branch.and_then(|branch| round.observed(branch)) {
            self.account(observed);
        }
        Ok(())
    }

    /// One stage of the host operation whose turn it is; its branch.
    fn advance_host(&mut self, round: &mut Round) -> Result<Option<usize>, HostError> {
        let Some((branch, calls)) = round.calls.front_mut() else {
            return Ok(None);
        };
        let branch = *branch;
        if !self.core.kvm.call_is_running() {
            match calls.pop_front() {
                Some(call) => self.core.kvm.begin(call),
                None => {
                    round.calls.pop_front();
                    return Ok(Some(branch));
                }
            }
        }
        if let Some(errno) = self.core.advance_call()? {
            if errno != 0 {
                calls.clear();
            }
            if calls.is_empty() {
                round.calls.pop_front();
            }
            if let Some(observed) = round.observed(branch) {
                observed.errno = Some(errno);
            }
        }
        Ok(Some(branch))
    }
}

/// Some of the branches, at least one, in a drawn order.
fn choose(left: &[usize], random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut chosen: Vec<usize> = left
        .iter()
        .copied()
        .filter(|_| random.random_ratio(3, 4))
        .collect();
    if chosen.is_empty() {
        chosen.push(left[random.random_range(0..left.len())]);
    }
    // Host operations exclude each other; which of them comes first is drawn with the rest.
    for last in (1..chosen.len()).rev() {
        chosen.swap(last, random.random_range(0..=last));
    }
    chosen
}
