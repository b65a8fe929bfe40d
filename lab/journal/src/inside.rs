//! Paths in a journal.

use std::path::{Component, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Reads a path below the folder of a run. A journal is untrusted, and files it names are shown and
/// copied, so a path must not lead out of the folder.
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
