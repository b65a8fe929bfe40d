//! End to end on a real guest, plain under TCG: every scenario of the set passes, and memory
//! corrupted by the host is found, with the page and the owner of its data.
//!
//! Needs QEMU and a packaged kernel, which the first run fetches. If one is missing the tests say
//! so and are skipped.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tdxlab_journal::folder::RunFolder;
use tdxlab_journal::journal::PlanId;
use tdxlab_journal::verdict::{Judgement, Verdict};
use tdxlab_linux::{Board, ImageOptions, LinuxGuest, LinuxImage, Machine};
use tdxlab_plan::linux::{BufferId, LinuxOp, Pages};
use tdxlab_plan::{Generation, addr::GpaRange};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Accelerator, Installed, Version};
use tdxlab_run::{Outcome, Progress};
use tdxlab_scenario as scenario;

use crate::court::Court;
use crate::images::Images;
use crate::judge::judge;
use crate::model::Model;
use crate::observe::Observer;
use crate::runner::{LinuxCase, LinuxRunner, Place};

const PATIENCE: Duration = Duration::from_secs(240);

/// QEMU and an image; `None`, with a message, if one is missing.
fn here() -> Option<(Installed, LinuxImage)> {
    let qemu = Installed::find(Version::new(7, 2)).map_err(|error| error.to_string());
    let image = LinuxImage::prepare(&ImageOptions::default()).map_err(|error| error.to_string());
    match (qemu, image) {
        (Ok(qemu), Ok(image)) => Some((qemu, image)),
        (Err(what), _) | (_, Err(what)) => {
            eprintln!("NOT TESTED: {what}");
            assert!(
                std::env::var_os("TDXLAB_REQUIRE_L1").is_none(),
                "TDXLAB_REQUIRE_L1 is set"
            );
            None
        }
    }
}

fn set() -> Vec<LinuxCase> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/linux");
    let files = scenario::find_linux(&[folder]).unwrap();
    let cases = |path: PathBuf| {
        let plans = scenario::load_linux(&path, None).unwrap();
        plans.into_iter().map(move |plan| LinuxCase {
            plan,
            scenario: path.clone(),
        })
    };
    files.into_iter().flat_map(cases).collect()
}

/// Plans that neither passed nor were skipped for a need.
#[derive(Default)]
struct Wrong(Mutex<Vec<(String, Outcome)>>);

impl Progress for Wrong {
    fn plan_started(&self, _: usize, _: &str, _: usize) {}
    fn step_started(&self, _: usize, _: usize) {}
    fn plan_ended(&self, _: usize, name: &str, outcome: &Outcome) {
        println!("{name}: {} in {:?}", outcome.verdict, outcome.took);
        let needs = outcome.reason.as_deref().unwrap_or_default();
        let skipped = outcome.verdict == Verdict::Skip && needs.starts_with("needs ");
        if outcome.verdict != Verdict::Pass && !skipped {
            let wrong = (name.to_owned(), outcome.clone());
            self.0.lock().unwrap().push(wrong);
        }
    }
}

#[test]
fn every_scenario_passes_on_a_plain_guest_or_is_skipped_for_what_it_needs() {
    let Some((qemu, _)) = here() else { return };
    let room = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(room.path()).unwrap();
    let journal = folder.journal().unwrap();
    let place = Place {
        qemu,
        accelerator: Accelerator::Tcg,
        board: Board::Microvm,
        td: None,
        firmware: None,
        disk: None,
    };
    let wrong = Wrong::default();
    let runner = LinuxRunner {
        place,
        images: Images::new(ImageOptions::default()),
        journal: &journal,
        folder: &folder,
        interrupt: Interrupt::of_process(),
        patience: PATIENCE,
        keep: false,
        baseline: None,
        watcher: &wrong,
    };
    let cases: Vec<_> = (0..).map(PlanId).zip(set()).collect();
    // Two at a time: a guest waits for little but its own CPU.
    runner.run_all(2, &cases).unwrap();
    assert_eq!(wrong.0.into_inner().unwrap(), []);
    // A passing run leaves the journal, and what was read out of the guests.
    let left = std::fs::read_dir(folder.path().join("scenarios")).into_iter();
    let folders = left.flatten().map(|entry| entry.unwrap().path());
    for file in folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let file = file.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let says = match file.file_name().and_then(|name| name.to_str()) {
            Some("step-3-iomem") => "System RAM",
            Some(name) if name.starts_with("step-") => "Linux version",
            name => panic!("{name:?}"),
        };
        assert!(text.contains(says), "{}: {text}", file.display());
    }
}

/// A guest with two filled buffers, and a way to do steps on it.
struct Spoilt {
    observer: Observer,
    model: Model,
}

impl Spoilt {
    fn step(&mut self, op: &LinuxOp) -> Judgement {
        let expected = self.model.step(op).unwrap();
        let seen = self.observer.perform(op).unwrap();
        let mut court = Court::default();
        judge(&mut court, &expected, &seen, &|gpa| {
            self.observer.owner(gpa)
        });
        court.finish().0
    }

    fn fill(&mut self, number: u8) -> LinuxOp {
        let op = LinuxOp::Fill {
            buffer: BufferId::new(number).unwrap(),
            bytes: 2 << 20,
            pages: Pages::Small,
            generation: Generation::new(u16::from(number) + 1).unwrap(),
        };
        assert_eq!(self.step(&op).verdict, Verdict::Pass);
        op
    }

    /// GPA range of a page of a buffer.
    fn place(&self, number: u8, page: u32) -> GpaRange {
        let places = self
            .observer
            .places(BufferId::new(number).unwrap(), Some((page, 1)));
        places[0]
    }
}

#[test]
fn memory_that_the_host_has_spoilt_is_found_with_its_page_and_its_owner() {
    let Some((qemu, image)) = here() else { return };
    let machine = Machine {
        line: image.line,
        ..Machine::small(&qemu, image.start())
    };
    let guest = LinuxGuest::start(machine, &image.name, Interrupt::of_process(), PATIENCE).unwrap();
    let plan = set()
        .into_iter()
        .find(|case| case.plan.name == "linux/boot")
        .unwrap()
        .plan;
    let plan = tdxlab_plan::linux::LinuxPlan {
        guest: tdxlab_plan::linux::LinuxGuest {
            mebibytes: 512,
            ..plan.guest
        },
        ..plan
    };
    let mut spoilt = Spoilt {
        observer: Observer::new(guest, None),
        model: Model::new(&plan, false),
    };
    assert_eq!(spoilt.step(&LinuxOp::Boot).verdict, Verdict::Pass);
    spoilt.fill(0);
    let second = spoilt.fill(1);
    let verify = LinuxOp::Verify {
        buffer: BufferId::new(1).unwrap(),
    };
    assert_eq!(spoilt.step(&verify).verdict, Verdict::Pass);

    let memory = spoilt
        .observer
        .guest()
        .memory()
        .unwrap()
        .duplicate()
        .unwrap();
    let at = |range: GpaRange| range.start().as_u64();
    // A page of the first buffer shows up in the second: two GPAs over one page, or a stale one.
    let (from, to) = (spoilt.place(0, 7), spoilt.place(1, 9));
    let mut page = [0; 4096];
    memory.read_exact_at(&mut page, at(from)).unwrap();
    memory.write_all_at(&page, at(to)).unwrap();
    // A page is lost, and one word of another is wrong.
    let (lost, torn) = (spoilt.place(1, 11), spoilt.place(1, 13));
    memory.write_all_at(&[0; 4096], at(lost)).unwrap();
    memory.write_all_at(&[0x5a; 8], at(torn) + 80).unwrap();

    let judgement = spoilt.step(&verify);
    assert_eq!(judgement.verdict, Verdict::Fail);
    let said: Vec<_> = judgement.findings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:#?}");
    let expected = format!("data of {}: page 7 of buffer 0 (fill 1)", from.start());
    assert!(
        said[0].contains(&to.to_string()) && said[0].ends_with(&expected),
        "{said:#?}"
    );
    assert!(
        said[1].contains(&lost.to_string()) && said[1].ends_with("found zero"),
        "{said:#?}"
    );
    assert!(
        said[2].ends_with("torn: 511 of 512 words alike"),
        "{said:#?}"
    );

    // Filled again, all is well; a hole that is not in the plan is found, too.
    assert_eq!(spoilt.step(&second).verdict, Verdict::Pass);
    assert_eq!(spoilt.step(&verify).verdict, Verdict::Pass);
    let hole = spoilt.place(1, 200);
    spoilt
        .observer
        .guest()
        .memory()
        .unwrap()
        .punch(hole)
        .unwrap();
    assert_eq!(spoilt.step(&verify).verdict, Verdict::Fail);
    assert_eq!(spoilt.step(&LinuxOp::PowerOff).verdict, Verdict::Pass);
}
