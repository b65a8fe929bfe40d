//! Whole runs against a host that does what a script says.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tdxlab_protocol::message::Run;

use super::folder::RunFolder;
use super::journal::{self, Event, RunStarted};
use super::*;
use crate::addr::{Gpa, GpaRange, PageLevel};
use crate::host::interrupt::Interrupt;
use crate::host::{BootOptions, Death, Host, HostError, Killer, Observed, Session};
use crate::plan::{Action, Guest, HostKind, Needs, Op, Plan, Slot, Step};
use crate::predict::{Design, Expectation, Interval};
use crate::report;
use crate::witness::{ExitCounters, PageCounters, Reading, Sample};

/// What the scripted host does wrong.
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
        vec![("host".to_owned(), "scripted".to_owned())]
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
            (Script::SilentInStepTwo, 2) => Err(HostError::GuestSilent {
                doing: "punch".to_owned(),
                waited: Duration::from_secs(5),
            }),
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

    fn end(self: Box<Self>) -> Result<(), HostError> {
        match self.script {
            Script::EndFails => Err(HostError::Qemu {
                what: "did not end".to_owned(),
                advice: "look at its log".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Nothing happens, and holes succeed.
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

impl Watcher for Counting {
    fn plan_started(&self, _: usize, _: &str, _: usize) {}
    fn step_started(&self, _: usize, _: usize) {}
    fn plan_ended(&self, _: usize, name: &str, _: &Outcome) {
        self.ended.lock().unwrap().push(name.to_owned());
    }
}

fn memory() -> GpaRange {
    GpaRange::with_len(Gpa::new(1 << 30), 64 << 20).unwrap()
}

fn plan(name: &str, ops: Vec<Op>) -> Item {
    Item {
        plan: Plan {
            version: crate::plan::VERSION,
            name: name.to_owned(),
            about: "Holes in empty memory.".to_owned(),
            seed: 1,
            needs: Needs::default(),
            guest: Guest {
                memory: memory(),
                vcpus: 1,
                sept_ve_disable: false,
                slots: vec![Slot {
                    range: memory(),
                    gmem_offset: 0,
                }],
                image: Vec::new(),
            },
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

    fn run(self, items: &[Item]) -> Finished {
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
        let lab = Lab {
            host: &host,
            offer,
            oracle: &|_| Box::new(Calm),
            journal: &journal,
            folder: &folder,
            allowed_log: AllowList::default(),
            interrupt: &interrupt,
            patience: Duration::from_secs(1),
            keep: self.keep,
            watcher: &watcher,
        };
        let verdict = pool::run(
            items,
            &lab,
            Drive {
                jobs: self.jobs,
                fail_fast: self.fail_fast,
                confirm: 0,
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

fn offer() -> Offer {
    Offer {
        host: HostKind::Sim,
        design: Design::named("headtail").unwrap(),
    }
}

fn head(folder: &RunFolder, items: &[Item]) -> Event {
    Event::RunStarted(RunStarted {
        version: journal::VERSION,
        tdxlab: "0.0.0".to_owned(),
        run: folder.name().to_owned(),
        started: folder.started().to_string(),
        command: vec!["tdxlab".to_owned(), "run".to_owned()],
        host: HostKind::Sim,
        host_reason: "asked for".to_owned(),
        facts: Vec::new(),
        design: "headtail".to_owned(),
        seed: None,
        jobs: 1,
        plans: items.iter().map(|item| item.plan.name.clone()).collect(),
        paths: Vec::new(),
        part: None,
        merged: Vec::new(),
    })
}

fn exists(finished: &Finished, name: &str) -> bool {
    finished.folder.join(name).exists()
}

#[test]
fn a_run_in_which_all_is_right_passes_and_leaves_no_evidence() {
    let finished = Setup::of(Script::Right).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Pass);
    assert!(finished.report.complete);
    assert_eq!(finished.report.counts.pass, 1);
    assert_eq!(finished.report.scenarios[0].steps.len(), 2);
    assert_eq!(finished.report.scenarios[0].evidence, None);
    let left = fs::read_dir(finished.folder.join("scenarios")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_failing_step_leaves_evidence_and_the_plan_goes_on() {
    let finished = Setup::of(Script::PunchFails).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.as_ref().unwrap(), &Verdict::Fail);
    let scenario = &finished.report.scenarios[0];
    assert_eq!(scenario.steps.len(), 2);
    assert_eq!(scenario.steps[0].findings[0].found, "EINVAL");
    let evidence = scenario.evidence.as_deref().unwrap();
    for name in ["serial.log", "plan.json", "samples.txt", "escape"] {
        assert!(exists(&finished, &format!("{evidence}/{name}")), "{name}");
    }
    let replay = fs::read(finished.folder.join(evidence).join("plan.json")).unwrap();
    let replay: Plan = serde_json::from_slice(&replay).unwrap();
    assert_eq!(replay.name, "punch/a");
}

#[rstest::rstest]
#[case::counters_missing(Script::NoCounters, "no counter counts. debugfs: no debugfs")]
#[case::counters_stuck(Script::CounterStuck, "pages_4k stayed at 3")]
#[case::no_boot(
    Script::BootFails,
    "QEMU ended with status 1: no such machine; install"
)]
#[case::silence(Script::SilentInStepTwo, "guest did not answer within 5s while punch")]
#[case::a_defect_of_the_lab(Script::Panics, "the lab has a defect")]
#[case::a_guest_that_does_not_end(Script::EndFails, "QEMU did not end")]
fn what_cannot_be_judged_is_an_error_with_its_reason(#[case] script: Script, #[case] reason: &str) {
    let finished = Setup::of(script).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Error);
    let scenario = &finished.report.scenarios[0];
    assert_eq!(scenario.verdict, Verdict::Error);
    let said = scenario.reason.as_deref().unwrap();
    assert!(said.contains(reason), "{said}");
}

#[test]
fn a_step_nobody_can_foresee_is_an_error() {
    let unforeseen = Op::Prefault { range: memory() };
    let finished = Setup::of(Script::Right).run(&[plan("punch/a", vec![punch(), unforeseen])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Error);
    let reason = finished.report.scenarios[0].reason.as_deref().unwrap();
    assert!(
        reason.contains("step 2") && reason.contains("nobody knows"),
        "{reason}"
    );
}

#[test]
fn a_failure_that_was_seen_outlives_an_error_after_it() {
    let wrong = Op::Allocate { range: memory() };
    let finished = Setup::of(Script::SilentInStepTwo).run(&[plan("punch/a", vec![wrong, punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Fail);
    assert!(finished.report.scenarios[0].reason.is_some());
}

#[test]
fn a_dead_td_does_no_further_steps() {
    let finished = Setup::of(Script::DiesInStepOne).run(&[plan("punch/a", vec![punch(), punch()])]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Fail);
    assert_eq!(finished.report.scenarios[0].steps.len(), 1);
}

#[test]
fn a_need_that_is_not_met_skips_by_name() {
    let mut item = plan("punch/a", vec![punch()]);
    item.plan.needs.hosts = vec![HostKind::Tdx];
    let finished = Setup::of(Script::Right).run(&[item]);
    assert_eq!(finished.verdict.unwrap(), Verdict::Skip);
    let reason = finished.report.scenarios[0].reason.as_deref().unwrap();
    assert_eq!(reason, "needs host tdx; this is sim");
}

#[test]
fn fail_fast_starts_nothing_more_and_says_so() {
    let items = [
        plan("punch/a", vec![punch()]),
        plan("punch/b", vec![punch()]),
    ];
    let mut setup = Setup::of(Script::PunchFails);
    setup.fail_fast = true;
    let finished = setup.run(&items);
    assert_eq!(finished.ended, ["punch/a"]);
    let second = &finished.report.scenarios[1];
    assert_eq!(second.verdict, Verdict::Skip);
    assert!(second.reason.as_deref().unwrap().contains("not run"));
}

#[test]
fn an_interrupted_run_ends_in_good_order() {
    let mut setup = Setup::of(Script::Right);
    setup.interrupted = true;
    let finished = setup.run(&[plan("punch/a", vec![punch()])]);
    assert_eq!(finished.ended, [""; 0]);
    assert!(finished.report.interrupted && finished.report.complete);
}

#[test]
fn many_workers_run_every_plan_once() {
    let items: Vec<Item> = (0..40)
        .map(|index| plan(&format!("punch/{index:02}"), vec![punch()]))
        .collect();
    let mut setup = Setup::of(Script::Right);
    setup.jobs = 8;
    setup.keep = true;
    let finished = setup.run(&items);
    let mut ended = finished.ended.clone();
    ended.sort();
    let names: Vec<String> = items.iter().map(|item| item.plan.name.clone()).collect();
    assert_eq!(ended, names);
    assert_eq!(finished.report.counts.pass, 40);
    assert!(exists(&finished, "scenarios/0017-punch-17/plan.json"));
}

#[test]
fn a_journal_cut_anywhere_gives_every_complete_event() {
    let finished = Setup::of(Script::PunchFails).run(&[plan("punch/a", vec![punch(), punch()])]);
    let whole = fs::read(finished.folder.join(journal::FILE)).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let cut_path = finished.folder.join("cut.jsonl");
    for length in 0..whole.len() {
        fs::write(&cut_path, &whole[..length]).unwrap();
        match report::from_journal(&cut_path) {
            Ok(report) => {
                assert!(length >= first);
                let complete = whole[..length].iter().filter(|b| **b == b'\n').count();
                assert_eq!(report.complete, complete == 12, "{length}");
                let judged = report.scenarios[0]
                    .steps
                    .iter()
                    .filter(|step| step.verdict.is_some())
                    .count();
                assert_eq!(
                    judged,
                    usize::from(complete >= 7) + usize::from(complete >= 10)
                );
                assert_ne!(report.verdict, Verdict::Pass);
            }
            Err(error) => assert!(length < first, "{error}"),
        }
    }
}

#[test]
fn a_journal_of_another_version_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(journal::FILE);
    fs::write(
        &path,
        "{\"event\":{\"run_started\":{\"version\":99,\"new\":1}}}\n",
    )
    .unwrap();
    let error = Recording::open(&path).unwrap_err();
    assert!(
        matches!(error, JournalError::Version { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn a_line_that_is_no_event_is_named_by_its_number() {
    let finished = Setup::of(Script::Right).run(&[plan("punch/a", vec![punch()])]);
    let path = finished.folder.join(journal::FILE);
    let mut text = fs::read_to_string(&path).unwrap();
    text += "{\"at\":1,\"event\":\"nonsense\"}\n";
    let lines = text.lines().count();
    fs::write(&path, text).unwrap();
    let error = report::from_journal(&path).unwrap_err();
    assert!(
        error.to_string().contains(&format!("line {lines},")),
        "{error}"
    );
}
