//! Plans that share a guest or a QEMU are judged as in guests of their own: the whole default set under
//! every design, faults, and guests in which something goes wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tdxlab::addr::GpaRange;
use tdxlab::faults;
use tdxlab::host::{BootOptions, Host, HostError, Session};
use tdxlab::host_soft::SoftwareHost;
use tdxlab::host_soft::sim::SimHost;
use tdxlab::journal::folder::RunFolder;
use tdxlab::journal::journal::Event;
use tdxlab::journal::{Ending, JournalError, Observed, PlanId, Reading, Sample, Verdict};
use tdxlab::judge::{AllowList, HostOracle};
use tdxlab::plan::needs::HostAndDesign;
use tdxlab::plan::{Design, Guest, HostKind, HostProfile, Op};
use tdxlab::qemu::interrupt::Interrupt;
use tdxlab::run::{
    EventSink, KeepEvidence, NoHooks, NoProgress, PATIENCE, PoolOptions, RunContext, TestCase,
};
use tdxlab::scenario;

/// All plans of the default set whose names begin like that.
fn plans(prefix: &str) -> Vec<TestCase> {
    let all = scenario::embedded().unwrap().into_iter();
    all.filter(|scenario| scenario.name().starts_with(prefix))
        .flat_map(|scenario| scenario::expand(&scenario, None).unwrap())
        .filter(|plan| plan.guest.backing.is_none())
        .map(|plan| TestCase {
            plan,
            scenario: None,
        })
        .collect()
}

/// What goes wrong in a guest that is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    None,
    /// The second plan of a guest cannot do its first step.
    RefusesTheSecond,
    /// The kernel complains when the guest has gone.
    LeavesATrace,
    /// Nothing can be done in a QEMU that had a guest before.
    RefusesUsedQemus,
}

/// sim, as if a boot cost something.
struct Costly {
    sim: SimHost,
    mood: Mood,
    boots: Arc<AtomicUsize>,
}

impl Costly {
    fn new(sim: SimHost, mood: Mood) -> Costly {
        Costly {
            sim,
            mood,
            boots: Arc::default(),
        }
    }
}

impl Host for Costly {
    fn kind(&self) -> HostKind {
        HostKind::Sim
    }

    fn profile(&self) -> HostProfile {
        HostProfile {
            boots_cost: true,
            ..self.sim.profile()
        }
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.sim.facts()
    }

    fn keeps_files(&self) -> bool {
        false
    }

    fn boot(&self, guest: &Guest, options: &BootOptions) -> Result<Box<dyn Session>, HostError> {
        let booted = self.boots.fetch_add(1, Ordering::Relaxed);
        let used = !options.fresh && booted > 0 && self.mood == Mood::RefusesUsedQemus;
        Ok(Box::new(Moody {
            session: self.sim.boot(guest, options)?,
            mood: self.mood,
            plans: 0,
            used,
        }))
    }
}

struct Moody {
    session: Box<dyn Session>,
    mood: Mood,
    /// Plans that shared it so far; none where it is not shared.
    plans: usize,
    /// Whether its QEMU had a guest before.
    used: bool,
}

impl Session for Moody {
    fn perform(&mut self, op: &Op, reads: &[GpaRange]) -> Result<Observed, HostError> {
        if self.used || self.mood == Mood::RefusesTheSecond && self.plans == 2 {
            return Err(HostError::GuestRefused {
                reason: "not in this mood".to_owned(),
            });
        }
        self.session.perform(op, reads)
    }

    fn perform_parallel(
        &mut self,
        branches: &[&[Op]],
        seed: u64,
    ) -> Result<Vec<Vec<Observed>>, HostError> {
        self.session.perform_parallel(branches, seed)
    }

    fn fault_reached(&self) -> Option<bool> {
        self.session.fault_reached()
    }

    fn guests_before(&self) -> u32 {
        u32::from(self.used)
    }

    fn next_plan(&mut self, seed: u64) {
        self.plans += 1;
        self.session.next_plan(seed);
    }

    fn sample(&mut self) -> Sample {
        self.session.sample()
    }

    fn evidence(&mut self) -> Vec<(String, Vec<u8>)> {
        self.session.evidence()
    }

    fn end(self: Box<Self>) -> Result<Ending, HostError> {
        let ending = self.session.end()?;
        if self.mood == Mood::LeavesATrace && self.plans > 0 {
            let line =
                "WARNING: CPU: 0 PID: 1 at arch/x86/kvm/mmu/tdp_mmu.c:57 kvm_mmu_uninit_tdp_mmu";
            return Ok(Ending {
                kernel_log: Reading::Read(vec![line.to_owned()]),
                ..ending
            });
        }
        Ok(ending)
    }
}

/// How plans ended, and what passed only alone.
#[derive(Debug, Default)]
struct Ends {
    verdicts: BTreeMap<PlanId, (Verdict, Option<bool>)>,
    shared: usize,
    failed_shared: BTreeMap<PlanId, String>,
}

#[derive(Default)]
struct Listener(Mutex<Ends>);

impl EventSink for Listener {
    fn write(&self, event: &Event) -> Result<(), JournalError> {
        let mut ends = self.0.lock().unwrap();
        match event {
            Event::PlanEnded {
                plan,
                verdict,
                fault_reached,
                ..
            } => {
                ends.verdicts.insert(*plan, (*verdict, *fault_reached));
            }
            Event::PlanSkipped { plan, .. } => {
                ends.verdicts.insert(*plan, (Verdict::Skip, None));
            }
            Event::Booted { shared, .. } => ends.shared += usize::from(shared.is_some()),
            Event::FailedShared { plan, why, .. } => {
                ends.failed_shared.insert(*plan, why.clone());
            }
            _ => {}
        }
        Ok(())
    }
}

fn run(items: &[TestCase], host: &Costly, design: &'static Design, share: bool) -> Ends {
    let room = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(room.path()).unwrap();
    let listener = Listener::default();
    let lab = RunContext {
        host,
        offer: HostAndDesign {
            host: host.profile(),
            design,
        },
        oracle: &HostOracle::maker(host.profile(), design),
        journal: &listener,
        folder: &folder,
        allowed_log: AllowList::default(),
        interrupt: Interrupt::of_process(),
        patience: PATIENCE,
        keep: KeepEvidence::Nothing,
        watcher: &NoProgress,
        hooks: &NoHooks,
    };
    let pool = PoolOptions {
        jobs: 1,
        fail_fast: false,
        confirm: 0,
        share,
    };
    tdxlab::run::run(items, &lab, pool).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .collect();
    assert!(
        left.iter().all(|entry| !entry.path().ends_with("guests")),
        "{left:?}"
    );
    listener.0.into_inner().unwrap()
}

#[test]
fn the_default_set_is_judged_alike_in_shared_guests() {
    let items = plans("");
    for design in Design::all() {
        let host = || Costly::new(SimHost::in_memory(), Mood::None);
        let (alone, together) = (host(), host());
        let fresh = run(&items, &alone, design, false);
        let shared = run(&items, &together, design, true);
        assert_eq!(fresh.verdicts, shared.verdicts, "{}", design.name);
        assert_eq!(fresh.shared, 0);
        assert!(shared.shared >= 30, "{}: {}", design.name, shared.shared);
        assert!(
            shared.failed_shared.is_empty(),
            "{:?}",
            shared.failed_shared
        );
        let boots = |host: &Costly| host.boots.load(Ordering::Relaxed);
        assert!(
            boots(&together) * 2 < boots(&alone),
            "{} boots",
            boots(&together)
        );
    }
}

/// Faults that are known to strike by address show in fewer plans of a shared guest, which is why runs
/// with a seeded fault share none. That guests are shared must not hide one altogether.
#[test]
fn no_fault_hides_in_shared_guests() {
    let items = plans("");
    let bad = |ends: &Ends| {
        let verdicts = ends.verdicts.values();
        verdicts
            .filter(|(verdict, _)| matches!(verdict, Verdict::Fail | Verdict::Error))
            .count()
    };
    let mut hidden = Vec::new();
    for fault in faults::all().step_by(4) {
        let design = Design::named(fault.design).unwrap();
        let host = || Costly::new(SimHost::in_memory().with_fault(fault.seeded()), Mood::None);
        let shared = run(&items, &host(), design, true);
        if bad(&shared) == 0 && bad(&run(&items, &host(), design, false)) > 0 {
            hidden.push(fault.name);
        }
    }
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn what_fails_in_a_shared_guest_is_run_again_before_it_is_believed() {
    let items = plans("punch");
    let host = Costly::new(SimHost::in_memory(), Mood::RefusesTheSecond);
    let design = Design::named("headtail").unwrap();
    let ends = run(&items, &host, design, true);
    assert!(!ends.failed_shared.is_empty());
    assert!(
        ends.failed_shared
            .values()
            .all(|why| why.contains("not in this mood")),
        "{ends:?}"
    );
    let bad = |(verdict, _): &&(Verdict, _)| matches!(verdict, Verdict::Fail | Verdict::Error);
    assert_eq!(ends.verdicts.values().filter(bad).count(), 0, "{ends:?}");
    assert_eq!(ends.verdicts.len(), items.len());
}

#[test]
fn what_fails_in_a_used_qemu_is_run_again_in_a_new_one() {
    // All of these have guests of their own.
    let items = plans("accept/slot");
    assert!(items.len() > 2);
    let host = Costly::new(SimHost::in_memory(), Mood::RefusesUsedQemus);
    let design = Design::named("headtail").unwrap();
    let ends = run(&items, &host, design, true);
    assert_eq!(ends.shared, 0);
    // The first has a new QEMU anyway.
    assert_eq!(ends.failed_shared.len(), items.len() - 1, "{ends:?}");
    let passed = |(verdict, _): &(Verdict, _)| *verdict == Verdict::Pass;
    assert!(ends.verdicts.values().all(passed), "{ends:?}");
    assert_eq!(host.boots.load(Ordering::Relaxed), 2 * items.len() - 1);

    let host = Costly::new(SimHost::in_memory(), Mood::RefusesUsedQemus);
    let ends = run(&items, &host, design, false);
    assert!(ends.failed_shared.is_empty(), "{ends:?}");
    assert_eq!(host.boots.load(Ordering::Relaxed), items.len());
}

#[test]
fn a_guest_that_leaves_something_behind_makes_all_its_plans_suspects() {
    let items = plans("punch");
    let host = Costly::new(SimHost::in_memory(), Mood::LeavesATrace);
    let design = Design::named("headtail").unwrap();
    let ends = run(&items, &host, design, true);
    let boots = host.boots.load(Ordering::Relaxed);
    let ran = ends
        .verdicts
        .values()
        .filter(|(verdict, _)| *verdict != Verdict::Skip)
        .count();
    // Every plan once alone, beside the guests they shared in vain.
    assert!(boots > ran, "{boots} boots, {ran} plans");
    assert!(
        ends.verdicts
            .values()
            .all(|(verdict, _)| *verdict != Verdict::Fail),
        "{ends:?}"
    );
    assert_eq!(ends.verdicts.len(), items.len());
}
