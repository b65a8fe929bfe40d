//! Verdicts, witnesses and findings of a judgement.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdxlab_protocol::addr::GpaRange;

use crate::{ContentSpan, is_zero};

/// The verdict on a step, a scenario or a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every witness that spoke agreed with the prediction.
    Pass,
    /// The host or the guest did wrong.
    Fail,
    /// A need is not met.
    Skip,
    /// The lab could not judge.
    Error,
}

impl Verdict {
    /// All verdicts, in the order of summaries.
    pub const ALL: [Verdict; 4] = [Verdict::Pass, Verdict::Fail, Verdict::Skip, Verdict::Error];

    /// The verdict of a whole whose parts have these two verdicts. A failure that was seen stays a
    /// failure even where something else could not be judged; a part that could not be judged
    /// keeps the whole from passing.
    pub const fn and(self, other: Verdict) -> Verdict {
        use Verdict::{Error, Fail, Pass, Skip};
        match (self, other) {
            (Fail, _) | (_, Fail) => Fail,
            (Error, _) | (_, Error) => Error,
            (Pass, _) | (_, Pass) => Pass,
            (Skip, Skip) => Skip,
        }
    }

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Skip => "skip",
            Verdict::Error => "error",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One independent source of evidence about a step.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// Whether the TD lives.
    Td,
    /// Page counters in debugfs.
    Debugfs,
    /// Page counters through QMP `query-stats`.
    QueryStats,
    /// Split events.
    Splits,
    /// Pages that the dirty log names.
    DirtyLog,
    /// Populated pages of the guest_memfd.
    Populated,
    /// VM exits.
    Exits,
    /// S-EPT entries the host looked at.
    Entries,
    /// Status of every ACCEPT.
    Status,
    /// Outcome of every access.
    Access,
    /// What every probe read.
    Probe,
    /// Status of MapGPA.
    MapGpa,
    /// errno of host calls.
    Errno,
    /// Guest memory, read back.
    Content,
    /// What is still taken when the guest has gone.
    Remains,
    /// The kernel log.
    KernelLog,
    /// The TDX module of a rehearsal: its S-EPT, and what it has done.
    Module,
    /// The agent in a Linux guest.
    Agent,
    /// The kernel log of a Linux guest.
    GuestLog,
    /// What the VMM has written into the buffer that a TD shares with it for quotes.
    QuoteBuffer,
}

impl Witness {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Witness::Td => "TD",
            Witness::Debugfs => "debugfs",
            Witness::QueryStats => "query-stats",
            Witness::Splits => "split events",
            Witness::DirtyLog => "dirty log",
            Witness::Populated => "guest_memfd",
            Witness::Exits => "exits",
            Witness::Entries => "S-EPT entries",
            Witness::Status => "ACCEPT status",
            Witness::Access => "access",
            Witness::Probe => "probe",
            Witness::MapGpa => "MapGPA",
            Witness::Errno => "errno",
            Witness::Content => "content",
            Witness::Remains => "what is left",
            Witness::KernelLog => "kernel log",
            Witness::Module => "TDX module",
            Witness::Agent => "agent",
            Witness::GuestLog => "guest's kernel log",
            Witness::QuoteBuffer => "quote buffer",
        }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What kind of finding it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A witness says something else than was predicted.
    Wrong,
    /// Two witnesses of the same thing say different things.
    Disagreement,
    /// What was said cannot be, whatever host and guest did: the lab cannot judge by it.
    Impossible,
}

/// One difference between what had to happen and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Who says so.
    pub witness: Witness,
    /// What kind of difference.
    pub kind: FindingKind,
    /// Where, if it is about a place.
    pub at: Option<GpaRange>,
    /// What had to be.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl Finding {
    /// A witness contradicts the prediction.
    pub fn wrong(
        witness: Witness,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Finding {
        Finding {
            witness,
            kind: FindingKind::Wrong,
            at: None,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Something that cannot be.
    pub fn impossible(
        witness: Witness,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Finding {
        Finding {
            kind: FindingKind::Impossible,
            ..Finding::wrong(witness, expected, found)
        }
    }

    /// What findings make of what they were found in; `None` where there are none. What cannot be makes an
    /// error of it, whatever else was found, but for a complaint of a kernel, which no other witness can
    /// take back.
    pub fn verdict(findings: &[Finding]) -> Option<Verdict> {
        let complaint = |finding: &Finding| {
            finding.kind == FindingKind::Wrong
                && matches!(finding.witness, Witness::KernelLog | Witness::GuestLog)
        };
        let impossible = |finding: &Finding| finding.kind == FindingKind::Impossible;
        match findings {
            [] => None,
            _ if findings.iter().any(complaint) => Some(Verdict::Fail),
            _ if findings.iter().any(impossible) => Some(Verdict::Error),
            _ => Some(Verdict::Fail),
        }
    }

    /// The same finding, at `range`.
    pub fn at(self, range: GpaRange) -> Finding {
        Finding {
            at: Some(range),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.witness)?;
        if let Some(range) = self.at {
            write!(f, "at {range}: ")?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

/// A witness that was wanted and could not be heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingWitness {
    /// Which.
    pub witness: Witness,
    /// Why.
    pub reason: String,
}

/// Verdict of one step, and its grounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// All differences, at most [`Judgement::MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Differences left out of `findings`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub findings_omitted: u64,
    /// Witnesses that were heard.
    pub heard: Vec<Witness>,
    /// Witnesses that were wanted and could not be heard.
    pub missing: Vec<MissingWitness>,
    /// What guest memory holds, where the step read it; at most [`Judgement::MAX_SPANS`], wrong
    /// ones before right ones where some are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<ContentSpan>,
    /// Spans left out of `content`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spans_omitted: u64,
}

impl Judgement {
    /// Most findings kept of one step.
    pub const MAX_FINDINGS: usize = 64;
    /// Most content spans kept of one step.
    pub const MAX_SPANS: usize = 512;

    /// Without grounds: nothing was found, heard or missed.
    pub fn bare(verdict: Verdict) -> Judgement {
        Judgement {
            verdict,
            findings: Vec::new(),
            findings_omitted: 0,
            heard: Vec::new(),
            missing: Vec::new(),
            content: Vec::new(),
            spans_omitted: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Verdict::{self, Error, Fail, Pass, Skip};

    #[rstest]
    #[case::failure_outweighs_error(Fail, Error, Fail)]
    #[case::error_outweighs_pass(Error, Pass, Error)]
    #[case::skip_does_not_count(Skip, Pass, Pass)]
    #[case::only_skips(Skip, Skip, Skip)]
    fn a_whole_is_as_bad_as_its_worst_part(
        #[case] one: Verdict,
        #[case] other: Verdict,
        #[case] whole: Verdict,
    ) {
        assert_eq!(one.and(other), whole);
        assert_eq!(other.and(one), whole);
    }
}
