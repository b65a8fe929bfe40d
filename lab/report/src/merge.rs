//! Merges runs: the shards of a run, or the same set on several machines.
//!
//! Journals are merged, not reports, so that a merged run has all reports of any other. Runs of
//! different designs or kernels are merged only on request, and a missing part is an error: a
//! smaller run would look like a good one. All is looked at before anything is written.

mod parts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use tdxlab_journal::as_text::command_line;
use tdxlab_journal::folder::{FolderError, RunFolder};
use tdxlab_journal::journal::{self, Event, JournalError, PlanId, RunStarted};
use tdxlab_journal::reader::JournalReader;
use tdxlab_journal::verdict::Verdict;
use tdxlab_journal::{ONE_SHOT, after_rehearsal};
use thiserror::Error;

/// Why runs cannot be one.
#[derive(Debug, Error, Diagnostic)]
pub enum MergeError {
    /// A journal cannot be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
    /// The merged run cannot be kept.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Folder(#[from] FolderError),
    /// They tested different things.
    #[error("{} and {} differ in {what}: {one} and {other}", first.display(), second.display())]
    #[diagnostic(
        code(merge::differ),
        help("compare them with `tdxlab report diff`, or say --mixed to merge them all the same")
    )]
    Differ {
        /// A run.
        first: PathBuf,
        /// Another.
        second: PathBuf,
        /// The property that differs.
        what: String,
        /// Its value in the first.
        one: String,
        /// And in the second.
        other: String,
    },
    /// A part is not there.
    #[error("of {count} shards, {} missing: {}", are(*missing), list(first, *missing))]
    #[diagnostic(
        code(merge::missing_shard),
        help("a merged run must be whole: run the missing shards, or find where they were left")
    )]
    MissingShards {
        /// How many there are.
        count: u32,
        /// How many were not given.
        missing: u32,
        /// The first of those.
        first: Vec<u32>,
    },
    /// A shard contradicts itself or the others.
    #[error("{} cannot be a shard of that run: {what}", folder.display())]
    #[diagnostic(
        code(merge::part),
        help(
            "the journal was changed since tdxlab wrote it: take the original, or run the shard again"
        )
    )]
    Part {
        /// The shard.
        folder: PathBuf,
        /// The contradiction.
        what: String,
    },
    /// Parts of runs that were cut differently.
    #[error("{} is {one}, {} is {other}", first.display(), second.display())]
    #[diagnostic(code(merge::cut), help("merge only the shards of one run"))]
    Cut {
        /// A run.
        first: PathBuf,
        /// Another.
        second: PathBuf,
        /// Part of the first.
        one: String,
        /// Its value in the second.
        other: String,
    },
    /// A run was not done to its end.
    #[error("{} was ended before it was done", folder.display())]
    #[diagnostic(
        code(merge::unfinished),
        help("finish it: tdxlab run --resume {}", folder.display())
    )]
    Unfinished {
        /// The run.
        folder: PathBuf,
    },
    /// Two runs have the same scenario.
    #[error("{} and {} both ran {name}", first.display(), second.display())]
    #[diagnostic(
        code(merge::twice),
        help("give each run once; compare runs of the same scenarios with `tdxlab report diff`")
    )]
    Twice {
        /// A run.
        first: PathBuf,
        /// Another.
        second: PathBuf,
        /// The scenario.
        name: String,
    },
    /// There are no runs to merge.
    #[error("there is nothing to merge")]
    #[diagnostic(code(merge::nothing), help("name at least one folder of a run"))]
    Nothing,
    /// The evidence of a scenario is not there.
    #[error("cannot read the evidence of {name} in {}: {source}", path.display())]
    #[diagnostic(
        code(merge::evidence),
        help("copy the folder of that run again, with all that is in it, and merge again")
    )]
    Evidence {
        /// The scenario.
        name: String,
        /// Where its evidence must be.
        path: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// A file of a scenario could not be taken along.
    #[error("cannot copy {}: {source}", path.display())]
    #[diagnostic(
        code(merge::copy),
        help("what was merged so far is not whole: remove its folder, make room, and merge again")
    )]
    Copy {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
}

/// Most missing shards that are named.
const MOST_NAMED: usize = 10;

fn are(missing: u32) -> String {
    match missing {
        1 => "1 is".to_owned(),
        _ => format!("{missing} are"),
    }
}

/// The first of so many numbers; dots stand for the others.
fn list(first: &[u32], of: u32) -> String {
    let texts: Vec<String> = first.iter().map(u32::to_string).collect();
    let dots = if first.len() < of as usize {
        ", ..."
    } else {
        ""
    };
    texts.join(", ") + dots
}

/// A run that is to be merged.
struct Source {
    folder: PathBuf,
    head: RunStarted,
    /// Place of each of its plans in the merged run.
    places: Vec<u32>,
}

/// Merges runs into a new folder below `reports`. With `mixed`, the kernel or host under test may
/// differ; the facts then say so.
pub fn merge(folders: &[PathBuf], reports: &Path, mixed: bool) -> Result<RunFolder, MergeError> {
    let mut sources = folders
        .iter()
        .map(|folder| open(folder))
        .collect::<Result<Vec<_>, _>>()?;
    alike(&sources, mixed)?;
    parts::whole(&sources)?;
    let plans = parts::arrange(&mut sources)?;
    let target = RunFolder::create(reports)?;
    let journal = target.begin(head(&sources, plans, &target))?;
    let mut end = End::default();
    for source in &sources {
        copy(source, &target, &journal, &mut end)?;
    }
    journal.write(&Event::RunEnded {
        verdict: end.verdict.unwrap_or(Verdict::Skip),
        interrupted: end.interrupted,
        stopped: false,
        facts: end.facts,
    })?;
    Ok(target)
}

fn open(folder: &Path) -> Result<Source, MergeError> {
    let mut recording = JournalReader::open(&folder.join(journal::FILE))?;
    let head = recording.head().clone();
    let mut finished = vec![false; head.plans.len()];
    let mut ended = false;
    while let Some(line) = recording.next_line()? {
        if let Event::RunEnded { .. } = line.event {
            ended = true;
        }
        let (Event::PlanEnded { plan, .. } | Event::PlanSkipped { plan, .. }) = line.event else {
            continue;
        };
        let index = plan.0 as usize;
        if let (Some(place), Some(name)) = (finished.get_mut(index), head.plans.get(index)) {
            *place = true;
            has_evidence(folder, name, &line.event)?;
        }
    }
    if !ended || finished.contains(&false) {
        return Err(MergeError::Unfinished {
            folder: folder.to_owned(),
        });
    }
    Ok(Source {
        folder: folder.to_owned(),
        head,
        places: Vec::new(),
    })
}

/// What a plan left must be there.
fn has_evidence(folder: &Path, name: &str, end: &Event) -> Result<(), MergeError> {
    let Event::PlanEnded {
        evidence: Some(evidence),
        ..
    } = end
    else {
        return Ok(());
    };
    let path = folder.join(evidence);
    match fs::read_dir(&path) {
        Ok(_) => Ok(()),
        Err(source) => Err(MergeError::Evidence {
            name: name.to_owned(),
            path,
            source,
        }),
    }
}

/// Properties that must be equal for results to be comparable.
fn tested(head: &RunStarted) -> Vec<(String, String)> {
    let mut tested = vec![
        ("tdxlab".to_owned(), head.tdxlab.clone()),
        ("host".to_owned(), head.host.name().to_owned()),
        ("design".to_owned(), head.design.clone()),
        (
            "seed".to_owned(),
            head.seed.map_or("none".to_owned(), |seed| seed.to_string()),
        ),
    ];
    // Which warnings had fired is of the machine's past.
    let facts = head.facts.iter().filter(|(name, _)| name != ONE_SHOT);
    tested.extend(facts.cloned());
    tested
}

fn alike(sources: &[Source], mixed: bool) -> Result<(), MergeError> {
    let first = sources.first().ok_or(MergeError::Nothing)?;
    if mixed {
        return Ok(());
    }
    let wanted: BTreeMap<String, String> = tested(&first.head).into_iter().collect();
    for other in &sources[1..] {
        let found: BTreeMap<String, String> = tested(&other.head).into_iter().collect();
        let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
        for name in names {
            if wanted.get(name) != found.get(name) {
                let say = |value: Option<&String>| value.cloned().unwrap_or("nothing".to_owned());
                return Err(MergeError::Differ {
                    first: first.folder.clone(),
                    second: other.folder.clone(),
                    what: name.clone(),
                    one: say(wanted.get(name)),
                    other: say(found.get(name)),
                });
            }
        }
    }
    Ok(())
}

/// Adds facts of another run: each name once, with every value that it has in any.
fn unite(facts: &mut Vec<(String, String)>, more: &[(String, String)]) {
    for (name, value) in more {
        match facts.iter_mut().find(|(known, _)| known == name) {
            None => facts.push((name.clone(), value.clone())),
            Some((_, known)) if known.split(" | ").any(|one| one == value) => {}
            Some((_, known)) => *known = format!("{known} | {value}"),
        }
    }
}

fn head(sources: &[Source], plans: Vec<String>, target: &RunFolder) -> RunStarted {
    let first = &sources[0].head;
    let mut facts = Vec::new();
    for source in sources {
        unite(&mut facts, &source.head.facts);
    }
    let mut designs: Vec<&str> = sources
        .iter()
        .map(|source| source.head.design.as_str())
        .collect();
    designs.dedup();
    let started = sources.iter().map(|source| &source.head.started).min();
    let allowed_log = sources.iter().flat_map(|source| &source.head.allowed_log);
    let allowed_log: BTreeSet<String> = allowed_log.cloned().collect();
    RunStarted {
        version: journal::VERSION,
        tdxlab: first.tdxlab.clone(),
        run: target.name().to_owned(),
        started: started.cloned().unwrap_or_default(),
        command: command_line(),
        host: first.host,
        profile: first.profile,
        host_reason: after_rehearsal(&facts, format!("merged from {} runs", sources.len())),
        facts,
        fault: sources.iter().find_map(|source| source.head.fault.clone()),
        design: designs.join(" | "),
        seed: first.seed,
        jobs: sources
            .iter()
            .fold(0, |jobs, source| jobs.saturating_add(source.head.jobs)),
        plans,
        paths: first.paths.clone(),
        allowed_log: allowed_log.into_iter().collect(),
        part: None,
        repeat: first.repeat,
        merged: sources
            .iter()
            .map(|source| source.head.run.clone())
            .collect(),
    }
}

#[derive(Default)]
struct End {
    verdict: Option<Verdict>,
    interrupted: bool,
    facts: Vec<(String, String)>,
}

/// Appends the events of a run under their new places, and takes its files along.
fn copy(
    source: &Source,
    target: &RunFolder,
    journal: &journal::Journal,
    end: &mut End,
) -> Result<(), MergeError> {
    let mut recording = JournalReader::open(&source.folder.join(journal::FILE))?;
    // A run that was interrupted and resumed has several ends, of which the last one counts.
    let mut interrupted_last = false;
    let mut facts_last = Vec::new();
    while let Some(line) = recording.next_line()? {
        let mut event = line.event;
        if let Event::RunEnded {
            verdict,
            interrupted,
            stopped: _,
            facts,
        } = event
        {
            facts_last = facts;
            end.verdict = Some(end.verdict.map_or(verdict, |so_far| so_far.and(verdict)));
            interrupted_last = interrupted;
            continue;
        }
        let Some(plan) = event.plan_mut() else {
            continue;
        };
        let old = plan.0 as usize;
        let (Some(place), Some(name)) = (source.places.get(old), source.head.plans.get(old)) else {
            continue;
        };
        *plan = PlanId(*place);
        let id = *plan;
        if let Event::PlanEnded {
            evidence: Some(evidence),
            ..
        } = &mut event
        {
            let to = RunFolder::of_plan(id, name);
            copy_files(&source.folder.join(&*evidence), &target.path().join(&to))?;
            *evidence = to;
        }
        journal.write_at(line.at, &event)?;
    }
    end.interrupted |= interrupted_last;
    unite(&mut end.facts, &facts_last);
    Ok(())
}

/// Copies plain files only: the evidence of a scenario has no folders.
fn copy_files(from: &Path, to: &Path) -> Result<(), MergeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| MergeError::Copy { path, source }
    };
    fs::create_dir_all(to).map_err(failed(to))?;
    for file in fs::read_dir(from).map_err(failed(from))? {
        let file = file.map_err(failed(from))?;
        let path = file.path();
        if file.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::copy(&path, to.join(file.file_name())).map_err(failed(&path))?;
        }
    }
    Ok(())
}
