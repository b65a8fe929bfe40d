//! All mappings as text, for debugging.

use std::fmt::Write;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_tdxmodule::{PhysicalMemory, SHARED_BIT, State};

use super::Kvm;

/// Bound on the lines printed.
const MOST_LINES: usize = 10_000;

/// Leaves that follow each other and are alike.
struct Run {
    range: GpaRange,
    level: PageLevel,
    state: State,
}

impl<M: PhysicalMemory> Kvm<M> {
    /// Private leaves as the S-EPT has them, then the shared ranges; alike ones on one line.
    pub(crate) fn describe_memory(&self) -> String {
        let mut text = String::new();
        let mut lines = 0;
        let mut run: Option<Run> = None;
        let mut rest = GpaRange::new(Gpa::new(0), Gpa::new(SHARED_BIT)).unwrap_or_default();
        while let Some(leaf) = self.mirror.next_leaf(rest) {
            let page = leaf.range();
            let state = self.hardware.state(leaf.gpa);
            match &mut run {
                Some(run)
                    if run.level == leaf.level
                        && run.state == state
                        && run.range.end() == page.start() =>
                {
                    run.range = GpaRange::new(run.range.start(), page.end()).unwrap_or(run.range);
                }
                _ => {
                    print(&mut text, run.take());
                    lines += 1;
                    run = Some(Run {
                        range: page,
                        level: leaf.level,
                        state,
                    });
                }
            }
            if lines > MOST_LINES {
                text.push_str("... more\n");
                break;
            }
            rest = match GpaRange::new(page.end(), rest.end()) {
                Some(rest) => rest,
                None => break,
            };
        }
        print(&mut text, run);
        for range in self.shared.iter().take(MOST_LINES) {
            let _ = writeln!(text, "{range} shared");
        }
        text
    }
}

fn print(text: &mut String, run: Option<Run>) {
    if let Some(Run {
        range,
        level,
        state,
    }) = run
    {
        let _ = writeln!(text, "{range} {level} {state:?}");
    }
}
