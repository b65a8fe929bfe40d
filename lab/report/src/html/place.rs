//! Addresses as the scenario's author knows them: offsets into test memory.

use tdxlab_plan::text::size;
use tdxlab_protocol::addr::{Gpa, GpaRange};

/// Formats addresses of one guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    base: Gpa,
}

impl Place {
    pub(super) fn new(memory: GpaRange) -> Place {
        Place {
            base: memory.start(),
        }
    }

    /// `1M+4K`; an address below test memory stays a GPA.
    pub(super) fn offset(&self, gpa: Gpa) -> String {
        match gpa.checked_sub(self.base) {
            Some(bytes) => size(bytes),
            None => gpa.to_string(),
        }
    }

    /// `1M..11M`.
    pub(super) fn range(&self, range: GpaRange) -> String {
        format!(
            "{}..{}",
            self.offset(range.start()),
            self.offset(range.end())
        )
    }
}
