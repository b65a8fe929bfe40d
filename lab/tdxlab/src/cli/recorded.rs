//! Reads the report of a run from its folder.

use std::path::Path;

use tdxlab_journal::journal;
use tdxlab_report::{self as report, Report};

use super::error::CliError;

/// The report of what the journal in `folder` holds.
pub(super) fn read(folder: &Path) -> Result<Report, CliError> {
    Ok(report::from_journal(&folder.join(journal::FILE))?)
}
