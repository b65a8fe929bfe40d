//! Collects the parts of the guest's answers, within bounds.

use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::message::{Command, Counts, Reply, Run, Task, VcpuId};

use super::plausible::AnswerCheck;
use crate::cut::quoted;

/// Most runs that the answers to one request may have. A guest that finds more has found every
/// page different from its neighbour, and a lab that kept them all would be its victim.
pub const MAX_RUNS: usize = 1 << 18;

/// The answers to one request, as far as they have come in.
#[derive(Debug)]
pub struct Collector {
    id: u32,
    tasks: Vec<Answer>,
    runs: usize,
    idle: bool,
}

/// Result of one task.
#[derive(Debug)]
pub struct Answer {
    /// The task.
    pub task: Task,
    /// Its results, in the order the guest made them.
    pub runs: Vec<Run>,
    /// The guest's counts; `None` until the task is done.
    pub counts: Option<Counts>,
    check: AnswerCheck,
}

impl Collector {
    /// Waits for the answers to request `id`.
    pub fn new(id: u32, tasks: &[Task]) -> Collector {
        Collector {
            id,
            tasks: tasks
                .iter()
                .map(|&task| Answer {
                    task,
                    runs: Vec::new(),
                    counts: None,
                    check: AnswerCheck::new(task.command),
                })
                .collect(),
            runs: 0,
            idle: false,
        }
    }

    /// Adds a reply.
    ///
    /// # Errors
    ///
    /// The reply is implausible: of another request or vCPU, after the end, too much, or not
    /// possible for a guest that does this task. As text, with the reply.
    pub fn take(&mut self, reply: Reply) -> Result<(), String> {
        let said = |why: &str, reply: &Reply| format!("{why}: {}", quoted(&format!("{reply:?}")));
        if self.idle {
            return Err(said("a reply after the last one", &reply));
        }
        match reply {
            Reply::Part { id, vcpu, runs } => {
                let Some(answer) = self.answer(id, vcpu) else {
                    let reply = Reply::Part { id, vcpu, runs };
                    return Err(said("results that nobody asked for", &reply));
                };
                let stride = stride(&answer.task.command);
                let count = runs.len();
                for run in runs {
                    if let Err(why) = answer.check.follow(&run) {
                        return Err(format!("{why}: {run:?} while {}", describe(&answer.task)));
                    }
                    let rest = match answer.runs.last_mut() {
                        Some(last) => last.absorb(run, stride),
                        None => Some(run),
                    };
                    answer.runs.extend(rest);
                }
                self.runs += count;
                if self.runs > MAX_RUNS {
                    return Err(format!("more than {MAX_RUNS} results of one request"));
                }
            }
            Reply::Finished { id, vcpu, counts } => {
                let Some(answer) = self.answer(id, vcpu) else {
                    return Err(said("the end of a task that does not run", &reply));
                };
                if let Err(why) = answer.check.finish(&counts) {
                    return Err(format!("{why}, and finished {}", describe(&answer.task)));
                }
                answer.counts = Some(counts);
            }
            Reply::Idle { id } if id == self.id => {
                if let Some(answer) = self.tasks.iter().find(|answer| answer.counts.is_none()) {
                    return Err(format!("to be idle while {}", describe(&answer.task)));
                }
                self.idle = true;
            }
            _ => return Err(said("what does not belong here", &reply)),
        }
        Ok(())
    }

    /// Whether all answers are in.
    pub fn is_over(&self) -> bool {
        self.idle
    }

    /// Whether a vCPU has a task that is not over.
    pub fn is_busy(&self, vcpu: VcpuId) -> bool {
        self.tasks
            .iter()
            .any(|answer| answer.task.vcpu == vcpu && answer.counts.is_none())
    }

    /// The answers in the order of the tasks, whole or not.
    pub fn into_answers(self) -> Vec<Answer> {
        self.tasks
    }

    /// The answer to a task that is not over.
    fn answer(&mut self, id: u32, vcpu: VcpuId) -> Option<&mut Answer> {
        self.tasks
            .iter_mut()
            .find(|answer| id == self.id && answer.task.vcpu == vcpu && answer.counts.is_none())
    }
}

/// How far results of a command lie apart.
fn stride(command: &Command) -> PageLevel {
    match command {
        Command::Touch { stride, .. } | Command::Probe { stride, .. } => *stride,
        _ => PageLevel::Size4K,
    }
}

fn describe(task: &Task) -> String {
    format!(
        "vCPU {} was {}",
        task.vcpu.0,
        super::request::describe(&task.command)
    )
}
