//! Several plans in one guest, where booting one costs more than most plans.
//!
//! Each plan has a stretch of memory that was never touched. One that dies takes the guest with it; one
//! that does not pass does, too, and is run again in a guest of its own before that is believed. A plan is
//! over when its guest has gone in good order: what it leaves behind shows only then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tdxlab_host::{BootOptions, Session};
use tdxlab_journal::journal::{Event, JournalError, PlanId, SharedGuest};
use tdxlab_journal::verdict::Verdict;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{ExpectTd, Guest, LOW_BASE, Op, Plan, TdxModule, needs};

use super::attempt::{Attempt, attempt, conclude};
use super::context::{RunContext, TestCase};
use super::outcome::{Outcome, PANICKED};
use super::window::{Place, Windowed};

/// Most plans in one guest.
const MOST: usize = 64;

/// Most memory of a shared guest.
const AREA: u64 = 512 << 20;

const REGION: u64 = PageLevel::Size2M.bytes();

/// A plan with its place in the run.
pub(super) type Numbered<'a> = (PlanId, &'a TestCase);

/// What guests must have in common that several plans share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    vcpus: u16,
    sept_ve_disable: bool,
    module: Option<TdxModule>,
}

/// The plans, those together that share a guest, each batch in the order of the run. With `share` off,
/// and where a plan needs a guest of its own, a batch is one plan.
pub(super) fn batches<'a>(
    items: &[Numbered<'a>],
    lab: &RunContext<'_>,
    share: bool,
    jobs: usize,
) -> Vec<Vec<Numbered<'a>>> {
    let kind_of = |item: &TestCase| {
        let plan = &item.plan;
        let met = share
            && needs::unmet(plan, &lab.offer).is_none()
            && lab.host.unmet(&plan.guest).is_none();
        met.then(|| kind(plan)).flatten()
    };
    let shareable = items.iter().filter(|(_, item)| kind_of(item).is_some());
    // No worker is to wait for another that has all of the rest in one guest.
    let fair = match jobs {
        1 => MOST,
        jobs => shareable.count().div_ceil(4 * jobs).clamp(1, MOST),
    };
    let mut batches: Vec<(Option<Kind>, u64, Vec<Numbered<'a>>)> = Vec::new();
    for &(id, item) in items {
        let kind = kind_of(item);
        let bytes = stretch(&item.plan).unwrap_or(0);
        let open = batches.iter_mut().find(|(known, used, plans)| {
            kind.is_some() && *known == kind && plans.len() < fair && used + bytes <= AREA
        });
        match open {
            Some((_, used, plans)) => {
                *used += bytes;
                plans.push((id, item));
            }
            None => batches.push((kind, bytes, vec![(id, item)])),
        }
    }
    batches.into_iter().map(|(_, _, plans)| plans).collect()
}

/// What the guest of a plan must be like that others may share; `None` where it needs one of its own.
fn kind(plan: &Plan) -> Option<Kind> {
    let guest = &plan.guest;
    let usual = guest.slots == Guest::over(guest.memory).slots
        && guest.image.is_empty()
        && guest.backing.is_none()
        && guest.memory.is_aligned(PageLevel::Size2M);
    let dies = plan
        .steps
        .iter()
        .any(|step| step.expect.td == Some(ExpectTd::Killed));
    // The zero-step filter of the module would carry over to the next plan on the vCPU.
    (usual && !dies && !plan.has_same_rip() && !churns(plan) && stretch(plan).is_some()).then_some(
        Kind {
            vcpus: guest.vcpus,
            sept_ve_disable: guest.sept_ve_disable,
            module: plan.needs.module,
        },
    )
}

/// Whether a plan works on more memory than its guest has, all steps together. A software host gives a
/// guest just what it can need: in one of its own, memory that is never given back is missed.
fn churns(plan: &Plan) -> bool {
    let maps = |op: &&Op| {
        matches!(
            op,
            Op::Accept { .. }
                | Op::Touch { .. }
                | Op::Fill { .. }
                | Op::Allocate { .. }
                | Op::Prefault { .. }
        )
    };
    let ops = plan.steps.iter().flat_map(|step| step.action.ops());
    let bytes = ops
        .filter(maps)
        .filter_map(Op::range)
        .map(|range| range.bytes());
    bytes.fold(0, u64::saturating_add) > plan.guest.memory.bytes()
}

/// How much memory a plan takes in a shared guest, its control page with it; `None` where that is too
/// much, or where it reaches past its memory.
fn stretch(plan: &Plan) -> Option<u64> {
    let memory = plan.guest.memory;
    let mut end = memory.start();
    for range in plan.steps.iter().flat_map(|step| step.action.ops()) {
        let range = range.range()?;
        if !memory.contains_range(range) {
            return None;
        }
        end = end.max(range.end());
    }
    let own = end
        .align_up(PageLevel::Size2M)?
        .checked_sub(memory.start())?;
    own.checked_add(REGION).filter(|bytes| *bytes <= AREA)
}

/// Runs batches of plans.
pub(super) struct Sharing<'a> {
    pub(super) lab: &'a RunContext<'a>,
    pub(super) worker: usize,
    /// Guests that were shared so far in the run.
    pub(super) guests: &'a AtomicU32,
    /// Runs a plan in a guest of its own, and in a QEMU of its own if the second argument says so.
    pub(super) alone: &'a dyn Fn(Numbered<'_>, bool) -> Result<Outcome, JournalError>,
    /// Gets how each plan ended; whether to go on.
    pub(super) over: &'a dyn Fn(Numbered<'_>, &Outcome) -> bool,
}

/// A plan that waits for the end of its guest.
struct Held<'a> {
    item: Numbered<'a>,
    attempt: Attempt<'a>,
}

/// Results of the plans of one guest.
struct Shared<'a> {
    /// Passed so far.
    held: Vec<Held<'a>>,
    /// Did not pass, and why.
    suspect: Option<(Numbered<'a>, SharedGuest, Verdict, String)>,
    /// How many of the batch were done.
    done: usize,
}

impl<'a> Sharing<'a> {
    /// Runs a batch; whether to go on with others.
    pub(super) fn run(&self, batch: &[Numbered<'a>]) -> Result<bool, JournalError> {
        let mut rest = batch;
        while let [first, ..] = *rest {
            if self.lab.interrupt.is_raised() {
                return Ok(false);
            }
            if rest.len() == 1 {
                let outcome = (self.alone)(first, false)?;
                return Ok((self.over)(first, &outcome));
            }
            let Some((session, guest, booting)) = self.boot(rest) else {
                // In a guest of its own the plan says what is amiss.
                let outcome = (self.alone)(first, true)?;
                if !(self.over)(first, &outcome) {
                    return Ok(false);
                }
                rest = &rest[1..];
                continue;
            };
            let mut shared = self.share(session, guest, booting, rest)?;
            rest = &rest[shared.done..];
            if !self.settle(&mut shared)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Boots a guest for all of these. `None` where that is not possible.
    fn boot(&self, plans: &[Numbered<'a>]) -> Option<(Windowed, SharedGuest, Duration)> {
        let (_, first) = plans.first()?;
        let bytes = plans
            .iter()
            .filter_map(|(_, item)| stretch(&item.plan))
            .sum();
        let memory = GpaRange::with_len(LOW_BASE, bytes)?;
        let guest = Guest {
            vcpus: first.plan.guest.vcpus,
            sept_ve_disable: first.plan.guest.sept_ve_disable,
            ..Guest::over(memory)
        };
        let number = self.guests.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder(number);
        std::fs::create_dir_all(&folder).ok()?;
        let began = Instant::now();
        let options = BootOptions {
            design: self.lab.offer.design.name.to_owned(),
            module: first.plan.needs.module,
            seed: first.plan.seed,
            folder,
            patience: self.lab.patience,
            fresh: false,
        };
        let shared = SharedGuest {
            guest: number,
            before: 0,
            at: memory.start().as_u64(),
        };
        match self.lab.host.boot(&guest, &options) {
            Ok(session) => Some((Windowed::new(session), shared, began.elapsed())),
            Err(_) => {
                self.leave(number);
                None
            }
        }
    }

    fn folder(&self, guest: u32) -> std::path::PathBuf {
        self.lab.folder.path().join(format!("guests/{guest:04}"))
    }

    /// What did not pass is run again, and leaves its evidence then.
    fn leave(&self, guest: u32) {
        let _ = std::fs::remove_dir_all(self.folder(guest));
        let _ = std::fs::remove_dir(self.lab.folder.path().join("guests"));
    }

    /// Runs plans in a guest up to the first that does not pass or kills it, and ends the guest.
    fn share(
        &self,
        mut session: Windowed,
        mut guest: SharedGuest,
        booting: Duration,
        plans: &[Numbered<'a>],
    ) -> Result<Shared<'a>, JournalError> {
        let mut shared = Shared {
            held: Vec::new(),
            suspect: None,
            done: 0,
        };
        let mut booting = booting;
        for &(id, item) in plans {
            if self.lab.interrupt.is_raised() {
                break;
            }
            let control = Gpa::new(guest.at);
            guest.at += REGION;
            let place = Place {
                control,
                up: guest
                    .at
                    .saturating_sub(item.plan.guest.memory.start().as_u64()),
            };
            session.enter(place, item.plan.seed);
            shared.done += 1;
            let run = || {
                let took = std::mem::take(&mut booting);
                attempt(
                    self.lab,
                    self.worker,
                    (id, item),
                    &mut session,
                    (guest, took),
                )
            };
            let suspect = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(attempt) => {
                    let attempt = attempt?;
                    if attempt.verdict == Verdict::Pass {
                        let dead = attempt.dead;
                        let item = (id, item);
                        shared.held.push(Held { item, attempt });
                        if dead {
                            break;
                        }
                        None
                    } else {
                        Some((attempt.verdict, attempt.why()))
                    }
                }
                Err(_) => Some((Verdict::Error, PANICKED.to_owned())),
            };
            if let Some((verdict, why)) = suspect {
                shared.suspect = Some(((id, item), guest, verdict, why));
                break;
            }
            guest.before += 1;
            guest.at += stretch(&item.plan).unwrap_or(0).saturating_sub(REGION);
        }
        let ending = Box::new(session).end();
        self.leave(guest.guest);
        // Where the guest did not end, or did so with words, each of its plans is a suspect.
        let Ok(ending) = ending else {
            return Ok(shared);
        };
        for held in &mut shared.held {
            held.attempt.ending = Some(ending.clone());
        }
        Ok(shared)
    }

    /// Says how plans of a guest ended that has gone; whether to go on.
    fn settle(&self, shared: &mut Shared<'a>) -> Result<bool, JournalError> {
        let mut go_on = true;
        for Held { item, attempt } in shared.held.drain(..) {
            let outcome = match conclude(self.lab, item.0, attempt)? {
                Some(outcome) => outcome,
                None => (self.alone)(item, true)?,
            };
            go_on &= (self.over)(item, &outcome);
        }
        let Some((item, guest, verdict, why)) = shared.suspect.take() else {
            return Ok(go_on);
        };
        if self.lab.interrupt.is_raised() {
            return Ok(false);
        }
        let outcome = (self.alone)(item, true)?;
        self.lab.journal.write(&Event::FailedShared {
            plan: item.0,
            guest: Some(guest),
            verdict,
            why,
        })?;
        Ok((self.over)(item, &outcome) && go_on)
    }
}
