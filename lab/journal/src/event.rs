//! The events of a run.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdxlab_plan::linux::LinuxPlan;
use tdxlab_plan::{Expectation, HostKind, HostProfile, MemoryMap, Plan, Repeat};

use crate::as_text;
use crate::boot::BootAccount;
use crate::interleaving::Interleaving;
use crate::shard::Shard;
use crate::verdict::{Judgement, MissingWitness, Verdict};
use crate::{Ending, Observed, REJUDGED_FACT, Sample, inside, is_zero};

/// Version of the journal format.
pub const VERSION: u32 = 1;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Microseconds since the run started.
    pub at: u64,
    /// The event.
    pub event: Event,
}

/// A plan of a run, by its place in [`RunStarted::plans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanId(pub u32);

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    clippy::large_enum_variant,
    reason = "events are written and read one at a time"
)]
pub enum Event {
    /// First line of every journal.
    RunStarted(RunStarted),
    /// A plan will not run because a need is not met.
    PlanSkipped {
        /// The plan.
        plan: PlanId,
        /// Description of the scenario.
        about: String,
        /// The need, and what is offered instead.
        need: String,
    },
    /// A plan starts.
    PlanStarted {
        /// The plan.
        plan: PlanId,
        /// The file it came from.
        #[serde(serialize_with = "as_text::path")]
        scenario: Option<PathBuf>,
        /// Content of the plan.
        body: Plan,
    },
    /// A plan for a Linux guest starts.
    LinuxStarted {
        /// The plan.
        plan: PlanId,
        /// The file it came from.
        #[serde(serialize_with = "as_text::path")]
        scenario: Option<PathBuf>,
        /// Content of the plan.
        body: LinuxPlan,
    },
    /// A step of a plan for a Linux guest was done and judged.
    LinuxStep {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// Expectation, in words.
        expected: Vec<String>,
        /// Observation, in words.
        seen: Vec<String>,
        /// The judgement.
        judgement: Judgement,
        /// How long it took, in microseconds.
        micros: u64,
        /// The account of a boot, where the step was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot: Option<Box<BootAccount>>,
    },
    /// Its guest takes commands.
    Booted {
        /// The plan.
        plan: PlanId,
        /// How long it took, in microseconds.
        micros: u64,
        /// The guest, where the plan has it not for itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<SharedGuest>,
        /// Guests that the QEMU of this one had before; each ended in good order.
        #[serde(default, skip_serializing_if = "is_zero")]
        guests_before: u32,
    },
    /// The positive control was done.
    Controlled {
        /// The plan.
        plan: PlanId,
        /// Witnesses before.
        before: Sample,
        /// Witnesses after; the baseline of the first step.
        after: Sample,
        /// Result of the ACCEPT of the control page.
        observed: Observed,
        /// The judgement.
        judgement: Judgement,
        /// Counters that did not move; ignored for the rest of the plan.
        distrusted: Vec<MissingWitness>,
        /// How memory must look before the first step.
        #[serde(default)]
        map: MemoryMap,
    },
    /// A step is about to be done.
    StepStarted {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// The prediction.
        expected: Expectation,
    },
    /// A step was done.
    StepObserved {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// Observations, operation by operation of every branch.
        observed: Vec<Vec<Observed>>,
        /// Witnesses after the step.
        sample: Sample,
        /// The order in which racing operations took turns, where the seed alone does not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interleaving: Option<Interleaving>,
    },
    /// A step was judged.
    StepJudged {
        /// The plan.
        plan: PlanId,
        /// Which step, from 0.
        step: u32,
        /// The judgement.
        judgement: Judgement,
        /// How memory must look now.
        map: MemoryMap,
    },
    /// Its guest has gone.
    Ended {
        /// The plan.
        plan: PlanId,
        /// Witnesses of the teardown.
        ending: Ending,
        /// The judgement.
        judgement: Judgement,
    },
    /// A plan is over.
    PlanEnded {
        /// The plan.
        plan: PlanId,
        /// The verdict.
        verdict: Verdict,
        /// Why it was not judged to the end, if so.
        reason: Option<String>,
        /// How long it took, in microseconds.
        micros: u64,
        /// Folder with the host's evidence, relative to the run's folder and inside it.
        #[serde(default, deserialize_with = "inside::inside")]
        evidence: Option<PathBuf>,
        /// Whether a seeded fault has made the host do anything otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault_reached: Option<bool>,
    },
    /// A plan that did not pass in a guest it shared, or in a QEMU that had guests before, was run
    /// again in a guest and a QEMU of its own. The results there count.
    FailedShared {
        /// Which plan.
        plan: PlanId,
        /// The guest it shared; `None` where it shared only the QEMU.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guest: Option<SharedGuest>,
        /// What was said of it there.
        verdict: Verdict,
        /// Why, in words.
        why: String,
    },
    /// A plan that had failed was run again, to see how reliably it fails.
    Confirmed {
        /// The plan.
        plan: PlanId,
        /// How often it was run again.
        times: u32,
        /// How often it failed then.
        failed: u32,
    },
    /// Last line of every journal that was not cut off.
    RunEnded {
        /// The verdict of the run.
        verdict: Verdict,
        /// Whether the run was interrupted before all plans were run.
        interrupted: bool,
        /// Whether a plan that did not pass stopped it, so that others were not started (`--fail-fast`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stopped: bool,
        /// Facts about the host that can change under a run, by name, as they are now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        facts: Vec<(String, String)>,
    },
}

/// The plan of an event, by value or by reference.
macro_rules! plan_of {
    ($event:expr) => {
        match $event {
            Event::PlanSkipped { plan, .. }
            | Event::PlanStarted { plan, .. }
            | Event::LinuxStarted { plan, .. }
            | Event::LinuxStep { plan, .. }
            | Event::Booted { plan, .. }
            | Event::Controlled { plan, .. }
            | Event::StepStarted { plan, .. }
            | Event::StepObserved { plan, .. }
            | Event::StepJudged { plan, .. }
            | Event::Ended { plan, .. }
            | Event::PlanEnded { plan, .. }
            | Event::FailedShared { plan, .. }
            | Event::Confirmed { plan, .. } => Some(plan),
            Event::RunStarted(_) | Event::RunEnded { .. } => None,
        }
    };
}

impl Event {
    /// The plan it is about; `None` for the run's start and end.
    pub fn plan(&self) -> Option<PlanId> {
        plan_of!(self).copied()
    }

    /// The same, to be changed where runs are merged.
    pub fn plan_mut(&mut self) -> Option<&mut PlanId> {
        plan_of!(self)
    }
}

/// Head of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStarted {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// Version of tdxlab.
    pub tdxlab: String,
    /// Name of the run: its time and a random part.
    pub run: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// The command line.
    pub command: Vec<String>,
    /// The host.
    pub host: HostKind,
    /// What that host promised; `None` in journals of versions that did not write it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<HostProfile>,
    /// Why there.
    pub host_reason: String,
    /// Facts about the host by name: kernel, QEMU, TDX module.
    pub facts: Vec<(String, String)>,
    /// The fault that was seeded into the host: whatever failed, this is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<SeededFault>,
    /// The design played or expected.
    pub design: String,
    /// Seed given on the command line.
    pub seed: Option<u64>,
    /// Plans run at the same time.
    pub jobs: usize,
    /// Names of all plans of the run, in order.
    pub plans: Vec<String>,
    /// Scenario files and folders given on the command line; none for the default set.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "as_text::paths"
    )]
    pub paths: Vec<PathBuf>,
    /// Texts of kernel log lines that might appear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_log: Vec<String>,
    /// Which part of a larger run this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// How often every scenario is done, where that is more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Repeat>,
    /// Names of the runs this one was merged from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<String>,
}

/// The design of runs that have none: their guests are Linux, which does as it likes.
pub const NO_DESIGN: &str = "none";

impl RunStarted {
    /// Whether its guests are Linux (`tdxlab linux`).
    pub fn is_of_linux(&self) -> bool {
        self.design == NO_DESIGN
    }

    /// Whether its command line asks to start nothing more after a failure. Journals of versions that did
    /// not write down whether a run was stopped say it only here.
    pub fn is_fail_fast(&self) -> bool {
        let asked = |word: &&String| ["--fail-fast", "--keep-going"].contains(&word.as_str());
        // Of the two, the last counts.
        let last = self.command.iter().rev().find(asked);
        last.is_some_and(|word| word == "--fail-fast")
    }

    /// Whether it judges another run again, and has run nothing itself.
    pub fn is_rejudged(&self) -> bool {
        self.facts.iter().any(|(name, _)| name == REJUDGED_FACT)
    }

    /// What the host of the run promised.
    pub fn profile(&self) -> HostProfile {
        self.profile.unwrap_or(HostProfile::of(self.host))
    }
}

/// A guest in which several plans run one after the other, each in memory that was never touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedGuest {
    /// Its number in the run.
    pub guest: u32,
    /// How many plans ran in it before.
    pub before: u32,
    /// Where its memory for the plan starts, in bytes; journals and reports have the plan's own addresses.
    pub at: u64,
}

/// A fault that was seeded into the host of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeededFault {
    /// Its name, as for `--fault`.
    pub name: String,
    /// What the host does wrong because of it.
    pub wrong: String,
}

impl std::fmt::Display for SeededFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seeded fault {}: {}", self.name, self.wrong)
    }
}

/// A part of a run that several machines share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The shard.
    pub shard: Shard,
    /// How many plans all parts have together.
    pub of_plans: u32,
    /// The place of each plan of this part among them.
    pub places: Vec<u32>,
}
