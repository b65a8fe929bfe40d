//! Whole runs against a scripted host.

use tdxlab_journal::{JournalError, Verdict};
use tdxlab_plan::MemoryMap;

mod journals;
mod runs;

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tdxlab_host::{BootOptions, Host, HostError, Session};
use tdxlab_journal::folder::RunFolder;
use tdxlab_journal::journal::{self, Event, RunStarted};
use tdxlab_journal::{
    Death, Ending, ExitCounters, Killer, Observed, PageCounters, Reading, Sample,
};
use tdxlab_judge::{AllowList, Oracle};
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::needs::HostAndDesign;
use tdxlab_plan::{
    Action, Design, Expectation, Guest, HostKind, HostProfile, Interval, Needs, Op, Plan, Step,
};
use tdxlab_protocol::message::Run;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_report as report;
use tdxlab_run::{NoHooks, Outcome, PoolOptions, Progress, RunContext, TestCase};

/// Misbehaviour of the scripted host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Right,
    PunchFails,
    NoCounters,
    CounterStuck,
    BootFails,
    SilentInStepTwo,
    Panics,
    DiesInStepOne,
    EndFails,
    ComplaintAtTheEnd,
    KilledForMemory,
    LogOverwritten,
    ModuleUpdated,
}

struct Scripted {
    script: Script,
    alive: AtomicUsize,
}

struct Guest0<'a> {
    script: Script,
    pages: u64,
    steps: usize,
    alive: &'a AtomicUsize,
}

impl Drop for Guest0<'_> {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lives as long as the test: sessions must be `'static`.
fn host(script: Script) -> &'static Scripted {
    Box::leak(Box::new(Scripted {
        script,
        alive: AtomicUsize::new(0),
    }))
}

impl Host for &'static Scripted {
    fn kind(&self) -> HostKind {
        HostKind::Sim
    }

    fn facts(&self) -> Vec<(String, String)> {
        let module = ("TDX module".to_owned(), "1.5.28".to_owned());
        vec![("host".to_owned(), "scripted".to_owned()), module]
    }

    fn changing_facts(&self) -> Vec<(String, String)> {
        let version = match self.script {
            Script::ModuleUpdated => "1.5.34",
            _ => "1.5.28",
        };
        vec![("TDX module".to_owned(), version.to_owned())]
    }

    fn boot(&self, _: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        assert!(options.folder.is_dir());
        if self.script == Script::BootFails {
            return Err(HostError::Qemu {
                what: "ended with status 1: no such machine".to_owned(),
                advice: "install a newer QEMU".to_owned(),
            });
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Guest0 {
            script: self.script,
            pages: 3,
            steps: 0,
            alive: &self.alive,
        }))
    }
}

impl Session for Guest0<'static> {
    fn perform(&mut self, op: &Op, _: &[GpaRange]) -> Result<Observed, HostError> {
        if let Op::Accept { range, .. } = op {
            if self.script != Script::CounterStuck {
                self.pages += 1;
            }
            return Ok(Observed {
                runs: vec![Run::Accept {
                    start: range.start(),
                    level: PageLevel::Size4K,
                    count: 1,
                    status: 0,
                }],
                ..Observed::default()
            });
        }
        self.steps += 1;
        match (self.script, self.steps) {
            (Script::SilentInStepTwo, 2) | (Script::KilledForMemory, 1) => {
                Err(HostError::GuestSilent {
                    doing: "punch".to_owned(),
                    waited: Duration::from_secs(5),
                })
            }
            (Script::Panics, _) => panic!("the lab has a defect"),
            (script, _) => Ok(Observed {
                errno: Some(if script == Script::PunchFails { 22 } else { 0 }),
                death: (script == Script::DiesInStepOne).then(|| Death {
                    by: Killer::KvmBug,
                    text: "bugged".to_owned(),
                }),
                ..Observed::default()
            }),
        }
    }

    fn perform_parallel(&mut self, _: &[&[Op]], _: u64) -> Result<Vec<Vec<Observed>>, HostError> {
        Ok(Vec::new())
    }

    fn sample(&mut self) -> Sample {
        let pages = match self.script {
            Script::NoCounters => Reading::Missing {
                reason: "no debugfs".to_owned(),
            },
            _ => Reading::Read(PageCounters {
                pages_4k: self.pages,
                ..PageCounters::default()
            }),
        };
        Sample {
            debugfs: pages.clone(),
            query_stats: pages,
            splits: Reading::Read(Vec::new()),
            populated: Reading::Read(0),
            exits: match self.script {
                Script::NoCounters => Reading::Missing {
                    reason: "no tracefs".to_owned(),
                },
                _ => Reading::Read(ExitCounters {
                    accept: self.pages - 3,
                    access: 0,
                }),
            },
            kernel_log: Reading::Read(Vec::new()),
        }
    }

    fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        vec![
            ("serial.log".to_owned(), b"hello".to_vec()),
            ("../../escape".to_owned(), b"no".to_vec()),
        ]
    }

    fn end(self: Box<Self>) -> Result<Ending, HostError> {
        match self.script {
            Script::EndFails => Err(HostError::Qemu {
                what: "did not end".to_owned(),
                advice: "look at its log".to_owned(),
            }),
            Script::ComplaintAtTheEnd => Ok(Ending {
                kernel_log: Reading::Read(vec![
                    "kvm_intel: SEAMCALL TDH_MNG_VPFLUSHDONE failed: 0x8000082400000000".to_owned(),
                ]),
                taken: Vec::new(),
            }),
            Script::KilledForMemory => Ok(Ending {
                kernel_log: Reading::Read(vec![
                    "Out of memory: Killed process 812 (qemu-system-x86) total-vm:9kB".to_owned(),
                ]),
                taken: Vec::new(),
            }),
            Script::LogOverwritten => Ok(Ending {
                kernel_log: Reading::incomplete("records were overwritten before they were read"),
                taken: Vec::new(),
            }),
            _ => Ok(Ending {
                kernel_log: Reading::missing("no /dev/kmsg"),
                taken: Vec::new(),
            }),
        }
    }
}

/// Predicts no events, and that holes succeed.
struct Calm;

impl Oracle for Calm {
    fn foresee(&mut self, action: &Action) -> Result<Expectation, String> {
        let calm = Expectation {
            td_alive: true,
            errnos: vec![0],
            ..Expectation::default()
        };
        match action {
            Action::One(Op::Prefault { .. }) => Err("nobody knows".to_owned()),
            Action::One(Op::Allocate { .. }) => Ok(Expectation {
                splits: Interval::exactly(1),
                ..calm
            }),
            _ => Ok(calm),
        }
    }

    fn map(&self, _: GpaRange) -> MemoryMap {
        MemoryMap::default()
    }
}

#[derive(Default)]
struct Counting {
    ended: Mutex<Vec<String>>,
}

impl Progress for Counting {
    fn plan_started(&self, _: usize, _: &str, _: usize) {}
    fn step_started(&self, _: usize, _: usize) {}
    fn plan_ended(&self, _: usize, name: &str, _: &Outcome) {
        self.ended.lock().unwrap().push(name.to_owned());
    }
}

fn memory() -> GpaRange {
    GpaRange::with_len(Gpa::new(1 << 30), 64 << 20).unwrap()
}

fn plan(name: &str, ops: Vec<Op>) -> TestCase {
    TestCase {
        plan: Plan {
            version: tdxlab_plan::VERSION,
            name: name.to_owned(),
            about: "Holes in empty memory.".to_owned(),
            seed: 1,
            needs: Needs::default(),
            guest: Guest::over(memory()),
            steps: ops
                .into_iter()
                .map(|op| Step {
                    line: 7,
                    action: Action::One(op),
                    expect: Default::default(),
                })
                .collect(),
        },
        scenario: Some("scenarios/punch/empty.yaml".into()),
    }
}

fn punch() -> Op {
    Op::Punch { range: memory() }
}

struct Finished {
    _reports: tempfile::TempDir,
    folder: std::path::PathBuf,
    verdict: Result<Verdict, JournalError>,
    report: report::Report,
    ended: Vec<String>,
}

struct Setup {
    script: Script,
    jobs: usize,
    fail_fast: bool,
    keep: bool,
    interrupted: bool,
}

impl Setup {
    fn of(script: Script) -> Setup {
        Setup {
            script,
            jobs: 1,
            fail_fast: false,
            keep: false,
            interrupted: false,
        }
    }

    fn run(self, items: &[TestCase]) -> Finished {
        let reports = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(reports.path()).unwrap();
        let journal = folder.journal().unwrap();
        let offer = offer();
        journal.write(&head(&folder, items)).unwrap();
        let interrupt = Interrupt::new();
        if self.interrupted {
            interrupt.raise();
        }
        let watcher = Counting::default();
        let host = host(self.script);
        let lab = RunContext {
            host: &host,
            offer,
            oracle: &|_| Box::new(Calm),
            journal: &journal,
            folder: &folder,
            allowed_log: AllowList::default(),
            interrupt: &interrupt,
            patience: Duration::from_secs(1),
            keep: if self.keep {
                tdxlab_run::KeepEvidence::Everything
            } else {
                tdxlab_run::KeepEvidence::Failures
            },
            watcher: &watcher,
            hooks: &NoHooks,
        };
        let verdict = tdxlab_run::run(
            items,
            &lab,
            PoolOptions {
                jobs: self.jobs,
                fail_fast: self.fail_fast,
                confirm: 0,
                share: false,
            },
        );
        assert_eq!(host.alive.load(Ordering::SeqCst), 0, "a guest lives on");
        let report = report::from_journal(journal.path()).unwrap();
        Finished {
            folder: folder.path().to_owned(),
            _reports: reports,
            verdict,
            report,
            ended: watcher.ended.into_inner().unwrap(),
        }
    }
}

fn offer() -> HostAndDesign {
    HostAndDesign {
        host: HostProfile::of(HostKind::Sim),
        design: Design::named("headtail").unwrap(),
    }
}

fn head(folder: &RunFolder, items: &[TestCase]) -> Event {
    Event::RunStarted(RunStarted {
        version: journal::VERSION,
        tdxlab: "0.0.0".to_owned(),
        run: folder.name().to_owned(),
        started: folder.started().to_string(),
        command: vec!["tdxlab".to_owned(), "run".to_owned()],
        host: HostKind::Sim,
        profile: None,
        host_reason: "asked for".to_owned(),
        facts: host(Script::Right).facts(),
        fault: None,
        design: "headtail".to_owned(),
        seed: None,
        jobs: 1,
        plans: items.iter().map(|item| item.plan.name.clone()).collect(),
        paths: Vec::new(),
        allowed_log: Vec::new(),
        part: None,
        repeat: None,
        merged: Vec::new(),
    })
}

fn exists(finished: &Finished, name: &str) -> bool {
    finished.folder.join(name).exists()
}
