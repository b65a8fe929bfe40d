//! Boots a Linux guest for a plan, runs its steps, writes journal and evidence.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tdxlab_journal::boot::BootAccount;
use tdxlab_journal::folder::{RunFolder, write_whole};
use tdxlab_journal::journal::{Event, Journal, JournalError, PlanId};
use tdxlab_journal::verdict::{Verdict, Witness};
use tdxlab_kernel::meminfo;
use tdxlab_linux::disk::Disk;
use tdxlab_linux::image::ReportDriver;
use tdxlab_linux::machine::{AgentLine, Start, Td};
use tdxlab_linux::quotes::{Policy, QuoteService};
use tdxlab_linux::{Board, LinuxError, LinuxGuest, LinuxImage, Machine};
use tdxlab_plan::linux::{AgentBy, LinuxOp, LinuxPlan, Pages, Quotes};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Accelerator, Cpu, Installed};
use tdxlab_run::{Outcome, Progress, micros, skip, with_help};

use crate::attest;
use crate::baseline::{self, Baseline};
use crate::boot;
use crate::court::Court;
use crate::ending;
use crate::file::{self, File};
use crate::images::{Images, asks_for_reports, has};
use crate::judge::{SAME_IOMEM, judge};
use crate::laws;
use crate::ledger::Ledger;
use crate::model::{Expected, Model};
use crate::observe::{Observer, Seen};
use crate::own_disk;
use crate::plug;
use crate::quote_buffer;
use crate::unaccepted::Unaccepted;

/// A plan and its origin.
#[derive(Clone, Debug)]
pub struct LinuxCase {
    /// The plan.
    pub plan: LinuxPlan,
    /// Its scenario file.
    pub scenario: PathBuf,
}

/// Where Linux guests run.
#[derive(Clone, Debug)]
pub struct Place {
    /// QEMU.
    pub qemu: Installed,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// The board of plain guests.
    pub board: Board,
    /// Makes every guest a TD.
    pub td: Option<Td>,
    /// Firmware for the boot loader of a disk, in a plain guest.
    pub firmware: Option<PathBuf>,
    /// Disk for plans with qemu-ga that name none.
    pub disk: Option<PathBuf>,
}

/// Runs plans for Linux guests.
pub struct LinuxRunner<'a> {
    /// Machine and accelerator.
    pub place: Place,
    /// The images of the guests.
    pub images: Images,
    /// Where everything is written down.
    pub journal: &'a Journal,
    /// The run folder.
    pub folder: &'a RunFolder,
    /// Ends the run.
    pub interrupt: &'static Interrupt,
    /// Longest a guest may give no sign of life.
    pub patience: Duration,
    /// Keep the evidence of plans that passed, too.
    pub keep: bool,
    /// An earlier run of the same kernel and firmware, to judge boots by.
    pub baseline: Option<&'a Baseline>,
    /// Receives progress.
    pub watcher: &'a dyn Progress,
}

/// What is known of a guest when its plan is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GuestState {
    /// It has answered to the last.
    Answers,
    /// A step found that it does not.
    Silent,
    /// Its QEMU has ended, and what it left was judged with the step that ended it.
    Gone,
}

/// A plan under way.
struct Course {
    worker: usize,
    verdict: Verdict,
    reason: Option<String>,
    /// Folder of its evidence.
    folder: PathBuf,
}

impl LinuxRunner<'_> {
    /// Runs a plan, or skips it if a need is not met. Any failure is an outcome; an error means
    /// that it could not be recorded.
    ///
    /// # Errors
    ///
    /// The journal cannot be written.
    pub(crate) fn execute(
        &self,
        worker: usize,
        id: PlanId,
        case: &LinuxCase,
    ) -> Result<Outcome, JournalError> {
        let started = Instant::now();
        let plan = &case.plan;
        let image = match self.image_for(case) {
            Ok(image) => image,
            Err(need) => {
                return skip(self.journal, id, &plan.about, need, started.elapsed());
            }
        };
        self.watcher
            .plan_started(worker, &plan.name, plan.steps.len());
        self.journal.write(&Event::LinuxStarted {
            plan: id,
            scenario: Some(case.scenario.clone()),
            body: plan.clone(),
        })?;
        let mut course = Course {
            worker,
            verdict: Verdict::Pass,
            reason: None,
            folder: RunFolder::of_plan(id, &plan.name),
        };
        let evidence = self.folder.path().join(&course.folder);
        // An earlier runner that was killed may have left this folder.
        let _ = fs::remove_dir_all(&evidence);
        self.run(id, case, &image, &mut course)?;
        let outcome = Outcome {
            verdict: course.verdict,
            reason: course.reason,
            took: started.elapsed(),
            interrupted: self.interrupt.is_raised() && course.verdict == Verdict::Error,
            fault_reached: None,
        };
        // Without an end in the journal it is run again by `--resume`.
        if outcome.interrupted {
            let _ = fs::remove_dir_all(&evidence);
            return Ok(outcome);
        }
        self.journal.write(&Event::PlanEnded {
            plan: id,
            verdict: outcome.verdict,
            reason: outcome.reason.clone(),
            micros: micros(outcome.took),
            evidence: evidence.is_dir().then_some(course.folder),
            fault_reached: None,
        })?;
        Ok(outcome)
    }

    /// The image for a plan; or the need that is not met.
    fn image_for(&self, case: &LinuxCase) -> Result<LinuxImage, String> {
        let plan = &case.plan;
        let td = self.place.td.is_some();
        match plan.td {
            Some(true) if !td => return Err("needs a TD; these guests are plain".to_owned()),
            Some(false) if td => return Err("needs a plain guest; these are TDs".to_owned()),
            _ => {}
        }
        if td {
            fits(memory_of(plan) >> 20, meminfo::available())?;
        }
        let image = self
            .images
            .of(case, td, self.place.disk.as_deref())
            .map_err(|error| format!("needs an image of a Linux guest: {}", with_help(&error)))?;
        if let Some(why) = image
            .no_kexec
            .as_ref()
            .filter(|_| has(plan, |op| *op == LinuxOp::Kexec))
        {
            return Err(format!("needs kexec: {why}"));
        }
        if let Some(why) = image.no_plug.as_ref().filter(|_| plan.plugged() > 0) {
            return Err(format!("needs virtio-mem: {why}"));
        }
        if asks_for_reports(plan) && image.reports == ReportDriver::Absent {
            let lacks = format!("{} has no tdx_guest (CONFIG_TDX_GUEST_DRIVER)", image.name);
            return Err(format!("needs TDREPORTs: {lacks}"));
        }
        let kernel_pages = has(plan, |op| {
            matches!(op, LinuxOp::Convert { .. })
                || matches!(
                    op,
                    LinuxOp::Fill {
                        pages: Pages::Kernel,
                        ..
                    }
                )
        });
        if let Some(why) = image.no_convert.as_ref().filter(|_| kernel_pages) {
            return Err(format!("needs pages of the kernel: {why}"));
        }
        Ok(image)
    }

    fn machine(
        &self,
        case: &LinuxCase,
        image: &LinuxImage,
        quotes: Option<String>,
    ) -> Result<Machine, LinuxError> {
        let plan = &case.plan;
        let (disk, loader) = own_disk::of(plan, &case.scenario, self.place.disk.as_deref());
        let kvm = self.place.accelerator == Accelerator::Kvm;
        let serial = image.line == AgentLine::Serial;
        let pluggable = plan.plugged() >> 20;
        let disk = disk.as_deref().map(Disk::open).transpose()?;
        let td = self.place.td.is_some();
        let board = match td || serial || loader || pluggable > 0 {
            true => Board::Q35,
            false => self.place.board,
        };
        let start = match loader {
            true => Start::Disk {
                firmware: own_disk::firmware(disk.as_ref(), td, self.place.firmware.as_deref())?,
            },
            false => image.start(),
        };
        Ok(Machine {
            accelerator: self.place.accelerator,
            cpu: if kvm { Cpu::Host } else { Cpu::Max },
            board,
            td: self.place.td.clone().map(|td| Td { quotes, ..td }),
            vcpus: plan.guest.vcpus,
            mebibytes: plan.guest.mebibytes,
            pluggable,
            disk,
            qemu_ga: plan.guest.agent == AgentBy::QemuGa,
            append: plan.guest.append.clone(),
            line: image.line,
            ..Machine::small(&self.place.qemu, start)
        })
    }

    fn run(
        &self,
        id: PlanId,
        case: &LinuxCase,
        image: &LinuxImage,
        course: &mut Course,
    ) -> Result<(), JournalError> {
        let plan = &case.plan;
        let quotes = match plan.guest.quotes {
            Quotes::None => None,
            Quotes::Lab => Some(QuoteService::start(Policy::Answer)),
            Quotes::Refused => Some(QuoteService::start(Policy::Refuse)),
        };
        let quotes = match quotes.transpose() {
            Ok(quotes) => quotes,
            Err(error) => {
                course.stop(format!("making a quote generation service: {error}"));
                return Ok(());
            }
        };
        let name = quotes.as_ref().map(|service| service.name().to_owned());
        let machine = match self.machine(case, image, name) {
            Ok(machine) => machine,
            Err(error) => {
                course.stop(with_help(&error));
                return Ok(());
            }
        };
        let started = own_disk::started_by(&machine);
        let kvm = self.place.accelerator == Accelerator::Kvm;
        let td = self.place.td.is_some();
        // Before QEMU: firmware splits leaves, too.
        let mut ledger = Ledger::open(kvm, td, image.reports);
        let guest = LinuxGuest::start(machine, &image.name, self.interrupt, self.patience);
        let mut observer = match guest {
            Ok(guest) => Observer::new(guest, quotes),
            Err(error) => {
                course.stop(with_help(&error));
                return Ok(());
            }
        };
        let mut model = Model::new(plan, td);
        let mut unaccepted = Unaccepted::default();
        let mut state = GuestState::Answers;
        for (number, step) in plan.steps.iter().enumerate() {
            self.watcher.step_started(course.worker, number);
            let expected = match model.step(&step.op) {
                Ok(expected) => expected,
                Err(why) => {
                    course.stop(format!("step {}: {why}", number + 1));
                    break;
                }
            };
            let prediction =
                ledger.predict(&step.op, &|buffer, pages| observer.places(buffer, pages));
            unaccepted.step(&step.op);
            let began = Instant::now();
            let seen = match observer.perform(&step.op) {
                Ok(seen) => seen,
                Err(error) => {
                    state = GuestState::Silent;
                    let reason = format!("step {}: {}", number + 1, with_help(&error));
                    let mut court = Court::default();
                    let complaints = ledger.complaints();
                    if complaints.is_some_and(|found| laws::judge_stop(&mut court, &found)) {
                        course.reason = Some(reason);
                        let took = began.elapsed();
                        self.conclude((id, number), course, court, expected.text(), took, None)?;
                    } else {
                        course.stop(reason);
                    }
                    break;
                }
            };
            let took = began.elapsed();
            if step.op == LinuxOp::Boot {
                self.journal.write(&Event::Booted {
                    plan: id,
                    micros: micros(took),
                    shared: None,
                    guests_before: 0,
                })?;
            }
            let owner = |gpa| observer.owner(gpa);
            let mut boot = None;
            let mut court = Court::default();
            judge(&mut court, &expected, &seen, &owner);
            if let Some(by) = started.as_ref().filter(|_| step.op == LinuxOp::Boot) {
                court.show(by.clone());
            }
            if let (LinuxOp::ReadFile(wanted), Seen::File(File::Bytes(bytes, _))) =
                (&step.op, &seen)
            {
                let folder = self.folder.path().join(&course.folder);
                court.show(file::keep(&folder, number, &wanted.path, bytes));
            }
            let mut lines = expected.text();
            if step.op == LinuxOp::Boot && plan.guest.agent == AgentBy::QemuGa {
                lines.push(SAME_IOMEM.to_owned());
            }
            if let (LinuxOp::Plug { ends: true, .. }, Seen::Plugged(plugged)) = (&step.op, &seen) {
                plug::judge_end(&mut court, plugged, || {
                    state = GuestState::Gone;
                    ledger.end()
                });
            } else if step.op == LinuxOp::PowerOff {
                state = GuestState::Gone;
                if let Some((left, complaints)) = ledger.end() {
                    laws::judge_end(&mut court, &left, &complaints);
                    lines.push(laws::END.to_owned());
                }
            } else {
                let sample = ledger.sample(observer.guest());
                let (before, after) = match &sample {
                    Some((before, after)) => (before.as_ref(), Some(after)),
                    None => (None, None),
                };
                if let Seen::Guest(account) = &seen {
                    boot = boot::account(account, before, after).map(Box::new);
                    laws::ram(&mut court, account, after);
                    lines.extend(unaccepted.look(&mut court, &step.op, account, after));
                }
                if let Some(boot) = &boot {
                    match self.baseline {
                        Some(baseline) => baseline.judge(&mut court, &plan.guest, &step.op, boot),
                        None => baseline::none(&mut court),
                    }
                }
                for line in boot.iter().flat_map(|boot| boot::lines(boot)) {
                    court.show(line);
                }
                if let Some(after) = after.filter(|_| td) {
                    laws::judge(&mut court, &prediction, before, after, memory_of(plan));
                    lines.extend(prediction.text());
                }
                if let (Expected::Attested(wanted), LinuxOp::Quote { .. }) = (&expected, &step.op) {
                    let at = ledger.quote_buffer();
                    let header = at.and_then(|at| quote_buffer::read(observer.guest(), at));
                    attest::judge_buffer(&mut court, wanted, header);
                }
            }
            let verdict = self.conclude((id, number), course, court, lines, took, boot)?;
            if verdict == Verdict::Error {
                course.stop(format!("step {} could not be judged", number + 1));
                break;
            }
        }
        self.finish(id, course, &mut observer, &mut ledger, state)
    }

    /// Ends the guest, if no step has, and judges the end of the plan, whichever step was its last: what the
    /// guest's kernel has said since it was last listened to, what QEMU leaves, and what the host's kernel
    /// says of the teardown.
    fn finish(
        &self,
        id: PlanId,
        course: &mut Course,
        observer: &mut Observer,
        ledger: &mut Ledger,
        state: GuestState,
    ) -> Result<(), JournalError> {
        let mut court = Court::default();
        if state == GuestState::Answers
            && let Err(error) = observer.listen()
        {
            course.stop(format!("end of the guest: {}", with_help(&error)));
        }
        if let Some(said) = observer.unjudged() {
            court.log(Witness::GuestLog, &said);
        }
        // While there is somebody to ask for it.
        let wanted = self.keep || course.verdict != Verdict::Pass || court.has_found();
        if wanted {
            self.leave_evidence(observer, &course.folder);
        }
        if let Err(error) = observer.guest().end() {
            course.stop(format!("end of the guest: {}", with_help(&error)));
        }
        let left = match state {
            GuestState::Answers | GuestState::Silent => ledger.end(),
            GuestState::Gone => None,
        };
        let Some((ending, judgement)) = ending::judge(court, left) else {
            return Ok(());
        };
        if judgement.verdict == Verdict::Error {
            course.stop("the end of the guest could not be judged".to_owned());
        }
        course.verdict = course.verdict.and(judgement.verdict);
        if !wanted && course.verdict != Verdict::Pass {
            self.leave_evidence(observer, &course.folder);
        }
        self.journal.write(&Event::Ended {
            plan: id,
            ending,
            judgement,
        })
    }

    /// Ends the judgement of a step, and writes it down.
    fn conclude(
        &self,
        (plan, step): (PlanId, usize),
        course: &mut Course,
        court: Court,
        expected: Vec<String>,
        took: Duration,
        boot: Option<Box<BootAccount>>,
    ) -> Result<Verdict, JournalError> {
        let (judgement, seen) = court.finish();
        let verdict = judgement.verdict;
        course.verdict = course.verdict.and(verdict);
        self.journal.write(&Event::LinuxStep {
            plan,
            step: u32::try_from(step).unwrap_or(u32::MAX),
            expected,
            seen,
            judgement,
            micros: micros(took),
            boot,
        })?;
        Ok(verdict)
    }

    /// Writes the evidence. A failure to write does not change the verdict.
    fn leave_evidence(&self, observer: &mut Observer, folder: &Path) {
        let folder = self.folder.path().join(folder);
        if fs::create_dir_all(&folder).is_err() {
            return;
        }
        for (name, content) in observer.guest().evidence() {
            let _ = write_whole(&folder.join(name), &content);
        }
    }
}

impl Course {
    /// The first reason is what the others follow from.
    fn stop(&mut self, reason: String) {
        self.verdict = self.verdict.and(Verdict::Error);
        self.reason.get_or_insert(reason);
    }
}

/// All memory that a guest can have: what it starts with, and what is plugged into it.
fn memory_of(plan: &LinuxPlan) -> u64 {
    (plan.guest.mebibytes << 20).saturating_add(plan.plugged())
}

/// Whether a TD's memory is to be had. Firmware and Linux accept it, so that all of it is populated in
/// the end; a host without it kills QEMU, or stands still.
fn fits(mebibytes: u64, available: Option<u64>) -> Result<(), String> {
    match available.map(|bytes| bytes >> 20) {
        Some(available) if available < mebibytes => Err(format!(
            "needs {mebibytes} MiB for its TD, and this machine has {available} MiB available (a \
             rehearsal's has what `--memory` says)"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_plan::linux::{LinuxGuest, LinuxStep};

    use super::*;

    fn plan() -> LinuxPlan {
        LinuxPlan {
            version: tdxlab_plan::VERSION,
            name: "linux/x".to_owned(),
            about: String::new(),
            seed: 0,
            td: None,
            guest: LinuxGuest {
                mebibytes: 512,
                vcpus: 1,
                append: String::new(),
                agent: AgentBy::Init,
                disk: None,
                quotes: Quotes::None,
            },
            steps: Vec::new(),
        }
    }

    #[test]
    fn what_is_plugged_counts_as_memory() {
        let op = LinuxOp::Plug {
            bytes: 256 << 20,
            ends: false,
        };
        let mut plan = plan();
        assert_eq!(memory_of(&plan), 512 << 20);
        plan.steps.push(LinuxStep { line: 1, op });
        assert_eq!(memory_of(&plan), 768 << 20);
    }

    #[test]
    fn a_td_too_large_for_its_host_is_a_need() {
        let gib = |number: u64| Some(number << 30);
        assert_eq!(fits(4096, gib(4)), Ok(()));
        assert_eq!(fits(4096, None), Ok(()), "nobody can say");
        let why = fits(16 << 10, gib(6)).unwrap_err();
        assert!(
            why.contains("needs 16384 MiB") && why.contains("6144 MiB available"),
            "{why}"
        );
    }
}
