//! A session on `tdx`: operations in sequence or in parallel.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::gettid;
use tdxlab_host::attach::{Attachment, GdbStub};
use tdxlab_host::vm::{Vm, Wake};
use tdxlab_host::{HostError, OnHost, Session};
use tdxlab_journal::interleaving::Interleaving;
use tdxlab_journal::{Death, Ending, Observed, Reading, Sample};
use tdxlab_kernel::query_stats;
use tdxlab_plan::{HostKind, HostOp, Kind, Op};
use tdxlab_protocol::addr::GpaRange;
use tdxlab_protocol::message::Task;
use tdxlab_qemu::QemuError;
use tdxlab_qemu::agent::collect::Answer;
use tdxlab_qemu::agent::request;
use tdxlab_qemu::qmp::Event;
use tdxlab_qemu::qmp::commands::QueryStatus;

use super::console::Console;
use super::death::{self, Signs};
use super::gmem::{self, Change, Changed, Gmems};
use super::layout::{Piece, RamLayout};
use super::preflight::Preflight;
use super::start::StartBarrier;
use super::watch::Watch;

/// Longest a monitor may take for an answer at rest.
const MONITOR_PATIENCE: Duration = Duration::from_secs(10);

/// A session with a TD.
pub(super) struct TdxSession {
    pub(super) vm: Vm,
    gmems: Option<Gmems>,
    layout: RamLayout,
    watch: Watch,
    memory: GpaRange,
    patience: Duration,
    events: Vec<Event>,
    dead: Option<Death>,
    /// When operations of the next race shall start, and when those of the last did.
    follow: Option<Interleaving>,
    taken: Option<Interleaving>,
    /// Its text output.
    pub(super) console: Option<Console>,
    /// Second monitor, for a held guest.
    pub(super) attachment: Option<Attachment>,
    /// Pages populated before its first instruction.
    pub(super) preflight: Option<Preflight>,
}

impl TdxSession {
    pub(super) fn new(
        vm: Vm,
        gmems: Gmems,
        layout: RamLayout,
        watch: Watch,
        memory: GpaRange,
        patience: Duration,
    ) -> TdxSession {
        TdxSession {
            vm,
            gmems: Some(gmems),
            layout,
            watch,
            memory,
            patience,
            events: Vec::new(),
            dead: None,
            follow: None,
            taken: None,
            console: None,
            attachment: None,
            preflight: None,
        }
    }

    /// Writes the evidence of a guest that never accepted a command to `folder`.
    pub(super) fn leave_evidence(mut self, folder: &Path) {
        for (name, content) in self.evidence() {
            // The failure is reported in any case; this is a best effort.
            let _ = std::fs::write(folder.join(name), content);
        }
    }

    /// Lets the vCPUs run.
    pub(super) fn go(&mut self, until: Instant) -> Result<(), HostError> {
        let asked = self
            .vm
            .qmp()
            .send(&qapi::qmp::cont {})
            .map_err(|error| QemuError::from(error).on(HostKind::Tdx))?;
        self.vm
            .answer(&asked, until, "starting the vCPUs")
            .map(drop)
    }

    /// Waits for a reply of the guest; a death or silence is an error.
    pub(super) fn wait_alive(
        &mut self,
        until: Instant,
        doing: &str,
        patience: Duration,
    ) -> Result<(), HostError> {
        match self.wait(until, doing, patience)? {
            None => Ok(()),
            Some(death) => Err(HostError::Qemu {
                what: format!("lost the TD while {doing}: {} ({:?})", death.text, death.by),
                advice: "see qemu.stderr, qmp.jsonl and the kernel log".into(),
            }),
        }
    }

    /// Waits for a reply of the guest, or for the TD's death.
    fn wait(
        &mut self,
        until: Instant,
        doing: &str,
        patience: Duration,
    ) -> Result<Option<Death>, HostError> {
        match self.vm.wait(until, doing) {
            Ok(Wake::Events) => {
                let events = self.vm.take_events();
                let is_sign = events.iter().any(death::is_sign);
                self.events.extend(events);
                Ok(if is_sign { self.look_for_death() } else { None })
            }
            Ok(Wake::Late) => match self.look_for_death() {
                Some(death) => Ok(Some(death)),
                None => Err(self.vm.silent(doing, patience)),
            },
            Ok(_) => Ok(None),
            Err(error @ HostError::Qemu { .. }) => self.look_for_death().map(Some).ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Whether the TD is dead, and of what.
    fn look_for_death(&mut self) -> Option<Death> {
        let run_state = match self.vm.qmp().execute(&QueryStatus {}, MONITOR_PATIENCE) {
            Ok(status) => Some(status.status),
            Err(_) => None,
        };
        let late = self.vm.take_events();
        self.events.extend(late);
        let mut events = self.vm.seen_events();
        events.extend(self.events.iter().cloned());
        let process = self.vm.process();
        let signs = Signs {
            events,
            run_state,
            stderr: String::from_utf8_lossy(&process.said()).into_owned(),
            kernel_log: self.watch.look_at_log().clone(),
            pid: process.pid(),
            ended: process.ended(),
        };
        self.dead = death::recognise(&signs);
        if self.dead.is_some() {
            // The duplicates would keep the TD and its key id alive.
            self.gmems = None;
        }
        self.dead.clone()
    }

    fn check_alive(&self) -> Result<(), HostError> {
        match &self.dead {
            None => Ok(()),
            Some(death) => Err(HostError::GuestRefused {
                reason: format!("the TD is dead: {}", death.text),
            }),
        }
    }

    /// Sends tasks to the guest, which starts them together, and waits for all of them.
    fn run(&mut self, tasks: &[Task]) -> Result<Vec<Answer>, HostError> {
        let doing = tasks
            .iter()
            .map(|task| request::describe(&task.command))
            .collect::<Vec<_>>()
            .join(", ");
        let (request, mut collector) = self.vm.request(tasks)?;
        if let Err(error) = self.vm.agent().send(&request)
            && self.look_for_death().is_none()
        {
            return Err(error.into());
        }
        let mut until = Instant::now() + self.patience;
        while !collector.is_over() && self.dead.is_none() {
            self.wait(until, &doing, self.patience)?;
            if self.vm.collect(&mut collector)? {
                // A guest that makes progress is not hung, however long it takes as a whole.
                until = Instant::now() + self.patience;
            }
        }
        Ok(collector.into_answers())
    }

    /// Changes of the guest_memfd by a host operation, piece by piece.
    fn pieces(&self, op: HostOp) -> Result<(&Gmems, Change, Vec<Piece>), HostError> {
        let (change, range) = match op {
            HostOp::Punch(range) => (Change::Punch, range),
            HostOp::Allocate(range) => (Change::Allocate, range),
            HostOp::SetAttributes(range, to) => (Change::Attributes(to), range),
            HostOp::Pin(range)
            | HostOp::Unpin(range)
            | HostOp::Slot(range, _)
            | HostOp::Conversions(range, _) => {
                return Err(HostError::GuestRefused {
                    reason: format!(
                        "{range}: QEMU has no command for it; only soft and sim have a VMM that does"
                    ),
                });
            }
            HostOp::Prefault(range) => {
                return Err(HostError::GuestRefused {
                    reason: format!(
                        "KVM_PRE_FAULT_MEMORY of {range} is only for the process that made the VM, \
                         and QEMU has no command for it"
                    ),
                });
            }
        };
        let Some(gmems) = &self.gmems else {
            return Err(HostError::GuestRefused {
                reason: format!(
                    "{range}: the guest_memfd was let go, so nothing can be done to it"
                ),
            });
        };
        let bytes = gmems.ram.bytes;
        let pieces = gmem::calls(range, self.layout, bytes).map_err(|what| HostError::System {
            doing: format!("checking a hole before it is made: {what}"),
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        Ok((gmems, change, pieces))
    }

    /// Does an operation of the host.
    fn host_call(&mut self, op: HostOp) -> Result<Changed, HostError> {
        self.watch.also(own_thread());
        let (gmems, change, pieces) = self.pieces(op)?;
        Ok(gmem::change(&gmems.ram.file, change, &pieces))
    }

    fn conclude(&mut self, observed: &mut Observed, began: Instant) {
        observed.took_since(began);
        // A death that no guest operation waits for shows in an event.
        if self.dead.is_none() {
            // A QEMU that is killed sends none.
            let gone = self.vm.qmp().receive().is_err() || self.vm.process().ended().is_some();
            let events = self.vm.take_events();
            let is_sign = events.iter().any(death::is_sign);
            self.events.extend(events);
            if gone || is_sign {
                self.look_for_death();
            }
        }
        observed.death = self.dead.clone();
    }

    /// Test memory in the guest_memfd.
    fn populated(&self) -> Reading<u64> {
        match &self.gmems {
            Some(gmems) => gmem::populated(&gmems.ram.file, &self.layout.pieces(self.memory)),
            None => Reading::missing("the TD is dead and its guest_memfd was let go"),
        }
    }

    /// One round of a race: operations of different vCPUs, started together.
    fn round(&mut self, ops: &[(usize, &Op)]) -> Result<Vec<(usize, Observed)>, HostError> {
        let began = Instant::now();
        let mut tasks = Vec::new();
        for &(_, op) in ops {
            if let Kind::Guest(vcpu, op) = op.kind() {
                tasks.extend(request::tasks(vcpu, op, &[]));
            }
        }
        let answers = self.run(&tasks)?;
        let mut results = Vec::new();
        for (&(branch, _), answer) in ops.iter().zip(answers) {
            let mut observed = Observed::default();
            observed.add(answer.runs, answer.counts.unwrap_or_default());
            self.conclude(&mut observed, began);
            results.push((branch, observed));
        }
        Ok(results)
    }
}

impl Session for TdxSession {
    fn perform(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError> {
        self.check_alive()?;
        let counted = self.watch.counted();
        let began = Instant::now();
        let mut observed = Observed::default();
        match op.kind() {
            Kind::Host(op) => {
                let done = self.host_call(op)?;
                observed.errno = Some(done.errno);
                observed.error_at = done.stopped_at.and_then(|offset| self.layout.gpa(offset));
            }
            Kind::Vm(_) => return Err(HostError::for_plain_vms_only()),
            Kind::Guest(vcpu, op) => {
                for task in request::tasks(vcpu, op, reads) {
                    let answers = self.run(&[task])?;
                    for answer in answers {
                        observed.add(answer.runs, answer.counts.unwrap_or_default());
                    }
                    if self.dead.is_some() {
                        break;
                    }
                }
            }
        }
        self.conclude(&mut observed, began);
        observed.cost = self.watch.counted().since(counted);
        Ok(observed)
    }

    /// The seed has no effect: a real host has its own order. Branches start together; in a replay
    /// each operation starts as long after the beginning as it did in the recorded race.
    fn perform_parallel(
        &mut self,
        branches: &[&[Op]],
        _seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        self.check_alive()?;
        let counted = self.watch.counted();
        let followed = self.follow.take().unwrap_or_default();
        let mut results: Vec<Vec<Observed>> = vec![Vec::new(); branches.len()];
        let mut on_host = Vec::new();
        let mut in_guest = Vec::new();
        for (number, branch) in branches.iter().enumerate() {
            // A branch is all of the guest, or all of the host.
            let mut calls = Vec::new();
            for op in *branch {
                match op.kind() {
                    Kind::Host(op) => {
                        let (_, change, pieces) = self.pieces(op)?;
                        calls.push((change, pieces));
                    }
                    Kind::Guest(..) => {}
                    Kind::Vm(_) => return Err(HostError::for_plain_vms_only()),
                }
            }
            match calls.is_empty() {
                false => on_host.push((number, calls, followed.starts_of(number))),
                true => in_guest.push((number, *branch)),
            }
        }
        let file = match &self.gmems {
            Some(gmems) => gmems
                .ram
                .file
                .try_clone()
                .map_err(|source| HostError::System {
                    doing: "duplicating a guest_memfd".into(),
                    source,
                })?,
            None => {
                return Err(HostError::GuestRefused {
                    reason: "the TD is dead".into(),
                });
            }
        };
        let file = file.as_fd();
        let line = StartBarrier::new(on_host.len() + 1, self.patience);
        let line = &line;
        let mut starts: Vec<(Duration, Vec<usize>)> = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = on_host
                .into_iter()
                .map(|(number, calls, due)| {
                    scope.spawn(move || {
                        line.ready();
                        let mut due = due.into_iter();
                        let observed = calls.iter().map(|(change, pieces)| {
                            let at = line.wait_for(due.next());
                            let began = Instant::now();
                            let done = gmem::change(file, *change, pieces);
                            let mut observed = Observed {
                                errno: Some(done.errno),
                                ..Observed::default()
                            };
                            observed.took_since(began);
                            (at, observed)
                        });
                        (number, own_thread(), observed.collect::<Vec<_>>())
                    })
                })
                .collect();
            line.ready();
            let longest = in_guest.iter().map(|(_, ops)| ops.len()).max().unwrap_or(0);
            for round in 0..longest {
                let ops: Vec<_> = in_guest
                    .iter()
                    .filter_map(|(number, ops)| Some((*number, ops.get(round)?)))
                    .collect();
                if self.dead.is_none() {
                    let racing: Vec<usize> = ops.iter().map(|(branch, _)| *branch).collect();
                    // All of a round start together, so any of them knows when.
                    let due = racing.first().map(|branch| followed.starts_of(*branch));
                    let due = due.and_then(|due| due.get(round).copied());
                    starts.push((line.wait_for(due), racing));
                    for (branch, observed) in self.round(&ops)? {
                        results[branch].push(observed);
                    }
                }
            }
            for thread in threads {
                let (number, tid, observed) = thread.join().expect("a host thread does not panic");
                self.watch.also(tid);
                for (at, observed) in observed {
                    starts.push((at, vec![number]));
                    results[number].push(observed);
                }
            }
            Ok::<(), HostError>(())
        })?;
        starts.sort();
        let mut taken = Interleaving::default();
        for (at, racing) in starts {
            taken.started(at, racing);
        }
        self.taken = Some(taken);
        // KVM does not say which of the operations it was.
        if let Some(first) = results.iter_mut().flatten().next() {
            first.cost = self.watch.counted().since(counted);
        }
        Ok(results)
    }

    fn follow(&mut self, order: &Interleaving) {
        self.follow = Some(order.clone());
    }

    fn take_interleaving(&mut self) -> Option<Interleaving> {
        self.taken.take()
    }

    fn attach(&mut self) -> Vec<(String, String)> {
        match &self.attachment {
            Some(attachment) => attachment.open(&mut self.vm, GdbStub::Closed),
            None => Vec::new(),
        }
    }

    fn sample(&mut self) -> Sample {
        let gone = self.vm.process().ended().is_some();
        Sample {
            debugfs: unless(gone, self.watch.counters()),
            query_stats: unless(gone, query_stats::read(self.vm.qmp(), MONITOR_PATIENCE)),
            splits: self.watch.splits(),
            populated: self.populated(),
            exits: Reading::missing("KVM counts exits, but not which of them are ACCEPTs"),
            kernel_log: self.watch.take_log(),
        }
    }

    fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut evidence = self.vm.evidence();
        let seamcalls = self.watch.seamcalls_text();
        evidence.push(("seamcalls.txt".to_owned(), seamcalls.into_bytes()));
        if let Some(console) = &mut self.console {
            evidence.push(("console.log".to_owned(), console.said()));
        }
        if let Some(preflight) = &self.preflight {
            evidence.push((
                "preflight.txt".to_owned(),
                format!("populated before the first instruction: {preflight}\n").into_bytes(),
            ));
        }
        evidence
    }

    fn end(mut self: Box<Self>) -> Result<Ending, HostError> {
        // Before QEMU's end is judged, and before the next TD wants a key id.
        self.gmems = None;
        self.vm.end()?;
        Ok(self.watch.ending())
    }
}

/// A reading, with one reason for all that went with QEMU.
fn unless<T>(gone: bool, reading: Reading<T>) -> Reading<T> {
    match reading {
        Reading::Missing { .. } if gone => Reading::missing("QEMU has ended, and its VM with it"),
        reading => reading,
    }
}

fn own_thread() -> u32 {
    gettid().as_raw().cast_unsigned()
}
