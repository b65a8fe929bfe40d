//! Data for the pictures of a run: state of memory around every step, and locations of events.
//!
//! [`super::Report`] holds text and numbers; this holds addresses. Both are made from the journal.

use std::collections::BTreeMap;
use std::path::Path;

use tdxlab_journal::journal::{Event, JournalError};
use tdxlab_journal::reader::JournalReader;
use tdxlab_journal::verdict::Finding;
use tdxlab_journal::{ContentSpan, FindingKind, Sample, SplitEvent, Verdict, Witness};
use tdxlab_plan::{Action, Expectation, MemoryMap, Op, Plan, op_words};
use tdxlab_protocol::addr::{Gpa, GpaRange};

/// The pictures of a run, by the place of the scenario in it.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    albums: BTreeMap<usize, Album>,
}

/// The pictures of one scenario.
#[derive(Clone, Debug)]
pub struct Album {
    /// Test memory.
    pub memory: GpaRange,
    /// How memory must look before the first step.
    pub start: MemoryMap,
    /// One for each step that was begun.
    pub frames: Vec<StepPicture>,
}

/// Picture of one step.
#[derive(Clone, Debug)]
pub struct StepPicture {
    /// Its number, from 1.
    pub number: u32,
    /// Whether several operations ran side by side.
    pub races: bool,
    /// Where each operation worked.
    pub marks: Vec<Mark>,
    /// The prediction.
    pub expected: Expectation,
    /// Leaves that were seen to split, each once; `None` if unknown.
    pub did_split: Option<Vec<Gpa>>,
    /// How memory must look afterwards; `None` where the step was not judged.
    pub after: Option<MemoryMap>,
    /// Content of memory that was read.
    pub content: Vec<ContentSpan>,
    /// Ranges where witnesses other than split events and content contradict the prediction.
    pub wrong: Vec<Difference>,
    /// Witnesses that contradict the step, but name no place.
    pub unplaced: Vec<Witness>,
    /// Whether the step failed or could not be judged. From there on memory is only predicted.
    pub bad: bool,
    /// Kernel messages during the step.
    pub kernel_log: Vec<String>,
}

/// A range where a witness contradicts the prediction.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The range.
    pub range: GpaRange,
    /// The witness.
    pub witness: Witness,
    /// Predicted value.
    pub expected: String,
    /// Value found.
    pub found: String,
}

/// Range of one operation.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Name of the operation in scenarios.
    pub name: &'static str,
    /// The range.
    pub range: GpaRange,
    /// Duration in microseconds; `None` if it did not return.
    pub micros: Option<u64>,
}

impl Pictures {
    /// Reads a journal.
    pub fn from_journal(path: &Path) -> Result<Pictures, JournalError> {
        let mut recording = JournalReader::open(path)?;
        let mut pictures = Pictures::default();
        let mut plans = BTreeMap::new();
        while let Some(line) = recording.next_line()? {
            pictures.take(line.event, &mut plans);
        }
        Ok(pictures)
    }

    /// The pictures of the scenario at this place of the run; `None` where it was not begun.
    pub fn of(&self, scenario: usize) -> Option<&Album> {
        self.albums.get(&scenario)
    }

    fn take(&mut self, event: Event, plans: &mut BTreeMap<usize, Plan>) {
        match event {
            Event::PlanStarted { plan, body, .. } => {
                let album = Album {
                    memory: body.guest.memory,
                    start: MemoryMap::default(),
                    frames: Vec::new(),
                };
                self.albums.insert(plan.0 as usize, album);
                plans.insert(plan.0 as usize, body);
            }
            Event::Controlled { plan, map, .. } => {
                if let Some(album) = self.albums.get_mut(&(plan.0 as usize)) {
                    album.start = map;
                }
            }
            Event::StepStarted {
                plan,
                step,
                expected,
            } => {
                let index = plan.0 as usize;
                let (Some(album), Some(plan)) = (self.albums.get_mut(&index), plans.get(&index))
                else {
                    return;
                };
                if let (Some(step), Some(number)) =
                    (plan.steps.get(step as usize), step.checked_add(1))
                {
                    album
                        .frames
                        .push(StepPicture::begun(number, &step.action, expected));
                }
            }
            Event::StepObserved {
                plan,
                step,
                observed,
                sample,
                ..
            } => {
                if let Some(frame) = self.frame(plan.0, step) {
                    let micros = observed.iter().flatten().map(|one| one.micros);
                    for (mark, micros) in frame.marks.iter_mut().zip(micros) {
                        mark.micros = Some(micros);
                    }
                    frame.sampled(sample);
                }
            }
            Event::StepJudged {
                plan,
                step,
                judgement,
                map,
            } => {
                if let Some(frame) = self.frame(plan.0, step) {
                    frame.after = Some(map);
                    frame.content = judgement.content;
                    frame.bad = judgement.verdict != Verdict::Pass;
                    for finding in judgement.findings {
                        frame.contradicted(finding);
                    }
                }
            }
            Event::PlanEnded { plan, .. } => {
                plans.remove(&(plan.0 as usize));
            }
            Event::RunStarted(_)
            | Event::PlanSkipped { .. }
            | Event::Booted { .. }
            | Event::LinuxStarted { .. }
            | Event::LinuxStep { .. }
            | Event::Ended { .. }
            | Event::FailedShared { .. }
            | Event::Confirmed { .. }
            | Event::RunEnded { .. } => {}
        }
    }

    fn frame(&mut self, plan: u32, step: u32) -> Option<&mut StepPicture> {
        let number = step.checked_add(1)?;
        self.albums
            .get_mut(&(plan as usize))?
            .frames
            .iter_mut()
            .rev()
            .find(|frame| frame.number == number)
    }
}

impl StepPicture {
    fn begun(number: u32, action: &Action, expected: Expectation) -> StepPicture {
        StepPicture {
            number,
            races: matches!(action, Action::Parallel(_)),
            marks: action.ops().map(mark).collect(),
            expected,
            did_split: None,
            after: None,
            content: Vec::new(),
            wrong: Vec::new(),
            unplaced: Vec::new(),
            // Until a verdict says otherwise.
            bad: true,
            kernel_log: Vec::new(),
        }
    }

    fn contradicted(&mut self, finding: Finding) {
        match finding.at {
            _ if finding.kind == FindingKind::Impossible => {}
            Some(_) if matches!(finding.witness, Witness::Splits | Witness::Content) => {}
            Some(range) => self.wrong.push(Difference {
                range,
                witness: finding.witness,
                expected: finding.expected,
                found: finding.found,
            }),
            None if self.unplaced.contains(&finding.witness) => {}
            None => self.unplaced.push(finding.witness),
        }
    }

    fn sampled(&mut self, sample: Sample) {
        self.did_split = sample.splits.value().map(|events| leaves(events));
        if let Some(lines) = sample.kernel_log.left() {
            self.kernel_log.clone_from(lines);
        }
    }
}

/// The leaves of split events that succeeded.
fn leaves(events: &[SplitEvent]) -> Vec<Gpa> {
    let mut leaves: Vec<Gpa> = events
        .iter()
        .filter(|event| event.errno == 0)
        .map(|event| event.gpa)
        .collect();
    leaves.sort();
    leaves.dedup();
    leaves
}

fn mark(op: &Op) -> Mark {
    Mark {
        name: op_words::name(op),
        range: op.range().unwrap_or_default(),
        micros: None,
    }
}
