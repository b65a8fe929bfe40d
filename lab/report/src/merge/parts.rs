//! Whether runs fit together, and the place of each plan in the merged run.
//!
//! What a shard says of its places comes from a file: nothing is made room for by it, and a plan that would
//! be lost or put in another's place is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tdxlab_journal::journal::Part;

use super::{MOST_NAMED, MergeError, Source};

/// Either no run is a shard, or they are all shards of one run, and every one is there.
pub(super) fn whole(sources: &[Source]) -> Result<(), MergeError> {
    let first = sources.first().ok_or(MergeError::Nothing)?;
    if let Some(other) = sources.iter().find(|other| cut(other) != cut(first)) {
        return Err(MergeError::Cut {
            first: first.folder.clone(),
            second: other.folder.clone(),
            one: say(first),
            other: say(other),
        });
    }
    let Some((count, _)) = cut(first) else {
        return Ok(());
    };
    let given: BTreeSet<u32> = sources
        .iter()
        .filter_map(|source| Some(source.head.part.as_ref()?.shard.index()))
        .collect();
    let missing = (1..=count).filter(|index| !given.contains(index));
    match count - u32::try_from(given.len()).unwrap_or(count) {
        0 => Ok(()),
        number => Err(MergeError::MissingShards {
            count,
            missing: number,
            first: missing.take(MOST_NAMED).collect(),
        }),
    }
}

/// Into how many shards the run was cut, and how many plans those have together.
fn cut(source: &Source) -> Option<(u32, u32)> {
    let part = source.head.part.as_ref()?;
    Some((part.shard.count(), part.of_plans))
}

fn say(source: &Source) -> String {
    match &source.head.part {
        Some(part) => format!("shard {} of a run of {} plans", part.shard, part.of_plans),
        None => "a whole run".to_owned(),
    }
}

/// Gives every plan its place: that of the whole run for shards, one run after the other else.
pub(super) fn arrange(sources: &mut [Source]) -> Result<Vec<String>, MergeError> {
    let mut plans: BTreeMap<u32, (String, PathBuf)> = BTreeMap::new();
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut next = 0;
    for source in sources.iter_mut() {
        source.places = match &source.head.part {
            Some(part) => places(source, part)?,
            None => (next..).take(source.head.plans.len()).collect(),
        };
        for (place, name) in source.places.iter().zip(&source.head.plans) {
            next += 1;
            if let Some(first) = seen.insert(name.clone(), source.folder.clone()) {
                return Err(MergeError::Twice {
                    first,
                    second: source.folder.clone(),
                    name: name.clone(),
                });
            }
            let here = (name.clone(), source.folder.clone());
            if let Some((other, folder)) = plans.insert(*place, here) {
                let folder = folder.display();
                return Err(wrong(
                    source,
                    format!("{name} has place {place}, which {other} has in {folder}"),
                ));
            }
        }
    }
    if let Some(source) = sources.first() {
        filled(source, plans.len())?;
    }
    Ok(plans.into_values().map(|(name, _)| name).collect())
}

/// The places of the plans of a shard: one for each, inside the run.
fn places(source: &Source, part: &Part) -> Result<Vec<u32>, MergeError> {
    let (plans, places) = (source.head.plans.len(), part.places.len());
    if plans != places {
        let what = format!("it has {plans} plans, and places for {places}");
        return Err(wrong(source, what));
    }
    match part.places.iter().find(|place| **place >= part.of_plans) {
        Some(beyond) => {
            let all = part.of_plans;
            let what = format!("it has a plan at place {beyond}, and the run has {all} plans");
            Err(wrong(source, what))
        }
        None => Ok(part.places.clone()),
    }
}

/// All shards together have all plans of the run. They were compared, so any of them can say how many.
fn filled(source: &Source, plans: usize) -> Result<(), MergeError> {
    match &source.head.part {
        Some(part) if part.of_plans as usize != plans => {
            let all = part.of_plans;
            let what = format!("it says that the run has {all} plans, and all shards have {plans}");
            Err(wrong(source, what))
        }
        Some(_) | None => Ok(()),
    }
}

fn wrong(source: &Source, what: String) -> MergeError {
    MergeError::Part {
        folder: source.folder.clone(),
        what,
    }
}
