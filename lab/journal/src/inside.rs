//! Paths that a journal names.

use std::path::{Component, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Reads a path that a journal names below its run's folder. A journal may come from anybody, and what
/// it names is shown and copied, so it must not lead to other files of the reader.
pub(super) fn inside<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = Option::<PathBuf>::deserialize(from)?;
    let stays = |part| matches!(part, Component::Normal(_));
    match path {
        Some(path) if !path.components().all(stays) => Err(D::Error::custom(format!(
            "{} leads out of the run's folder",
            path.display()
        ))),
        path => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_journal_names_lies_inside_its_run() {
        let read = |path: &str| inside(&mut serde_json::Deserializer::from_str(path));
        assert_eq!(read("null").unwrap(), None);
        assert!(read("\"scenarios/0000-punch-edges\"").is_ok());
        for out in ["/etc", "../other", "scenarios/../../other"] {
            let error = read(&format!("{out:?}")).unwrap_err().to_string();
            assert!(error.contains(out), "{error}");
        }
    }
}
