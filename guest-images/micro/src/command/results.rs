//! Collects the results of a task, run-length coded, and sends them in parts.

use core::mem;

use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::message::{MAX_RUNS, Reply, Run};

use crate::serial;
use crate::vcpu::this;

type Runs = heapless::Vec<Run, MAX_RUNS>;

/// The results of this vCPU's task. Each vCPU sends its results as soon as they fill a part, so
/// that none has to wait for another.
pub(crate) struct Results {
    id: u32,
    runs: &'static mut Runs,
}

impl Results {
    /// No results yet for request `id`. A vCPU has one of these at a time.
    pub(super) fn new(id: u32) -> Results {
        // SAFETY: only this vCPU reaches its runs, only here, and its last task is over.
        let runs = unsafe { &mut *this().runs.get() };
        runs.clear();
        Results { id, runs }
    }

    /// Adds a result; `stride` is how far results of its kind lie apart.
    pub(super) fn push(&mut self, run: Run, stride: PageLevel) {
        let rest = match self.runs.last_mut() {
            Some(last) => last.absorb(run, stride),
            None => Some(run),
        };
        if let Some(run) = rest {
            if self.runs.is_full() {
                self.send();
            }
            // There is room now.
            let _ = self.runs.push(run);
        }
    }

    /// Sends the results collected so far.
    pub(super) fn send(&mut self) {
        if !self.runs.is_empty() {
            serial::send(&Reply::Part {
                id: self.id,
                vcpu: this().id(),
                runs: mem::take(self.runs),
            });
        }
    }
}
