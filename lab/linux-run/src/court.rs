//! Collects what witnesses contradict, and what they show.

use tdxlab_journal::verdict::{Finding, FindingKind, Judgement, MissingWitness, Verdict, Witness};

/// The judgement of one step under way.
#[derive(Default)]
pub(crate) struct Court {
    findings: Vec<Finding>,
    heard: Vec<Witness>,
    missing: Vec<MissingWitness>,
    seen: Vec<String>,
}

impl Court {
    /// Adds a line of what was observed.
    pub(crate) fn show(&mut self, line: String) {
        self.seen.push(line);
    }

    /// A witness has spoken.
    pub(crate) fn hear(&mut self, witness: Witness) {
        if !self.heard.contains(&witness) {
            self.heard.push(witness);
        }
    }

    /// A witness could not be read.
    pub(crate) fn miss(&mut self, witness: Witness, reason: &str) {
        if !self.missing.iter().any(|known| known.witness == witness) {
            self.missing.push(MissingWitness {
                witness,
                reason: reason.to_owned(),
            });
        }
    }

    /// A witness contradicts.
    pub(crate) fn find(&mut self, finding: Finding) {
        self.hear(finding.witness);
        self.findings.push(finding);
    }

    /// A number that is known exactly.
    pub(crate) fn equal(&mut self, witness: Witness, what: &str, expected: u64, found: u64) {
        self.hear(witness);
        if expected != found {
            let text = |number| format!("{number} {what}");
            self.find(Finding::wrong(witness, text(expected), text(found)));
        }
    }

    /// A kernel log without complaints.
    pub(crate) fn healthy(&mut self, witness: Witness, splats: &[String]) {
        self.hear(witness);
        for splat in splats {
            self.find(Finding::wrong(witness, "no complaint", splat));
        }
    }

    /// The judgement, and the observation in words.
    pub(crate) fn finish(mut self) -> (Judgement, Vec<String>) {
        let impossible = |finding: &Finding| finding.kind == FindingKind::Impossible;
        let verdict = match &self.findings[..] {
            [] if self.heard.is_empty() => Verdict::Error,
            [] => Verdict::Pass,
            findings if findings.iter().any(impossible) => Verdict::Error,
            _ => Verdict::Fail,
        };
        let omitted = self.findings.len().saturating_sub(Judgement::MAX_FINDINGS);
        self.findings.truncate(Judgement::MAX_FINDINGS);
        let judgement = Judgement {
            verdict,
            findings: self.findings,
            findings_omitted: omitted as u64,
            heard: self.heard,
            missing: self.missing,
            content: Vec::new(),
            spans_omitted: 0,
        };
        (judgement, self.seen)
    }
}
