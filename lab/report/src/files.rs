//! Writes the files of a report, each whole or not at all.

use std::path::Path;

use tdxlab_journal::folder::{FolderError, write_whole};
use tdxlab_journal::journal;

use super::timeline::Pictures;
use super::{Report, html, junit, ktap};

/// Names of the files [`write_all`] makes beside the journal.
pub const REPORT_FILES: [&str; 4] = ["report.json", "junit.xml", "results.ktap", "report.html"];

/// Writes every format into the folder of the run: also those after one that could not be written, which
/// is the error.
pub fn write_all(report: &Report, folder: &Path) -> Result<(), FolderError> {
    let pictures = Pictures::from_journal(&folder.join(journal::FILE))?;
    let json = serde_json::to_vec_pretty(report).unwrap_or_default();
    let contents = [
        json,
        junit::render(report, folder).into_bytes(),
        ktap::render(report).into_bytes(),
        html::render(report, &pictures, folder, None).into_bytes(),
    ];
    let files = REPORT_FILES.iter().zip(contents);
    let written = files.map(|(name, content)| write_whole(&folder.join(name), &content));
    written.fold(Ok(()), Result::and)
}
