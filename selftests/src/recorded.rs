//! Reports of runs, read back and compared.

use std::path::Path;

use tdxlab::report::Report;

/// The report of a run's folder.
pub fn report_of(folder: &Path) -> Report {
    let text = std::fs::read(folder.join("report.json")).expect("a report");
    serde_json::from_slice(&text).expect("that can be read")
}

/// The part of a report that must be equal on all machines: all but times and names of runs.
pub fn timeless(mut report: Report) -> Report {
    report.run = String::new();
    report.started = String::new();
    report.command = Vec::new();
    report.host_reason = String::new();
    report.jobs = 0;
    report.micros = 0;
    for scenario in &mut report.scenarios {
        scenario.micros = 0;
        scenario.boot_micros = None;
        // Which plans meet in a guest or a QEMU depends on which are left.
        scenario.shared_guest = None;
        scenario.guests_before = 0;
        for step in &mut scenario.steps {
            step.micros = 0;
            if let Some(work) = &mut step.work {
                work.micros = None;
            }
        }
    }
    report
}
