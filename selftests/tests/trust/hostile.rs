//! Replay files and journals that were cut, edited or made up: they are rejected with an error,
//! never a panic, and no result is lost.
//!
//! `TDXLAB_HOSTILE_INPUTS` sets the number of mutated files per reader.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab::faults;
use tdxlab::host_soft::SoftwareHost;
use tdxlab::host_soft::sim::SimHost;
use tdxlab::journal::reader::JournalReader;
use tdxlab::journal::replay::{self, Replay};
use tdxlab::judge::{AllowList, rejudge};
use tdxlab::plan::Design;
use tdxlab::predict::Predictor;
use tdxlab::report::diff::Diff;
use tdxlab::report::timeline::Pictures;
use tdxlab::report::trend::Trend;
use tdxlab::report::{self, merge};
use tdxlab::run::{NoProgress, Resumable, TestCase};
use tdxlab::spec::{FinishedRun, RunSpec};
use tdxlab_selftests::command::scenario;
use tdxlab_selftests::failing::plans;

/// One in so many of them is read from a file, or judged again: each writes and reads files.
const FILES: usize = 20;

/// Default number of mutated files per reader.
const INPUTS: usize = 20_000;

/// A scenario with a race and a failure, small enough for every byte of its journal.
const SCENARIO: &str = "\
scenario: hostile/small
about: A race, a hole that does not split its head, and a look at what is left.
guest: { memory: 4M, vcpus: 2, image: [3M..3080K] }
steps:
  - accept: { range: 0..2M, level: 2M }
  - fill: 0..64K
  - parallel:
      - accept: { range: 2M..2056K, level: 4K }
      - touch: { range: 2M..2056K, vcpu: 1 }
  - convert: { range: 64K..128K, to: shared }
  - verify: { range: 0..2M, gone: ends }
";

/// A run that fails: its journal and its replay file.
struct ReplayOrigin {
    journal: Vec<u8>,
    replay: Vec<u8>,
}

static RECORDED: LazyLock<ReplayOrigin> = LazyLock::new(|| {
    let (folder, path) = scenario(SCENARIO);
    let host = SimHost::new().with_fault(faults::named("conversion-without-zap").unwrap().seeded());
    let design = Design::named("headtail").unwrap();
    let finished = RunSpec::new(&plans(&path), &host, design, &NoProgress)
        .run(folder.path())
        .unwrap();
    let read = |name: &str| fs::read(finished.folder.join(name)).unwrap();
    ReplayOrigin {
        journal: read("journal.jsonl"),
        replay: read("scenarios/0000-hostile-small/replay.json"),
    }
});

fn inputs() -> usize {
    std::env::var("TDXLAB_HOSTILE_INPUTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(INPUTS)
}

fn path() -> PathBuf {
    PathBuf::from("hostile.json")
}

fn recording(bytes: &[u8]) -> Result<JournalReader, tdxlab::journal::JournalError> {
    JournalReader::over(Cursor::new(bytes.to_vec()), &path())
}

/// Numbers that are at the end of something.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "4095",
    "4096",
    "65535",
    "4294967295",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "2199023255552",
    "1073741824",
];

/// Changes a file as an editor, a bad disk or an enemy would.
fn mutate(good: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let at = random.random_range(0..bytes.len().max(1));
        let other = random.random_range(0..bytes.len().max(1));
        match random.random_range(0..10) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << random.random_range(0..8),
            2 if !bytes.is_empty() => bytes[at] = random.random(),
            3 => {
                let end = (at + random.random_range(1..40)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            4 => {
                let end = (other + random.random_range(1..200)).min(bytes.len());
                let piece = bytes[other.min(end)..end].to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece);
            }
            // Numbers are where it hurts.
            _ => number(&mut bytes, at, random),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

/// Puts another number in place of the first one after `at`.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut ChaCha8Rng) {
    let digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = bytes.iter().skip(at).position(digit) else {
        return;
    };
    let start = at + start;
    let length = bytes[start..].iter().take_while(|byte| digit(byte)).count();
    let new = NUMBERS.choose(random).copied().unwrap_or("7");
    bytes.splice(start..start + length, new.bytes());
}

#[test]
fn mutated_replay_files_are_read_or_refused() {
    let good = &RECORDED.replay;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut read = 0;
    for _ in 0..inputs() {
        let bytes = mutate(good, &mut random);
        match Replay::from_text(&bytes, &path()) {
            Ok(replay) => {
                read += 1;
                // An accepted plan can be predicted, or the predictor reports why not.
                for design in Design::all() {
                    let mut predictor = Predictor::new(design, &replay.plan.guest);
                    for step in &replay.plan.steps {
                        if predictor.step(&step.action).is_err() {
                            break;
                        }
                    }
                }
                let again = Replay::from_text(&replay.to_text(), &path()).unwrap();
                assert_eq!(again, replay);
            }
            Err(error) => assert!(error.to_string().contains("hostile.json"), "{error}"),
        }
    }
    assert!(read > 0, "nothing was let in, so nothing was tried");
}

#[test]
fn mutated_journals_are_read_or_refused() {
    let good = &RECORDED.journal;
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut read = 0;
    for _ in 0..inputs() {
        let bytes = mutate(good, &mut random);
        match recording(&bytes).and_then(report::from_recording) {
            Ok(_) => read += 1,
            Err(error) => assert!(error.to_string().contains("hostile.json"), "{error}"),
        }
    }
    assert!(read > 0);
}

#[test]
fn mutated_evidence_is_judged_or_refused() {
    let good = &RECORDED.journal;
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let reports = tempfile::tempdir().unwrap();
    for round in 0..inputs() / FILES {
        let bytes = mutate(good, &mut random);
        let Ok(recording) = recording(&bytes) else {
            continue;
        };
        let below = reports.path().join(round.to_string());
        // In any case the lab reports an error and continues.
        let _ = rejudge(recording, None, None, AllowList::default(), &below);
        let _ = fs::remove_dir_all(&below);
    }
}

/// A run in a temporary folder, with this as its journal.
fn run_of(journal: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("journal.jsonl"), journal).unwrap();
    for name in [
        "scenarios/0000-hostile-small",
        "scenarios/0000-hostile-other",
    ] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    folder
}

/// Whether the input was accepted; a rejection names the file.
fn is_in<T, E: std::fmt::Display>(outcome: Result<T, E>, folder: &Path) -> bool {
    if let Err(error) = &outcome {
        let (said, file) = (error.to_string(), folder.display().to_string());
        assert!(said.contains(&file), "{said}");
    }
    outcome.is_ok()
}

#[test]
fn mutated_journals_are_replayed_resumed_and_merged_or_refused() {
    let good = &RECORDED.journal;
    // Runs that are merged ran different scenarios.
    let other = String::from_utf8_lossy(good)
        .replace("hostile/small", "hostile/other")
        .replace("hostile-small", "hostile-other");
    let sound = run_of(other.as_bytes());
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut let_in = [0; 4];
    for _ in 0..inputs() / FILES {
        let folder = run_of(&mutate(good, &mut random));
        let path = folder.path().join("journal.jsonl");
        if is_in(replay::from_journal(&path, None), folder.path()) {
            let_in[0] += 1;
        }
        // Not checked yet: the plans may be invalid, but must not panic.
        if is_in(replay::all(&path), folder.path()) {
            let_in[1] += 1;
        }
        // A run that is complete, or a plan that is not there any more, is refused without a name.
        if let Ok(progress) = Resumable::of(folder.path()) {
            let_in[2] += 1;
            let _ = progress.left(Vec::<TestCase>::new(), |item| (&item.plan).into());
            let _ = progress.journal();
        }
        let folders = [sound.path().to_owned(), folder.path().to_owned()];
        let reports = tempfile::tempdir().unwrap();
        if let Ok(target) = merge::merge(&folders, reports.path(), true) {
            let_in[3] += 1;
            let merged = report::from_journal(&target.path().join("journal.jsonl"));
            assert!(merged.is_ok(), "what was merged cannot be read: {merged:?}");
        }
    }
    assert!(let_in.iter().all(|count| *count > 0), "{let_in:?}");
}

#[test]
fn mutated_journals_are_compared_or_refused() {
    let good = &RECORDED.journal;
    let sound = report::from_recording(recording(good).unwrap()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut compared = 0;
    for _ in 0..inputs() / FILES {
        let bytes = mutate(good, &mut random);
        let Ok(other) = recording(&bytes).and_then(report::from_recording) else {
            continue;
        };
        compared += 1;
        for diff in [Diff::between(&sound, &other), Diff::between(&other, &sound)] {
            let _ = (diff.is_worse(), diff.is_empty());
        }
        let runs = [sound.clone(), other];
        let _ = Trend::over(runs.map(|run| (run, Pictures::default())).to_vec());
    }
    assert!(compared > 0);
}

#[test]
fn a_replay_file_cut_anywhere_says_so() {
    let good = &RECORDED.replay;
    let end = good.trim_ascii_end().len();
    for length in 0..end {
        let error = Replay::from_text(&good[..length], &path()).unwrap_err();
        assert!(
            error.to_string().contains("no replay file"),
            "{length}: {error}"
        );
    }
    Replay::from_text(&good[..end], &path()).unwrap();
}

/// Steps that a report of these bytes calls judged.
fn judged(bytes: &[u8]) -> usize {
    let report = report::from_recording(recording(bytes).unwrap()).unwrap();
    let steps = report.scenarios.iter().flat_map(|scenario| &scenario.steps);
    steps.filter(|step| step.verdict.is_some()).count()
}

#[test]
fn a_journal_cut_anywhere_gives_every_complete_step() {
    let good = &RECORDED.journal;
    let first = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut complete = 0;
    let mut line = first;
    for length in first..=good.len() {
        if good[length - 1] == b'\n' {
            let text = &good[line.min(length)..length];
            complete += usize::from(find(text, b"\"step_judged\""));
            line = length;
        }
        assert_eq!(
            judged(&good[..length]),
            complete,
            "cut after {length} bytes"
        );
    }
    assert!(complete >= 4, "{complete} steps");
    for length in 0..first {
        assert!(
            recording(&good[..length]).is_err(),
            "cut after {length} bytes"
        );
    }
}

fn find(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

#[test]
fn evidence_cut_at_every_line_is_judged_as_far_as_it_goes() {
    let good = &RECORDED.journal;
    let reports = tempfile::tempdir().unwrap();
    let ends = (1..=good.len()).filter(|length| good[length - 1] == b'\n');
    for length in ends {
        let cut = &good[..length];
        let below = reports.path().join(length.to_string());
        let finished = rejudge(
            recording(cut).unwrap(),
            None,
            None,
            AllowList::default(),
            &below,
        );
        let again = FinishedRun::of(&finished.unwrap()).unwrap().report;
        let steps = again.scenarios.iter().flat_map(|scenario| &scenario.steps);
        let now = steps.filter(|step| step.verdict.is_some()).count();
        // A step is judged again as soon as it was observed.
        assert!(now >= judged(cut), "{length}");
    }
}

#[test]
fn a_journal_of_something_else_is_no_journal() {
    for text in [
        "",
        "\n",
        "{}\n",
        "null\n",
        "[1]\n",
        "{\"at\":0}\n",
        "\u{0}\n",
    ] {
        let error = recording(text.as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("hostile.json"),
            "{text:?}: {error}"
        );
    }
    assert!(tdxlab::journal::replay::read(Path::new("/dev/zero")).is_err());
}
