//! Judges one step with all its witnesses.

use tdxlab_journal::{Ending, Judgement, Sample, Verdict};

use crate::findings::{Evidence, Findings};
use crate::kernel_log::{self, AllowList};
use crate::{access, content, counters, dirty_log, guest, host, remains, splits};

/// Judges the steps of one plan, in order.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    allowed_log: AllowList,
    /// Populated pages beyond the prediction that an earlier step has answered for.
    populated_drift: i64,
}

impl Judge {
    /// A judge for a new plan, which allows these kernel log lines.
    pub fn new(allowed_log: AllowList) -> Judge {
        Judge {
            allowed_log,
            populated_drift: 0,
        }
    }

    /// Judges one step.
    pub fn step(&mut self, evidence: &Evidence<'_>) -> Judgement {
        let mut findings = Findings {
            heard: Vec::with_capacity(8),
            ..Findings::default()
        };
        host::life(evidence, &mut findings);
        counters::pages(evidence, &mut findings);
        self.populated_drift = counters::populated(evidence, self.populated_drift, &mut findings);
        counters::exits(evidence, &mut findings);
        counters::entries(evidence, &mut findings);
        splits::events(evidence, &mut findings);
        dirty_log::pages(evidence, &mut findings);
        guest::plausible(evidence, &mut findings);
        guest::statuses(evidence, &mut findings);
        guest::probes(evidence, &mut findings);
        guest::map_gpa(evidence, &mut findings);
        access::outcomes(evidence, &mut findings);
        host::errnos(evidence, &mut findings);
        content::reads(evidence, &mut findings);
        kernel_log::lines(&evidence.after.kernel_log, &self.allowed_log, &mut findings);
        findings.close()
    }

    /// Judges the teardown of the guest.
    pub fn end(&self, ending: &Ending) -> Judgement {
        let mut findings = Findings::default();
        kernel_log::lines(&ending.kernel_log, &self.allowed_log, &mut findings);
        remains::given_back(&ending.taken, &mut findings);
        let mut judgement = findings.close();
        // Guest and host were idle: a witness that is missing now was missing before.
        if judgement.findings.is_empty() {
            judgement.verdict = Verdict::Pass;
        }
        judgement
    }

    /// Judges kernel messages outside of steps, such as during boot.
    pub fn quiet_time(&self, sample: &Sample) -> Judgement {
        let mut findings = Findings::default();
        kernel_log::lines(&sample.kernel_log, &self.allowed_log, &mut findings);
        findings.close()
    }
}
