//! What a hunt keeps of a plan that failed: a scenario file, replay files, and its story.

use std::path::Path;

use tdxlab_fuzz::{self as fuzz, Found, Fuzz, Part};
use tdxlab_journal::FolderError;
use tdxlab_journal::folder::write_whole;
use tdxlab_journal::replay::{Replay, ReplayOrigin, Signature};
use tdxlab_plan::{Plan, TdxModule};
use tdxlab_report::terminal::count;
use tdxlab_scenario as scenario;

/// The smallest plan, as a scenario.
const SCENARIO: &str = "scenario.yaml";
/// The same with the order of its races.
const REPLAY: &str = "replay.json";
/// The plan as it was drawn.
const DRAWN: &str = "drawn.json";

/// What is kept of a plan that failed.
pub(super) struct Kept {
    /// What happened, the scenario, and how to see it again.
    pub(super) story: String,
    files: [(&'static str, Vec<u8>); 3],
}

/// Whether the scenario file fails like the plan it was made of.
enum FromFile {
    Fails,
    Passes,
    /// It is refused, for this reason.
    Refused(String),
    /// The interrupt came before.
    NotTried,
}

impl Kept {
    pub(super) fn of(
        found: &Found,
        campaign: &Fuzz<'_>,
        module: Option<TdxModule>,
        folder: &Path,
    ) -> Kept {
        let failure = &found.shrunk.failure;
        let name = name(found);
        let about = format!("Found at random with seed {}: {failure}.", found.plan.seed);
        let mut plan = found.shrunk.plan.clone();
        // A file with such a touch says on which module it can be predicted.
        if plan.has_same_rip() {
            plan.needs.module = module.or(campaign.host.profile().module);
        }
        let text = fuzz::scenario(&plan, campaign.design, &name, &about);
        let from_file = from_file(&text, &folder.join(SCENARIO), found, campaign);
        plan.name = name;
        plan.about = about;
        // A replay boots what the plan needs, whatever the host plays otherwise.
        plan.needs.module = module;
        let mut drawn = found.plan.clone();
        drawn.needs.module = module;
        let story = format!(
            "failure: {failure}\n{}; shrunk from {} to {} in {}\n\n{text}\n{}",
            reproduced(found),
            found.plan.steps.len(),
            count(found.shrunk.plan.steps.len(), "step"),
            count(found.shrunk.tried, "attempt"),
            again(&from_file, found, campaign, module, folder),
        );
        Kept {
            story,
            files: [
                (SCENARIO, text.into_bytes()),
                (REPLAY, replay(plan, failure, campaign).to_text()),
                (DRAWN, replay(drawn, &found.failure, campaign).to_text()),
            ],
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), FolderError> {
        let mut files = self.files.iter();
        files.try_for_each(|(name, text)| write_whole(&folder.join(name), text))
    }
}

/// A scenario's name: who said it, and where it came from.
fn name(found: &Found) -> String {
    let witness = found.shrunk.failure.witnesses.first();
    let slug: String = witness
        .map_or("lab", |witness| witness.name())
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("fuzz/{slug}-{:08x}", found.plan.seed & 0xffff_ffff)
}

fn reproduced(found: &Found) -> String {
    match found.runs {
        0 => "interrupted before it was run again".to_owned(),
        fuzz::CONFIRMATIONS => format!("reproduced {}/{}", found.again, found.runs),
        runs => format!("reproduced {}/{runs}, then interrupted", found.again),
    }
}

/// How to see it again.
fn again(
    from_file: &FromFile,
    found: &Found,
    campaign: &Fuzz<'_>,
    module: Option<TdxModule>,
    folder: &Path,
) -> String {
    let fault = campaign
        .host
        .fault()
        .map_or(String::new(), |fault| format!(" --fault {}", fault.name));
    let played = module.map_or(String::new(), |module| format!(" --module {module}"));
    let run = format!(
        "  tdxlab run {} --host {} --design {}{fault}{played}\n",
        folder.join(SCENARIO).display(),
        campaign.host.kind().name(),
        campaign.design.name
    );
    // The folder of a hunt is no run, so `reports/latest` stays with the last run.
    let replay = format!("  tdxlab replay {}", folder.join(REPLAY).display());
    match (from_file, found.again) {
        (FromFile::Refused(why), _) => {
            format!("no scenario file can say it ({why}); the replay can:\n{replay}")
        }
        (FromFile::Fails, _) => format!("to see it fail again:\n{run}{replay}"),
        (FromFile::NotTried, _) => format!("to see whether it fails again:\n{run}{replay}"),
        (FromFile::Passes, 0) => {
            format!("it has not failed again; to try it once more:\n{run}{replay}")
        }
        (FromFile::Passes, _) => format!(
            "scenario.yaml does not fail when run from the file; the replay does:\n{replay}"
        ),
    }
}

fn replay(plan: Plan, failure: &fuzz::Failure, campaign: &Fuzz<'_>) -> Replay {
    // As a run of the plan signs it: only what was judged has a place.
    let step = match failure.part {
        Part::Step | Part::End => u32::try_from(failure.step + 1).ok(),
        Part::Host(_) | Part::Memory | Part::Lab | Part::Boot => None,
    };
    Replay {
        recorded: Some(ReplayOrigin {
            tdxlab: env!("CARGO_PKG_VERSION").to_owned(),
            run: "fuzz".to_owned(),
            host: campaign.host.kind(),
            design: campaign.design.name.to_owned(),
            module: campaign.host.profile().module,
            fault: campaign.host.fault().map(|fault| fault.name.to_owned()),
            allowed_log: Vec::new(),
            ended: Some(Signature {
                verdict: failure.verdict,
                step,
                witnesses: failure.witnesses.iter().copied().collect(),
            }),
        }),
        plan,
        orders: failure.orders.clone(),
    }
}

/// Reads the scenario back and runs it.
fn from_file(text: &str, path: &Path, found: &Found, campaign: &Fuzz<'_>) -> FromFile {
    let plans = scenario::parse(path, text).and_then(|file| {
        let plans = scenario::expand(&file, None)?;
        for plan in &plans {
            scenario::check(plan, &file)?;
        }
        Ok(plans)
    });
    let plan = match plans.as_deref() {
        Ok([plan]) => plan,
        Ok(plans) => return FromFile::Refused(format!("it makes {} plans", plans.len())),
        Err(error) => return FromFile::Refused(error.to_string()),
    };
    // `tdxlab run` follows no recorded order.
    match campaign.once(plan, &fuzz::Orders::new()) {
        Err(fuzz::Interrupted) => FromFile::NotTried,
        Ok(Some(again)) if again.is_like(&found.failure) => FromFile::Fails,
        Ok(_) => FromFile::Passes,
    }
}
