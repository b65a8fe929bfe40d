//! Finds scenarios: files, folders, and the embedded default set.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tdxlab_plan::linux::LinuxPlan;

use super::error::ScenarioError;
use super::linux::{is_linux, parse_linux};
use super::read_file::parse;
use super::source::Scenario;
use super::vars::nearest;
use super::{text, yaml};

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The scenario files behind `paths`: a file is taken as it is, a folder means all `*.yaml` below
/// it except those of Linux guests. Sorted; two files with one name are an error.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ScenarioError> {
    find_of(paths, |file| !is_of_linux(file))
}

/// The same for scenarios of Linux guests.
pub fn find_linux(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ScenarioError> {
    find_of(paths, is_of_linux)
}

/// Both: those of the micro guest, and those of Linux guests.
pub fn find_all(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ScenarioError> {
    let all = find_of(paths, |_| true)?;
    Ok(all.into_iter().partition(|file| !is_of_linux(file)))
}

/// The plans of a scenario of a Linux guest. `seed` overrides that of the file.
pub fn load_linux(path: &Path, seed: Option<u64>) -> Result<Vec<LinuxPlan>, ScenarioError> {
    parse_linux(path, &text::of(path)?, seed)
}

/// Of folders, only the files that `is_wanted`.
fn find_of(paths: &[PathBuf], is_wanted: fn(&Path) -> bool) -> Result<Vec<PathBuf>, ScenarioError> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        collect(path, &mut files)?;
        if path.is_dir() {
            let below = files.split_off(before);
            let of_linux = below.iter().any(|file| is_of_linux(file));
            files.extend(below.into_iter().filter(|file| is_wanted(file)));
            if files.len() == before && of_linux {
                return Err(ScenarioError::OfLinux { path: path.clone() });
            }
        }
        if files.len() == before {
            return Err(ScenarioError::Nothing { path: path.clone() });
        }
    }
    files.sort();
    files.dedup();
    let mut names: Vec<(String, &PathBuf)> = Vec::new();
    for path in &files {
        if let Some(name) = name_in(path)? {
            names.push((name, path));
        }
    }
    names.sort();
    match names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some([(name, first), (_, second)]) => Err(ScenarioError::Twice {
            name: name.clone(),
            first: (*first).clone(),
            second: (*second).clone(),
        }),
        _ => Ok(files),
    }
}

/// The error for a path that does not exist. It may be meant as the name of a scenario.
fn no_such(path: &Path) -> ScenarioError {
    let wanted = path.to_string_lossy();
    let names = all().unwrap_or_default();
    let near = nearest(&wanted, names.iter().map(Scenario::name));
    ScenarioError::NoSuch {
        path: path.to_owned(),
        help: match near {
            Some(name) => format!("did you mean `{name}`?"),
            None => "see `tdxlab list` for the names of the default set".to_owned(),
        },
    }
}

/// The folder of scenarios that measure. They run where they are asked for.
const COST: &str = "scenarios/cost/";

/// Embedded scenarios with this name or below it: `punch/whole` is one, `punch` all of a
/// folder; a matrix point in brackets is ignored. Empty if the name is unknown.
///
/// # Errors
///
/// What is compiled in is damaged.
pub fn named(name: &str) -> Result<Vec<Scenario>, ScenarioError> {
    let name = name.split('[').next().unwrap_or(name).trim_end_matches('/');
    let all = all()?.into_iter();
    let fits = |scenario: &Scenario| {
        let rest = scenario.name().strip_prefix(name);
        !name.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    Ok(all.filter(fits).collect())
}

/// Links to folders below the first are not followed: they may lead back.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), ScenarioError> {
    let unreadable = |answer| ScenarioError::Unreadable {
        path: path.to_owned(),
        answer,
    };
    let about = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => no_such(path),
        _ => unreadable(error),
    })?;
    if !about.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        if entry.file_type().map_err(unreadable)?.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
            && path.is_file()
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file is a scenario of a Linux guest. An unreadable file counts as either; loading it
/// reports the error.
pub fn is_of_linux(path: &Path) -> bool {
    let tree = text::of(path)
        .ok()
        .and_then(|text| yaml::tree(&text, &mut Vec::new()).ok());
    tree.is_some_and(|root| is_linux(&root))
}

/// The name in a file. `None` if it cannot be found; loading the file reports the error.
fn name_in(path: &Path) -> Result<Option<String>, ScenarioError> {
    let Ok(text) = text::of(path) else {
        return Ok(None);
    };
    let tree = yaml::tree(&text, &mut Vec::new()).ok();
    Ok(tree.and_then(|root| root.key("scenario").text().map(str::to_owned)))
}

/// The default set, compiled in: what runs where no path is given. Sorted by name.
pub fn embedded() -> Result<Vec<Scenario>, ScenarioError> {
    parsed(|path| !path.starts_with(COST))
}

/// The same with all that comes with the lab.
fn all() -> Result<Vec<Scenario>, ScenarioError> {
    parsed(|_| true)
}

fn parsed(which: fn(&str) -> bool) -> Result<Vec<Scenario>, ScenarioError> {
    EMBEDDED
        .iter()
        .filter(|(path, _)| which(path))
        .map(|(path, text)| parse(Path::new(path), text))
        .collect()
}

/// The files of the default set: each path from the root of the repository, with its text.
pub fn embedded_files() -> impl Iterator<Item = (&'static Path, &'static str)> {
    EMBEDDED
        .iter()
        .filter(|(path, _)| !path.starts_with(COST))
        .map(|(path, text)| (Path::new(*path), *text))
}
