//! A session on `sim`: operations in sequence, or several interleaved.

use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_host::{HostError, Session};
use tdxlab_journal::{Ending, Observed, Reading, Sample};
use tdxlab_plan::{Op, VcpuId};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::message::Command;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_softkvm::memory::SimMachine;
use tdxlab_softkvm::{HostCall, SoftKvm};

use super::guest::{Cpu, Progress, Task, refusal};
use super::witness::Witnesses;
use crate::software_host::MakePolicy;
use crate::{calls, software};

/// Steps between two checks for an interrupt.
const STEPS_BETWEEN_LOOKS: u64 = 1 << 12;

/// A guest and the host under it.
pub(crate) struct SimSession {
    core: SoftKvm<SimMachine>,
    cpus: Vec<Cpu>,
    memory: GpaRange,
    witness: Witnesses,
    /// Makes the policy of each plan.
    policy: MakePolicy,
    steps: u64,
}

/// An operation under way.
struct Strand {
    work: Work,
    observed: Observed,
    started: Instant,
}

/// Remaining work of an operation.
enum Work {
    /// Commands for the guest, the next one last, and the one that runs.
    Guest(Vec<(VcpuId, Command)>, Option<Task>),
    /// Calls of the host, the next one last, and whether one runs.
    Host(Vec<HostCall>, bool),
}

impl SimSession {
    pub(super) fn new(
        core: SoftKvm<SimMachine>,
        vcpus: u16,
        memory: GpaRange,
        witness: Witnesses,
        policy: MakePolicy,
    ) -> SimSession {
        SimSession {
            core,
            cpus: (0..vcpus).map(|_| Cpu::default()).collect(),
            memory,
            witness,
            policy,
            steps: 0,
        }
    }

    /// An operation that has not begun. `reads` are the ranges that a verify reads.
    fn strand(&self, op: &Op, reads: &[GpaRange]) -> Result<Strand, HostError> {
        let work = match calls::work(&self.core, op, reads)? {
            calls::Work::Guest(tasks) => {
                let commands = tasks.into_iter().rev();
                Work::Guest(
                    commands.map(|task| (task.vcpu, task.command)).collect(),
                    None,
                )
            }
            calls::Work::Host(calls) => Work::Host(calls.into_iter().rev().collect(), false),
        };
        if let Work::Guest(commands, _) = &work {
            for (vcpu, command) in commands {
                self.check(*vcpu, command)?;
            }
        }
        Ok(Strand {
            work,
            observed: Observed::default(),
            started: Instant::now(),
        })
    }

    /// Refuses commands that the micro guest would refuse.
    fn check(&self, vcpu: VcpuId, command: &Command) -> Result<(), HostError> {
        let what = if usize::from(vcpu.0) < self.cpus.len() {
            refusal(command)
        } else {
            Some(format!("guest refused vCPU {}: no such vCPU", vcpu.0))
        };
        match what {
            Some(what) => Err(HostError::GuestLies { what }),
            None => Ok(()),
        }
    }

    /// One step of an operation; whether it is done. With `fine`, the guest proceeds page by page.
    fn step(&mut self, strand: &mut Strand, fine: bool) -> Result<bool, HostError> {
        let over = match &mut strand.work {
            Work::Guest(commands, running) => {
                if running.is_none() {
                    let Some((vcpu, command)) = commands.pop() else {
                        return Ok(self.finish(strand));
                    };
                    *running = Some(Task::new(vcpu, &command, fine));
                }
                match running {
                    Some(task) => self.step_task(task, strand.started)?,
                    None => false,
                }
            }
            Work::Host(calls, running) => {
                if !*running {
                    if self.core.call_is_running() {
                        return Ok(false);
                    }
                    let Some(call) = calls.pop() else {
                        strand.observed.errno.get_or_insert(0);
                        return Ok(self.finish(strand));
                    };
                    self.core.begin(call);
                    *running = true;
                }
                match self.core.advance_call() {
                    None => false,
                    Some(errno) => {
                        *running = false;
                        strand.observed.errno = Some(errno);
                        strand.observed.error_at = self.core.take_error_at();
                        if errno != 0 {
                            calls.clear();
                        }
                        calls.is_empty()
                    }
                }
            }
        };
        if over && let Work::Guest(commands, running) = &mut strand.work {
            if let Some(task) = running.take() {
                match strand.observed.runs.is_empty() {
                    true => strand.observed.runs = task.runs,
                    false => strand.observed.runs.extend(task.runs),
                }
                strand.observed.counts.tdcalls += task.counts.tdcalls;
                strand.observed.counts.ve += task.counts.ve;
                strand.observed.counts.faults += task.counts.faults;
            }
            if self.core.death().is_some() {
                commands.clear();
            }
            return Ok(commands.is_empty() && self.finish(strand));
        }
        Ok(over && self.finish(strand))
    }

    /// One step of a task; whether it is over.
    fn step_task(&mut self, task: &mut Task, started: Instant) -> Result<bool, HostError> {
        let cpu = &mut self.cpus[usize::from(task.vcpu().0)];
        match task.step(&mut self.core, cpu) {
            Progress::Working => Ok(false),
            Progress::Finished | Progress::Dead => Ok(true),
            Progress::Hung => Err(HostError::GuestSilent {
                doing: task.describe(),
                waited: started.elapsed(),
            }),
        }
    }

    /// Checks now and then whether the run was interrupted.
    fn look_up(&mut self) -> Result<(), HostError> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && Interrupt::of_process().is_raised() {
            return Err(HostError::Interrupted);
        }
        Ok(())
    }

    /// Records results that are known only at the end.
    fn finish(&mut self, strand: &mut Strand) -> bool {
        strand.observed.cost.shared_apart = Some(self.core.shared_apart());
        strand.observed.death = self.core.death().map(software::death);
        strand.observed.took_since(strand.started);
        true
    }

    /// Adds the counts since the last call to an operation.
    fn account(&mut self, observed: &mut Observed) {
        let looked = self.core.take_entries_looked_at();
        let zapped = self.core.take_leaves_zapped();
        *observed.entries_looked_at.get_or_insert(0) += looked;
        *observed.leaves_zapped.get_or_insert(0) += zapped;
        software::account(&mut observed.cost, self.core.take_work());
    }
}

impl Session for SimSession {
    fn perform(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError> {
        let mut strand = self.strand(op, reads)?;
        while !self.step(&mut strand, false)? {
            self.look_up()?;
        }
        self.account(&mut strand.observed);
        Ok(strand.observed)
    }

    fn perform_parallel(
        &mut self,
        branches: &[&[Op]],
        seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut results: Vec<Vec<Observed>> = branches.iter().map(|_| Vec::new()).collect();
        let mut strands: Vec<Option<Strand>> = branches.iter().map(|_| None).collect();
        let mut active: Vec<usize> = (0..branches.len())
            .filter(|&branch| !branches[branch].is_empty())
            .collect();
        while !active.is_empty() {
            let turn = random.random_range(0..active.len());
            let branch = active[turn];
            let ops = branches[branch];
            let done = &mut results[branch];
            if strands[branch].is_none() {
                let op = &ops[done.len()];
                let reads: &[GpaRange] = match op {
                    Op::Verify { range, .. } => &[*range],
                    _ => &[],
                };
                strands[branch] = Some(self.strand(op, reads)?);
            }
            self.look_up()?;
            if let Some(strand) = &mut strands[branch] {
                let over = self.step(strand, true)?;
                self.account(&mut strand.observed);
                if !over {
                    continue;
                }
            }
            done.extend(strands[branch].take().map(|strand| strand.observed));
            if done.len() == ops.len() {
                active.swap_remove(turn);
            }
        }
        Ok(results)
    }

    fn fault_reached(&self) -> Option<bool> {
        self.core.fault_reached()
    }

    fn next_plan(&mut self, seed: u64) {
        self.core.decide_anew((self.policy)(), seed);
    }

    fn sample(&mut self) -> Sample {
        Sample {
            debugfs: self.witness.counters(&self.core),
            query_stats: Reading::missing("no QEMU on sim"),
            splits: self.witness.splits(&mut self.core),
            populated: Reading::Read(self.core.populated(self.memory)),
            exits: Reading::Read(software::exits(self.core.exits())),
            kernel_log: self.witness.kernel_log(&mut self.core),
        }
    }

    fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        self.witness.evidence(&mut self.core)
    }

    fn end(mut self: Box<Self>) -> Result<Ending, HostError> {
        self.core.tear_down();
        let counters = self.witness.counters(&self.core);
        Ok(Ending {
            taken: software::taken(&counters, self.core.frames_in_use()),
            kernel_log: self.witness.kernel_log(&mut self.core),
        })
    }
}
