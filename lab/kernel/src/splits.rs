//! Split events of this machine's kernel as they happen: a tracefs instance in which the event is on.

use std::path::Path;

use tdxlab_journal::{Reading, SplitEvent};

use crate::instance::Instance;
use crate::returned::Returns;
use crate::trace_lines::NoMark;
use crate::tracefs::{SPLIT_EVENT, TraceReader};

/// The split events of the threads that are followed; of all threads before any is.
#[derive(Debug)]
pub struct Splits {
    // Dropped in this order: the kernel removes no instance that is being read.
    reader: TraceReader,
    instance: Instance,
}

impl Splits {
    /// Begins to record. `root` is that of tracefs; with `threads`, see [`Splits::follow`].
    ///
    /// # Errors
    ///
    /// Missing where there is no tracefs or no such event, or where the threads that it names are not
    /// those that the lab knows; incomplete where what is recorded does not come out.
    pub fn watch(root: &Path, threads: &[u32]) -> Result<Splits, Reading<Vec<SplitEvent>>> {
        let mut splits = Splits::begin(root, threads).map_err(Reading::missing)?;
        splits.control().map_err(|why| match why {
            NoMark::Lost(reason) => Reading::incomplete(reason),
            NoMark::Elsewhere(reason) => Reading::missing(reason),
        })?;
        Ok(splits)
    }

    fn begin(root: &Path, threads: &[u32]) -> Result<Splits, String> {
        let instance = Instance::new(root)?;
        if !threads.is_empty() {
            instance.follow(threads)?;
        }
        instance.enable(&event())?;
        Ok(Splits {
            reader: TraceReader::open(instance.pipe()),
            instance,
        })
    }

    /// The positive control: the event is on, and what is written into the trace can be read back.
    /// Otherwise a missing event would pass for a missing split.
    fn control(&mut self) -> Result<(), NoMark> {
        self.instance.is_on(&event()).map_err(NoMark::Lost)?;
        self.reader.control(&self.instance)
    }

    /// Restricts the record to these threads, and to those they start from now on.
    ///
    /// # Errors
    ///
    /// The kernel has no such filter; as text.
    pub fn follow(&self, threads: &[u32]) -> Result<(), String> {
        self.instance.follow(threads)
    }

    /// Records another event, too, for [`Splits::others`].
    ///
    /// # Errors
    ///
    /// The kernel has no such event; as text.
    pub fn record(&self, event: &str) -> Result<(), String> {
        self.instance.enable(event)
    }

    /// Counts the returns of a function in the same instance.
    ///
    /// # Errors
    ///
    /// See [`Instance::probe_return`].
    pub fn probe_return(&mut self, function: &str) -> Result<Returns, String> {
        self.instance.probe_return(function)
    }

    /// The events since the previous reading.
    pub fn read(&mut self) -> Reading<Vec<SplitEvent>> {
        match self.instance.is_on(&event()) {
            Ok(()) => self.reader.splits(),
            Err(reason) => Reading::incomplete(reason),
        }
    }

    /// The lines of other events so far; `None` where there were none.
    pub fn others(&self) -> Option<String> {
        self.reader.others()
    }
}

/// The event, as tracefs calls it.
fn event() -> String {
    format!("kvmmmu/{SPLIT_EVENT}")
}
