//! Collects what witnesses contradict, and what they show.

use tdxlab_journal::Reading;
use tdxlab_journal::verdict::{Finding, Judgement, MissingWitness, Verdict, Witness};

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

    /// Complaints that were read out of a kernel's log: none may be there. Each counts, whatever else of
    /// the log was lost.
    pub(crate) fn log(&mut self, witness: Witness, complaints: &Reading<Vec<String>>) {
        match complaints {
            Reading::Read(complaints) => self.healthy(witness, complaints),
            Reading::Missing { reason } => self.miss(witness, reason),
            Reading::Incomplete { reason, rest } => {
                self.find(Finding::impossible(witness, "a whole reading", reason));
                self.healthy(witness, rest.as_deref().unwrap_or_default());
            }
        }
    }

    /// Whether no witness has spoken.
    pub(crate) fn is_silent(&self) -> bool {
        self.heard.is_empty()
    }

    /// Whether anything contradicts.
    pub(crate) fn has_found(&self) -> bool {
        !self.findings.is_empty()
    }

    /// A kernel log without complaints.
    fn healthy(&mut self, witness: Witness, splats: &[String]) {
        self.hear(witness);
        for splat in splats {
            self.find(Finding::wrong(witness, "no complaint", splat));
        }
    }

    /// The judgement, and the observation in words.
    pub(crate) fn finish(mut self) -> (Judgement, Vec<String>) {
        let verdict = Finding::verdict(&self.findings).unwrap_or(match self.heard.is_empty() {
            true => Verdict::Error,
            false => Verdict::Pass,
        });
        let omitted = self.findings.len().saturating_sub(Judgement::MAX_FINDINGS);
        self.findings.truncate(Judgement::MAX_FINDINGS);
        let judgement = Judgement {
            findings: self.findings,
            findings_omitted: omitted as u64,
            heard: self.heard,
            missing: self.missing,
            ..Judgement::bare(verdict)
        };
        (judgement, self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_fails_even_where_the_log_lost_others() {
        let judged = |rest: &[&str]| {
            let mut court = Court::default();
            let reading = Reading::Incomplete {
                reason: "records were overwritten".to_owned(),
                rest: Some(rest.iter().map(|&line| line.to_owned()).collect()),
            };
            court.log(Witness::GuestLog, &reading);
            court.finish().0
        };
        assert_eq!(judged(&[]).verdict, Verdict::Error, "others may be lost");
        let judgement = judged(&["WARN: x"]);
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert_eq!(judgement.findings.len(), 2, "{:?}", judgement.findings);
    }

    #[test]
    fn a_log_that_cannot_be_read_is_missing() {
        let mut court = Court::default();
        court.log(Witness::KernelLog, &Reading::missing("no /dev/kmsg"));
        assert!(court.is_silent() && !court.has_found());
        let judgement = court.finish().0;
        assert_eq!(judgement.verdict, Verdict::Error);
        assert_eq!(judgement.missing.len(), 1);
    }
}
