//! Judges a boot by an earlier run of the same kernel, firmware and configuration.
//!
//! Most boots of one configuration give the same counts, and a few do not: Linux places memory at random
//! (KASLR) and timers interrupt ACCEPTs. So small differences are shown, and large ones fail.

use std::path::Path;

use tdxlab_journal::JournalError;
use tdxlab_journal::boot::{BootAccount, Count};
use tdxlab_journal::journal::Event;
use tdxlab_journal::reader::JournalReader;
use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_plan::linux::{LinuxGuest, LinuxOp, LinuxPlan};

use crate::court::Court;

/// Counts may differ by a quarter, or by this much.
const SMALL: u64 = 16;

/// Facts of a run that make its boots another configuration.
const FACTS: [&str; 2] = ["QEMU", "firmware"];

/// The boots of an earlier run.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    /// The run.
    run: String,
    facts: Vec<(String, String)>,
    boots: Vec<(LinuxGuest, LinuxOp, BootAccount)>,
}

impl Baseline {
    /// Reads the boots of a run, given by its folder.
    ///
    /// # Errors
    ///
    /// There is no journal, or it cannot be read.
    pub fn of_run(folder: &Path) -> Result<Baseline, JournalError> {
        let mut reader = JournalReader::of_run(folder)?;
        let mut baseline = Baseline {
            run: reader.head().run.clone(),
            facts: relevant(&reader.head().facts),
            boots: Vec::new(),
        };
        let mut plan: Option<LinuxPlan> = None;
        while let Some(line) = reader.next_line()? {
            match line.event {
                Event::LinuxStarted { body, .. } => plan = Some(body),
                Event::LinuxStep {
                    step,
                    boot: Some(boot),
                    ..
                } => {
                    let op = plan.as_ref().and_then(|plan| {
                        let step = plan.steps.get(step as usize)?;
                        Some((plan.guest.clone(), step.op.clone()))
                    });
                    baseline
                        .boots
                        .extend(op.map(|(guest, op)| (guest, op, *boot)));
                }
                _ => {}
            }
        }
        Ok(baseline)
    }

    /// Whether it is of the same QEMU and firmware as a run with these facts; else what differs.
    ///
    /// # Errors
    ///
    /// Both values of what differs, in words.
    pub fn check(&self, facts: &[(String, String)]) -> Result<(), String> {
        let now = relevant(facts);
        for name in FACTS {
            let of = |facts: &[(String, String)]| {
                let found = facts.iter().find(|(known, _)| known == name);
                found.map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
            };
            let (before, now) = (of(&self.facts), of(&now));
            if before != now {
                return Err(format!("{name} was {before}, and is {now}"));
            }
        }
        Ok(())
    }

    /// Judges a boot by the first one of the same kernel and configuration.
    pub(crate) fn judge(
        &self,
        court: &mut Court,
        guest: &LinuxGuest,
        op: &LinuxOp,
        now: &BootAccount,
    ) {
        let alike = |(known, how, boot): &&(LinuxGuest, LinuxOp, BootAccount)| {
            known == guest && how == op && boot.kernel == now.kernel
        };
        let Some((_, _, before)) = self.boots.iter().find(alike) else {
            court.show(format!(
                "by what was before: {} has no boot of this kernel and configuration, so nothing \
                 was judged by it",
                self.run
            ));
            return;
        };
        let mut differs = Vec::new();
        let mut compared = 0;
        for (before, now) in before.counts().into_iter().zip(now.counts()) {
            let (Some(old), Some(new)) = (before.value, now.value) else {
                continue;
            };
            compared += 1;
            let room = SMALL.max(old / 4);
            if old.abs_diff(new) > room {
                let expected = format!("{old} {}, as in {}, or {room} off", now.what, self.run);
                court.find(Finding::wrong(
                    witness(now),
                    expected,
                    format!("{new} {}", now.what),
                ));
            } else if old != new {
                differs.push(format!("{} {old}, now {new}", now.what));
            }
        }
        court.show(match differs.is_empty() {
            _ if compared == 0 => format!(
                "by what was before: no count was read both now and in {}, so nothing was judged by it",
                self.run
            ),
            true => format!("by what was before: {compared} counts as in {}", self.run),
            false => format!("by what was before ({}): {}", self.run, differs.join("; ")),
        });
    }
}

/// Where there is no baseline.
pub(crate) fn none(court: &mut Court) {
    court.show("by what was before: nothing, no --baseline was given".to_owned());
}

fn relevant(facts: &[(String, String)]) -> Vec<(String, String)> {
    let wanted = |(name, _): &&(String, String)| FACTS.contains(&name.as_str());
    facts.iter().filter(wanted).cloned().collect()
}

fn witness(count: Count) -> Witness {
    match count.what {
        "pages_4k" | "pages_2m" => Witness::Debugfs,
        "splits" => Witness::Splits,
        _ => Witness::Module,
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::boot::ModuleAccount;
    use tdxlab_journal::verdict::Verdict;

    use super::*;

    fn boot(demoted: u64) -> BootAccount {
        BootAccount {
            kernel: "7.3".to_owned(),
            firmware_micros: 1,
            kernel_micros: 1,
            ram: 0,
            unaccepted: None,
            exits: None,
            pages_4k: None,
            pages_2m: Some(500),
            module: Some(ModuleAccount {
                demoted,
                ..ModuleAccount::default()
            }),
            splits: None,
            memory: Vec::new(),
        }
    }

    fn guest(mebibytes: u64) -> LinuxGuest {
        LinuxGuest {
            mebibytes,
            vcpus: 1,
            append: String::new(),
            agent: tdxlab_plan::linux::AgentBy::default(),
            disk: None,
            quotes: tdxlab_plan::linux::Quotes::None,
        }
    }

    #[test]
    fn small_differences_are_shown_and_large_ones_fail() {
        let baseline = Baseline {
            run: "R".to_owned(),
            facts: Vec::new(),
            boots: vec![(guest(768), LinuxOp::Boot, boot(6))],
        };
        let judged = |guest: &LinuxGuest, demoted| {
            let mut court = Court::default();
            court.hear(Witness::Agent);
            baseline.judge(&mut court, guest, &LinuxOp::Boot, &boot(demoted));
            let (judgement, seen) = court.finish();
            (judgement, seen.concat())
        };
        let (same, seen) = judged(&guest(768), 6);
        assert_eq!(same.verdict, Verdict::Pass);
        assert!(seen.ends_with("as in R"), "{seen}");
        let (near, seen) = judged(&guest(768), 9);
        assert_eq!(near.verdict, Verdict::Pass);
        assert!(seen.contains("DEMOTE 6, now 9"), "{seen}");
        let (far, _) = judged(&guest(768), 129);
        assert_eq!(far.verdict, Verdict::Fail);
        let said = far.findings[0].to_string();
        assert!(
            said.contains("6 DEMOTE, as in R, or 16 off, found 129"),
            "{said}"
        );
        let mut unseen = boot(6);
        (unseen.pages_2m, unseen.module) = (None, None);
        let mut court = Court::default();
        baseline.judge(&mut court, &guest(768), &LinuxOp::Boot, &unseen);
        let seen = court.finish().1.concat();
        assert!(
            seen.contains("no count was read both now and in R"),
            "{seen}"
        );
        let (other, seen) = judged(&guest(1024), 129);
        assert_eq!(other.verdict, Verdict::Pass);
        assert!(seen.contains("nothing was judged by it"), "{seen}");
    }

    #[test]
    fn another_firmware_is_no_baseline() {
        let fact = |value: &str| vec![("firmware".to_owned(), value.to_owned())];
        let baseline = Baseline {
            facts: fact("a"),
            ..Baseline::default()
        };
        assert!(baseline.check(&fact("a")).is_ok());
        let why = baseline.check(&fact("b")).unwrap_err();
        assert_eq!(why, "firmware was a, and is b");
    }
}
