//! A run as reports see it: the schema of `report.json`, and the input of all other formats.
//!
//! Addresses are text (`0x40000000..0x40200000`), half open. Times are in microseconds.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdxlab_journal::boot::BootAccount;
use tdxlab_journal::journal::{SeededFault, SharedGuest};
use tdxlab_journal::verdict::{FindingKind, MissingWitness, Verdict, Witness};
use tdxlab_journal::{REHEARSAL_FACT, REJUDGED_FACT, is_zero};
use tdxlab_plan::HostKind;

/// Version of the report format. Raised when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// Most findings of a step, and of a positive control, that [`ScenarioReport::why`] has.
const MOST_FINDINGS: usize = 5;

/// A run of scenarios, with its verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// Version of tdxlab that ran.
    pub tdxlab: String,
    /// Name of the run: its time and a random part.
    pub run: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// The command line.
    pub command: Vec<String>,
    /// Where guests ran.
    pub host: HostKind,
    /// Why there.
    pub host_reason: String,
    /// What the host said of itself.
    pub facts: Vec<Fact>,
    /// Those of them that can change under a run, as they were at its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts_at_end: Vec<Fact>,
    /// The fault that was seeded into the host: whatever failed, this is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<SeededFault>,
    /// The design played or expected.
    pub design: String,
    /// Seed given on the command line, if one was.
    pub seed: Option<u64>,
    /// Plans run at the same time.
    pub jobs: usize,
    /// The verdict of the run.
    pub verdict: Verdict,
    /// Whether the journal has an end. Where not, the runner was ended by force.
    pub complete: bool,
    /// Whether the run was interrupted.
    pub interrupted: bool,
    /// How long it took.
    pub micros: u64,
    /// How many scenarios got which verdict.
    pub counts: VerdictCounts,
    /// Every scenario, in the order of the run.
    pub scenarios: Vec<ScenarioReport>,
}

impl Report {
    /// The notice to put first in the report of a rehearsal.
    pub fn rehearsal(&self) -> Option<String> {
        let rehearsal = self.fact(REHEARSAL_FACT)?;
        Some(format!("{REHEARSAL_FACT}: {rehearsal}"))
    }

    /// Facts about the host that changed under the run, each as a warning.
    pub fn changes(&self) -> Vec<String> {
        let changed = self.facts_at_end.iter().filter_map(|end| {
            let (start, end, name) = (self.fact(&end.name)?, &end.value, &end.name);
            (start != end).then(|| {
                format!(
                    "{name} changed under this run: {start} when it started, {end} when it ended; which \
                     scenario ran on which is not known"
                )
            })
        });
        changed.collect()
    }

    /// Whether a fault was seeded that made no difference in any scenario that ran.
    pub fn fault_never_reached(&self) -> bool {
        let reached = || self.scenarios.iter().filter_map(|one| one.fault_reached);
        reached().next().is_some() && !reached().any(|reached| reached)
    }

    /// Which run it judges again, and under which design that was recorded, if it is no run itself.
    pub fn rejudged(&self) -> Option<&str> {
        self.fact(REJUDGED_FACT)
    }

    /// Whether a fixture played the TDX module, in one of its parts at least.
    pub fn is_rehearsal(&self) -> bool {
        self.rehearsal().is_some()
    }

    /// `mark` in the report of a rehearsal, else nothing: for names that must not be taken for those of
    /// TDX.
    pub fn rehearsal_mark<'a>(&self, mark: &'a str) -> &'a str {
        if self.is_rehearsal() { mark } else { "" }
    }

    /// What the host said of itself under this name.
    pub fn fact(&self, name: &str) -> Option<&str> {
        let fact = self.facts.iter().find(|fact| fact.name == name)?;
        Some(&fact.value)
    }
}

/// Something a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Of what.
    pub name: String,
    /// What.
    pub value: String,
}

/// How many scenarios got which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerdictCounts {
    /// Passed.
    pub pass: usize,
    /// Failed.
    pub fail: usize,
    /// Skipped, with those that were not run because the run was interrupted.
    pub skip: usize,
    /// Could not be judged.
    pub error: usize,
}

impl VerdictCounts {
    /// Adds one verdict.
    pub fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Pass => &mut self.pass,
            Verdict::Fail => &mut self.fail,
            Verdict::Skip => &mut self.skip,
            Verdict::Error => &mut self.error,
        } += 1;
    }

    /// The count of one verdict.
    pub fn of(&self, verdict: Verdict) -> usize {
        match verdict {
            Verdict::Pass => self.pass,
            Verdict::Fail => self.fail,
            Verdict::Skip => self.skip,
            Verdict::Error => self.error,
        }
    }

    /// Sum of all counts.
    pub fn total(&self) -> usize {
        self.pass + self.fail + self.skip + self.error
    }
}

/// One scenario, at one point of its matrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScenarioReport {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Its file.
    pub file: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it was skipped or not judged to the end.
    pub reason: Option<String>,
    /// Whether the run ended before the scenario did: it has no result yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// How long it took.
    pub micros: u64,
    /// How long the guest took to boot, of that.
    pub boot_micros: Option<u64>,
    /// The guest it ran in, where others ran in it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_guest: Option<SharedGuest>,
    /// How many guests the QEMU of its guest had before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guests_before: u32,
    /// Why it did not pass in a guest or QEMU it shared, if so; the result in one of its own counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_shared: Option<String>,
    /// The judgement of the positive control.
    pub control: Option<ControlReport>,
    /// The steps that were begun. Where something was found after the guest had gone, a last one says
    /// so, numbered after all that were planned.
    pub steps: Vec<StepReport>,
    /// How many steps it has.
    pub steps_planned: usize,
    /// Folder with what the host can show for it, relative to the report.
    pub evidence: Option<String>,
    /// Whether the seeded fault has made the host do anything otherwise; left out where none was
    /// seeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_reached: Option<bool>,
    /// Results of running it again after it had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Confirmation>,
}

/// How reliably a scenario fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// How often it was run again.
    pub times: u32,
    /// How often it failed then.
    pub failed: u32,
}

impl StepReport {
    /// A step without results yet.
    pub(super) fn begun(number: u32, action: String) -> StepReport {
        StepReport {
            number,
            line: 0,
            action,
            verdict: None,
            expected: Vec::new(),
            seen: Vec::new(),
            numbers: Numbers::default(),
            findings: Vec::new(),
            findings_omitted: 0,
            heard: Vec::new(),
            missing: Vec::new(),
            content: Vec::new(),
            content_omitted: 0,
            micros: 0,
            work: None,
            boot: None,
        }
    }
}

impl ScenarioReport {
    /// One of which nothing is known yet.
    pub(super) fn unknown(about: String) -> ScenarioReport {
        ScenarioReport {
            name: String::new(),
            about,
            file: None,
            verdict: Verdict::Error,
            reason: None,
            unfinished: false,
            micros: 0,
            boot_micros: None,
            shared_guest: None,
            guests_before: 0,
            failed_shared: None,
            control: None,
            steps: Vec::new(),
            steps_planned: 0,
            evidence: None,
            fault_reached: None,
            confirmed: None,
        }
    }

    /// The steps of the plan that were begun, without the end of the guest.
    pub fn steps_of_plan(&self) -> impl Iterator<Item = &StepReport> {
        self.steps.iter().filter(|step| !self.is_end(step))
    }

    /// Whether a step is the end of the guest, which no plan has.
    pub fn is_end(&self, step: &StepReport) -> bool {
        usize::try_from(step.number).is_ok_and(|number| number > self.steps_planned)
    }

    /// Where a step is: `step 3`, or `end`.
    pub fn place(&self, step: &StepReport) -> String {
        match self.is_end(step) {
            true => "end".to_owned(),
            false => format!("step {}", step.number),
        }
    }

    /// Whether it failed, or could not be judged.
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Fail | Verdict::Error)
    }

    /// The first step that did not pass.
    pub fn first_bad_step(&self) -> Option<&StepReport> {
        self.steps.iter().find(|step| step.is_bad())
    }

    /// What its positive control found.
    pub fn control_findings(&self) -> &[FindingReport] {
        let control = self.control.as_ref();
        control.map_or(&[], |control| &control.findings)
    }

    /// Why it did not pass, in a few lines: what ended it, what its positive control found, and its first
    /// step that did not pass with what was found there. Never empty.
    pub fn why(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.reason.iter().cloned().collect();
        let control = self.control_findings().iter().take(MOST_FINDINGS);
        lines.extend(control.map(|finding| format!("positive control: {finding}")));
        if let Some(step) = self.first_bad_step() {
            lines.push(format!("{}: {}", self.place(step), step.action));
            let found = step.findings.iter().take(MOST_FINDINGS);
            lines.extend(found.map(FindingReport::to_string));
        }
        if lines.is_empty() {
            lines.push("nothing is recorded of why".to_owned());
        }
        lines
    }
}

impl StepReport {
    /// Whether it failed, or could not be judged.
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Fail | Verdict::Error))
    }
}

/// The positive control of a scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlReport {
    /// The verdict.
    pub verdict: Verdict,
    /// What was not as it had to be.
    pub findings: Vec<FindingReport>,
    /// Counters that were not believed from then on.
    pub distrusted: Vec<MissingWitness>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepReport {
    /// Its number, from 1.
    pub number: u32,
    /// Line of the scenario file; 0 where there is none.
    pub line: u32,
    /// What was done.
    pub action: String,
    /// The verdict; `null` if the run ended before it was judged.
    pub verdict: Option<Verdict>,
    /// What had to happen, one witness a line.
    pub expected: Vec<String>,
    /// What guest and host calls saw, one kind of thing a line.
    pub seen: Vec<String>,
    /// What was seen from outside, in numbers.
    pub numbers: Numbers,
    /// What was not as it had to be.
    pub findings: Vec<FindingReport>,
    /// Findings left out.
    pub findings_omitted: u64,
    /// Witnesses that were heard.
    pub heard: Vec<Witness>,
    /// Witnesses that could not be heard, and why.
    pub missing: Vec<MissingWitness>,
    /// What guest memory holds, where the step read it.
    pub content: Vec<ContentReport>,
    /// Ranges left out of `content`.
    pub content_omitted: u64,
    /// How long the operations took.
    pub micros: u64,
    /// What the step did, for those who compare what it cost; left out where its operations are of
    /// different kinds, or have no range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<StepWork>,
    /// The account of a boot of a Linux guest, where the step was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootAccount>,
}

/// Work of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepWork {
    /// What was done: `accept`, `convert to shared`, `punch`.
    pub operation: String,
    /// At which page level or stride, or `linux`; `null` where it takes a range as a whole.
    pub level: Option<String>,
    /// How many vCPUs did it side by side; 0 for the host.
    pub vcpus: u32,
    /// To how many bytes.
    pub bytes: u64,
    /// From the start to the end of the slowest branch; `null` where it was not done.
    pub micros: Option<u64>,
}

/// What was seen of a step, in numbers; `null` where it could not be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    /// Split events.
    pub splits: Option<u64>,
    /// Change of `pages_4k`.
    pub pages_4k: Option<i64>,
    /// Change of `pages_2m`.
    pub pages_2m: Option<i64>,
    /// Change of `pages_1g`.
    pub pages_1g: Option<i64>,
    /// Populated 4K pages of the guest_memfd.
    pub populated: Option<u64>,
    /// VM exits of type ACCEPT.
    pub accept_exits: Option<u64>,
    /// Other VM exits on private memory.
    pub access_exits: Option<u64>,
    /// S-EPT entries looked at to decide splits.
    pub entries_looked_at: Option<u64>,
    /// Leaves zapped.
    pub leaves_zapped: Option<u64>,
    /// 4K pages that the dirty log named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<u64>,
    /// VM exits of any kind.
    #[serde(default)]
    pub exits: Option<u64>,
    /// Hypercalls of the guest among them.
    #[serde(default)]
    pub vmcalls: Option<u64>,
    /// Private pages of 4K added by TDH.MEM.PAGE.AUG.
    #[serde(default)]
    pub auged_4k: Option<u64>,
    /// The same, of 2M.
    #[serde(default)]
    pub auged_2m: Option<u64>,
    /// The same, of 1G.
    #[serde(default)]
    pub auged_1g: Option<u64>,
    /// TLB kicks: TDH.MEM.TRACK; in a plain VM, remote TLB flushes.
    #[serde(default)]
    pub tlb_kicks: Option<u64>,
    /// 4K pages of shared memory outside the guest_memfd, after the step.
    #[serde(default)]
    pub shared_apart: Option<u64>,
}

/// One difference between what had to happen and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FindingReport {
    /// Who says so.
    pub witness: Witness,
    /// What kind of difference.
    pub kind: FindingKind,
    /// Where, as GPAs.
    pub at: Option<String>,
    /// What had to be.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl fmt::Display for FindingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.witness)?;
        if let Some(at) = &self.at {
            write!(f, " at {at}")?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

/// What a range of guest memory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentReport {
    /// Where, as GPAs.
    pub range: String,
    /// How long that is.
    #[serde(default)]
    pub bytes: u64,
    /// What it has to hold.
    pub expected: String,
    /// What it holds.
    pub found: String,
    /// Whether that is right.
    pub right: bool,
}

/// The JSON Schema of `report.json`.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).into()
}
