//! Runs the rows of one case, and compares.

use tdxlab_tdxmodule::ModuleVersion;

use crate::bench::{Bench, Did, Options};
use crate::row::Row;
use crate::words::Gap;

/// Result of a row.
pub(crate) enum Verdict {
    Equal,
    Differs(String),
    NotExpressible(String),
}

/// Cases run for several versions of the module.
pub(crate) struct Replay;

impl Replay {
    /// One verdict for each row. A row of several versions must be equal under each.
    pub(crate) fn of(case: &[Row]) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = case.iter().map(|_| Verdict::Equal).collect();
        for version in [ModuleVersion::V1_5_01, ModuleVersion::V1_5_25] {
            let mut bench = None;
            for (at, row) in case.iter().enumerate() {
                if row.module != "both" && row.module != version.name() {
                    continue;
                }
                let verdict = match run(&mut bench, &case[..at], row, version) {
                    Ok(did) => compare(row, &did, version),
                    Err(gap) => Verdict::NotExpressible(gap.0),
                };
                if matches!(verdicts[at], Verdict::Equal) {
                    verdicts[at] = verdict;
                }
            }
        }
        verdicts
    }
}

/// Runs a row after its setup, or after the rows before it.
fn run(
    bench: &mut Option<Bench>,
    before: &[Row],
    row: &Row,
    version: ModuleVersion,
) -> Result<Did, Gap> {
    if !row.setup.is_empty() || bench.is_none() {
        let options = Options::parse(&row.options)?;
        let mut fresh = Bench::new(version, options);
        for step in row.setup.split(';').filter(|step| !step.is_empty()) {
            fresh.perform(&step.split_whitespace().collect::<Vec<_>>())?;
        }
        *bench = Some(fresh);
    } else if row.setup.is_empty() {
        let steps_left_out = before.last().is_some_and(|last| row.step > last.step + 1);
        if steps_left_out {
            fill_in(bench.as_mut().expect("made above"), before, row)?;
        }
    }
    let bench = bench.as_mut().expect("made above");
    bench.perform(&row.words())
}

/// Of 512 equal steps, one for each page of a 2M range, the file lists the first and the last.
fn fill_in(bench: &mut Bench, before: &[Row], last: &Row) -> Result<(), Gap> {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let end = number(&last.gpa);
    let first = before.iter().find(|row| {
        let start = number(&row.gpa);
        row.op == last.op
            && row.level == last.level
            && start.is_some_and(|start| end == Some(start + 511 * 4096))
    });
    let (Some(first), Some(end)) = (first, end) else {
        return Err(Gap(format!(
            "steps before step {} are not listed",
            last.step
        )));
    };
    let start = end - 511 * 4096;
    for page in 1..511 {
        let gpa = format!("{:#x}", start + page * 4096);
        let frame = number(&first.args).map(|frame| format!("{:#x}", frame + page * 4096));
        let mut words = vec![first.op.as_str(), &gpa, &first.level];
        words.extend(frame.as_deref());
        let did = bench.perform(&words)?;
        if did.get("rax") != "0x0000000000000000" {
            return Err(Gap(format!("{words:?} in between gave {}", did.get("rax"))));
        }
    }
    Ok(())
}

fn compare(row: &Row, did: &Did, version: ModuleVersion) -> Verdict {
    let differing: Vec<String> = row
        .results()
        .into_iter()
        .filter(|&(column, expected)| !did.is_leftover(column) && expected != did.get(column))
        .map(|(column, expected)| {
            format!(
                "    {version} {column}: Intel {expected:?}, ours {:?}",
                did.get(column)
            )
        })
        .collect();
    if differing.is_empty() {
        Verdict::Equal
    } else {
        Verdict::Differs(differing.join("\n"))
    }
}
