//! Journals, complete and truncated.

use tdxlab_journal::{JournalError, JournalReader, Verdict};

use super::*;

#[test]
fn a_journal_cut_anywhere_gives_every_complete_event() {
    let finished = Setup::of(Script::PunchFails).run(&[plan("punch/a", vec![punch(), punch()])]);
    let whole = fs::read(finished.folder.join(journal::FILE)).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let cut_path = finished.folder.join("cut.jsonl");
    for length in 0..whole.len() {
        fs::write(&cut_path, &whole[..length]).unwrap();
        match report::from_journal(&cut_path) {
            Ok(report) => {
                assert!(length >= first);
                let complete = whole[..length].iter().filter(|b| **b == b'\n').count();
                assert_eq!(report.complete, complete == 13, "{length}");
                let judged = report.scenarios[0]
                    .steps
                    .iter()
                    .filter(|step| step.verdict.is_some())
                    .count();
                assert_eq!(
                    judged,
                    usize::from(complete >= 7) + usize::from(complete >= 10)
                );
                assert_ne!(report.verdict, Verdict::Pass);
            }
            Err(error) => assert!(length < first, "{error}"),
        }
    }
}

#[test]
fn a_journal_of_another_version_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(journal::FILE);
    fs::write(
        &path,
        "{\"event\":{\"run_started\":{\"version\":99,\"new\":1}}}\n",
    )
    .unwrap();
    let error = JournalReader::open(&path).unwrap_err();
    assert!(
        matches!(error, JournalError::Version { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn a_line_that_is_no_event_is_named_by_its_number() {
    let finished = Setup::of(Script::Right).run(&[plan("punch/a", vec![punch()])]);
    let path = finished.folder.join(journal::FILE);
    let mut text = fs::read_to_string(&path).unwrap();
    text += "{\"at\":1,\"event\":\"nonsense\"}\n";
    let lines = text.lines().count();
    fs::write(&path, text).unwrap();
    let error = report::from_journal(&path).unwrap_err();
    assert!(
        error.to_string().contains(&format!("line {lines},")),
        "{error}"
    );
}
