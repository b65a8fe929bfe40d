//! The software TDX module against recorded answers of Intel's public module.
//!
//! `vectors/tdx-module.csv` has the rows, `vectors/README.md` their origin. `TDXLAB_VECTORS` names
//! another file with the same columns.

mod bench;
mod environment;
mod machine;
mod replay;
mod row;
mod words;

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::replay::{Replay, Verdict};
use crate::row::Row;

fn file() -> PathBuf {
    std::env::var_os("TDXLAB_VECTORS").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/vectors/tdx-module.csv"
            ))
        },
        PathBuf::from,
    )
}

/// Results of a file of rows.
#[derive(Default)]
struct Tally {
    rows: usize,
    equal: usize,
    differing: Vec<String>,
    inexpressible: Vec<String>,
}

impl Tally {
    fn of(rows: &[Row]) -> Tally {
        let mut tally = Tally::default();
        for case in rows.chunk_by(|a, b| a.case == b.case) {
            for (row, verdict) in case.iter().zip(Replay::of(case)) {
                tally.rows += 1;
                match verdict {
                    Verdict::Equal => tally.equal += 1,
                    Verdict::Differs(how) => tally.differing.push(format!("{row}\n{how}")),
                    Verdict::NotExpressible(why) => {
                        tally.inexpressible.push(format!("{row}\n    {why}"));
                    }
                }
            }
        }
        tally
    }
}

#[test]
fn vectors() {
    replay(&file());
}

/// What no recorded row has, worked out by reading the source.
#[test]
fn vectors_by_reading() {
    replay(&PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/vectors/by-reading.csv"
    )));
}

fn replay(path: &Path) {
    let rows = row::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!rows.is_empty(), "{} has no rows", path.display());
    let tally = Tally::of(&rows);
    // Written past the capture of the test's output, so that the count shows in every run.
    writeln!(
        std::io::stdout(),
        "{} rows, {} equal, {} differ, {} not expressible",
        tally.rows,
        tally.equal,
        tally.differing.len(),
        tally.inexpressible.len()
    )
    .expect("standard output");
    for row in tally.inexpressible.iter().take(20) {
        println!("not expressible: {row}");
    }
    let shown: Vec<&str> = tally
        .differing
        .iter()
        .take(40)
        .map(String::as_str)
        .collect();
    assert!(
        tally.differing.is_empty(),
        "{} rows of {} differ; the first of them:\n{}",
        tally.differing.len(),
        path.display(),
        shown.join("\n")
    );
    assert_eq!(tally.equal + tally.inexpressible.len(), tally.rows);
}

#[test]
fn vectors_that_are_wrong_are_noticed() {
    let rows = row::read(&PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/vectors/tdx-module.csv"
    )))
    .expect("the rows of the project");
    type Spoil = fn(&mut Row);
    let wrong: &[(&str, Spoil)] = &[
        ("M/free1/4", |row| row.rax = "0xc0000b0d00000001".to_owned()),
        ("M/free1/4", |row| row.state_after = "1:4".to_owned()),
        ("M/free1/5", |row| row.out_rdx = "0x2".to_owned()),
        ("M/none3/0", |row| row.eeq = "0x0000001800000001".to_owned()),
        ("M/none3/24", |row| row.exit_qual = "0x2".to_owned()),
        ("M/p4/24", |row| row.vector = "8".to_owned()),
    ];
    for (case, spoil) in wrong {
        let mut rows: Vec<Row> = rows
            .iter()
            .filter(|row| row.case == *case)
            .cloned()
            .collect();
        assert!(!rows.is_empty(), "no case {case}");
        assert!(Tally::of(&rows).differing.is_empty(), "{case} as it is");
        rows.iter_mut().for_each(spoil);
        assert!(!Tally::of(&rows).differing.is_empty(), "{case}, spoilt");
    }
}
