//! Shards that are missing, contradict each other, or lack their evidence.

use rstest::rstest;
use tdxlab_journal::journal::Part;

use super::*;
use crate::tests::{ended, head as head_of, journal, run_ended, started};

/// Two shards of a run of four plans, each with its places, below a folder.
struct Shards {
    below: tempfile::TempDir,
    heads: [RunStarted; 2],
    evidence: Option<PathBuf>,
}

impl Shards {
    fn new() -> Shards {
        let shard = |index: u32, plans: [&str; 2]| {
            let mut head = head_of(&["tdxlab", "run"], &plans);
            head.part = Some(Part {
                shard: format!("{index}/2").parse().unwrap(),
                of_plans: 4,
                places: vec![index - 1, index + 1],
            });
            head
        };
        Shards {
            below: tempfile::tempdir().unwrap(),
            heads: [shard(1, ["a/a", "a/c"]), shard(2, ["a/b", "a/d"])],
            evidence: None,
        }
    }

    fn part(&mut self, index: usize) -> &mut Part {
        self.heads[index].part.as_mut().unwrap()
    }

    fn reports(&self) -> PathBuf {
        self.below.path().join("merged")
    }

    fn write(&self, index: usize) -> PathBuf {
        let folder = self.below.path().join(format!("shard-{index}"));
        fs::create_dir_all(&folder).unwrap();
        let head = self.heads[index].clone();
        let mut events = Vec::new();
        for (plan, name) in (0..).zip(&head.plans) {
            events.push(started(plan, name));
            let mut end = ended(plan, Verdict::Pass);
            if let Event::PlanEnded { evidence, .. } = &mut end {
                evidence.clone_from(&self.evidence);
            }
            events.push(end);
        }
        events.push(run_ended(Verdict::Pass, false));
        fs::write(folder.join(journal::FILE), journal(head, events)).unwrap();
        folder
    }

    fn merge(&self) -> Result<Vec<String>, MergeError> {
        let folders = [self.write(0), self.write(1)];
        let merged = merge(&folders, &self.reports(), false)?;
        let recording = JournalReader::of_run(merged.path())?;
        Ok(recording.head().plans.clone())
    }

    /// What is said where they cannot be merged, and with what help. Nothing is written then.
    fn refused(&self) -> (String, String) {
        let error = self.merge().unwrap_err();
        assert!(!self.reports().exists(), "{error}");
        let help = error.help().map(|help| help.to_string());
        (error.to_string(), help.unwrap_or_default())
    }
}

#[test]
fn shards_that_fit_are_one_run_in_its_order() {
    let plans = Shards::new().merge().unwrap();
    assert_eq!(plans, ["a/a", "a/b", "a/c", "a/d"]);
}

#[rstest]
#[case::none(&[], "it has 2 plans, and places for 0")]
#[case::fewer(&[0], "it has 2 plans, and places for 1")]
#[case::more(&[0, 2, 3], "it has 2 plans, and places for 3")]
#[case::twice(&[0, 0], "a/c has place 0, which a/a has in ")]
#[case::of_another(&[0, 1], "a/b has place 1, which a/c has in ")]
#[case::beyond(&[0, 4], "it has a plan at place 4, and the run has 4 plans")]
#[case::far_beyond(&[0, u32::MAX], "it has a plan at place 4294967295")]
fn places_that_lose_plans_are_refused(#[case] places: &[u32], #[case] what: &str) {
    let mut shards = Shards::new();
    shards.part(0).places = places.to_vec();
    let (said, help) = shards.refused();
    assert!(said.contains("/shard-") && said.contains(what), "{said}");
    assert!(help.contains("take the original"), "{help}");
}

#[test]
fn shards_that_do_not_fill_the_run_are_refused() {
    let mut shards = Shards::new();
    shards.part(0).of_plans = 1000;
    shards.part(1).of_plans = 1000;
    let (said, _) = shards.refused();
    let what = "it says that the run has 1000 plans, and all shards have 4";
    assert!(said.contains(what), "{said}");
}

#[rstest]
#[case("1/5", "2/5", "of 5 shards, 3 are missing: 3, 4, 5")]
#[case("1/3", "3/3", "of 3 shards, 1 is missing: 2")]
#[case(
    "1/65536",
    "3/65536",
    "of 65536 shards, 65534 are missing: 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, ..."
)]
fn missing_shards_are_counted_and_the_first_named(
    #[case] one: &str,
    #[case] other: &str,
    #[case] wanted: &str,
) {
    let mut shards = Shards::new();
    shards.part(0).shard = one.parse().unwrap();
    shards.part(1).shard = other.parse().unwrap();
    assert_eq!(shards.refused().0, wanted);
}

#[test]
fn a_shard_and_a_whole_run_are_told_apart_in_words() {
    let mut shards = Shards::new();
    shards.heads[1].part = None;
    let (said, _) = shards.refused();
    assert!(
        said.contains("shard-0 is shard 1/2 of a run of 4 plans, "),
        "{said}"
    );
    assert!(said.ends_with("shard-1 is a whole run"), "{said}");
}

#[test]
fn evidence_that_is_not_there_is_named_before_anything_is_written() {
    let mut shards = Shards::new();
    shards.evidence = Some("scenarios/nothing".into());
    let (said, help) = shards.refused();
    assert!(
        said.contains("a/a") && said.contains("scenarios/nothing"),
        "{said}"
    );
    assert!(help.contains("copy the folder of that run again"), "{help}");
}
