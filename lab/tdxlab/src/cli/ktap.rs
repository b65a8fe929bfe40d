//! `--ktap`: results on stdout during a run.

use parking_lot::Mutex;
use tdxlab_journal::PlanId;
use tdxlab_journal::journal::{Event, JournalError};
use tdxlab_report::ktap_stream::KtapStream;
use tdxlab_run::EventSink;

use super::output;

/// Prints the results of plans as they end.
pub(super) struct KtapOnStdout(Mutex<KtapStream>);

impl KtapOnStdout {
    /// Prints the head of a run of these plans.
    pub(super) fn new(plans: Vec<(PlanId, String)>) -> KtapOnStdout {
        let mut stream = KtapStream::default();
        output::print(stream.start(plans));
        KtapOnStdout(Mutex::new(stream))
    }
}

impl EventSink for KtapOnStdout {
    fn write(&self, event: &Event) -> Result<(), JournalError> {
        // Printed under the lock: lines of two workers must not change places.
        let mut stream = self.0.lock();
        let text = stream.take(event);
        if !text.is_empty() {
            output::print(text);
        }
        Ok(())
    }
}
