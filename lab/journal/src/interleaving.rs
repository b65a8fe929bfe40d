//! The order of turns in a race, for replay.
//!
//! The format is readable: one line per round, first its branches, then the parties in the order
//! they advanced. `0 1: v0*2 h v1 h~57` is a round of branches 0 and 1 in which vCPU 0 advanced
//! twice, then the host call, then vCPU 1, then the host call again, 57 microseconds later, while a
//! vCPU was running.
//!
//! On a real kernel only starts are known: `@57: 2` means that the next operation of branch 2 was
//! started 57 microseconds after the race began.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tdxlab_plan::VcpuId;

/// Most turns kept of one step. A race that takes more is followed up to there.
pub const MAX_TURNS: usize = 1 << 16;

/// Marks a line that is left out.
const CUT: &str = "...";

/// The order of one parallel step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interleaving {
    /// Rounds in order; empty if the host does not control the order.
    pub rounds: Vec<Round>,
    /// When operations were started, in that order; none where turns say all.
    pub starts: Vec<Start>,
    /// Whether there were more turns than are kept.
    pub cut: bool,
    turns: usize,
}

/// Operations that were started together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The branches that did their next operation, in the order in which they were started.
    pub branches: Vec<u16>,
    /// The parties in the order they advanced.
    pub turns: Vec<Turn>,
}

/// Operations that a real host started at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// When, counted from the beginning of the race.
    pub at: Duration,
    /// The branches whose next operation it was.
    pub branches: Vec<u16>,
}

/// One stage of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The party.
    pub who: Who,
    /// Microseconds since the turn before, if a vCPU was running meanwhile.
    pub pause: Option<u32>,
}

/// A party of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The request of a vCPU.
    Vcpu(VcpuId),
    /// The call of the host.
    Host,
}

impl Interleaving {
    /// Starts a round.
    pub fn begin(&mut self, branches: impl IntoIterator<Item = usize>) {
        if self.turns >= MAX_TURNS {
            self.cut = true;
        }
        if !self.cut {
            self.rounds.push(Round {
                branches: branches.into_iter().map(index).collect(),
                turns: Vec::new(),
            });
            // An empty round takes room too.
            self.turns += 1;
        }
    }

    /// A turn was taken in the round that runs.
    pub fn push(&mut self, turn: Turn) {
        if self.turns >= MAX_TURNS {
            self.cut = true;
        }
        if !self.cut
            && let Some(round) = self.rounds.last_mut()
        {
            round.turns.push(turn);
            self.turns += 1;
        }
    }

    /// Operations were started, so long after the beginning of the race.
    pub fn started(&mut self, at: Duration, branches: impl IntoIterator<Item = usize>) {
        if self.turns >= MAX_TURNS {
            self.cut = true;
        }
        if !self.cut {
            self.starts.push(Start {
                at,
                branches: branches.into_iter().map(index).collect(),
            });
            self.turns += 1;
        }
    }

    /// When the operations of a branch were started, in the order of the branch.
    pub fn starts_of(&self, branch: usize) -> Vec<Duration> {
        let branch = index(branch);
        let mine = self.starts.iter();
        mine.filter(|start| start.branches.contains(&branch))
            .map(|start| start.at)
            .collect()
    }

    /// How far apart the starts of the same operations lie at most; `None` where not the same ones
    /// were started, or none is known.
    pub fn apart(&self, other: &Interleaving) -> Option<Duration> {
        let of = |one: &Interleaving| -> Vec<(u16, Duration)> {
            let starts = one.starts.iter();
            let mut each: Vec<(u16, Duration)> = starts
                .flat_map(|start| start.branches.iter().map(|branch| (*branch, start.at)))
                .collect();
            each.sort_by_key(|(branch, _)| *branch);
            each
        };
        let (mine, theirs) = (of(self), of(other));
        let same = mine.len() == theirs.len()
            && mine
                .iter()
                .zip(&theirs)
                .all(|(one, other)| one.0 == other.0);
        let pairs = mine.iter().zip(&theirs);
        let apart = pairs.map(|(one, other)| one.1.abs_diff(other.1)).max();
        apart.filter(|_| same)
    }

    /// Whether the same operations took the same turns. How long it took between them is not
    /// compared.
    pub fn is_same_order(&self, other: &Interleaving) -> bool {
        let order = |one: &Interleaving| -> Vec<(Vec<u16>, Vec<Who>)> {
            let who = |round: &Round| round.turns.iter().map(|turn| turn.who).collect();
            let rounds = one.rounds.iter();
            rounds
                .map(|round| (round.branches.clone(), who(round)))
                .collect()
        };
        order(self) == order(other)
    }
}

fn index(branch: usize) -> u16 {
    u16::try_from(branch).unwrap_or(u16::MAX)
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branches: Vec<String> = self.branches.iter().map(u16::to_string).collect();
        write!(f, "@{}: {}", self.at.as_micros(), branches.join(" "))
    }
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Start, String> {
        let wrong = || {
            let text: String = text.chars().take(40).collect();
            format!("`{text}` is no start; they look like `@57: 2`")
        };
        let (at, branches) = text
            .strip_prefix('@')
            .and_then(|text| text.split_once(':'))
            .ok_or_else(wrong)?;
        let at: u32 = at.parse().map_err(|_| wrong())?;
        let branches = branches.split_whitespace();
        let branches: Result<Vec<u16>, _> = branches.map(str::parse).collect();
        Ok(Start {
            at: Duration::from_micros(u64::from(at)),
            branches: branches.map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.who {
            Who::Vcpu(vcpu) => write!(f, "v{}", vcpu.0)?,
            Who::Host => f.write_str("h")?,
        }
        match self.pause {
            Some(pause) => write!(f, "~{pause}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Turn {
    type Err = String;

    fn from_str(text: &str) -> Result<Turn, String> {
        let wrong = || format!("`{text}` is no turn; they look like `v0`, `h` and `h~57`");
        let (who, pause) = match text.split_once('~') {
            Some((who, pause)) => (who, Some(pause.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let who = match who.strip_prefix('v') {
            Some(index) => Who::Vcpu(VcpuId(index.parse().map_err(|_| wrong())?)),
            None if who == "h" => Who::Host,
            None => return Err(wrong()),
        };
        Ok(Turn { who, pause })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branches: Vec<String> = self.branches.iter().map(u16::to_string).collect();
        write!(f, "{}:", branches.join(" "))?;
        for same in self.turns.chunk_by(|one, other| one == other) {
            write!(f, " {}", same[0])?;
            if same.len() > 1 {
                write!(f, "*{}", same.len())?;
            }
        }
        Ok(())
    }
}

/// Reads a line, of at most `room` turns.
fn round(line: &str, room: usize) -> Result<Round, String> {
    let Some((branches, turns)) = line.split_once(':') else {
        return Err(format!(
            "`{}` is no round; they look like `0 1: v0*2 h v1`",
            line.chars().take(40).collect::<String>()
        ));
    };
    let branches = branches
        .split_whitespace()
        .map(|index| {
            let branch = index.parse();
            branch.map_err(|_| format!("`{index}` is no number of a branch"))
        })
        .collect::<Result<Vec<u16>, String>>()?;
    let mut round = Round {
        branches,
        turns: Vec::new(),
    };
    for word in turns.split_whitespace() {
        let (turn, count) = match word.split_once('*') {
            Some((turn, count)) => {
                let times = count.parse::<usize>();
                let times = times.map_err(|_| format!("`{word}`: `{count}` is no number"))?;
                (turn, times)
            }
            None => (word, 1),
        };
        let turn: Turn = turn.parse()?;
        if count > room - round.turns.len() {
            return Err(format!("more than {MAX_TURNS} turns in one step"));
        }
        round.turns.extend(std::iter::repeat_n(turn, count));
    }
    Ok(round)
}

impl Serialize for Interleaving {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut lines: Vec<String> = self.rounds.iter().map(Round::to_string).collect();
        lines.extend(self.starts.iter().map(Start::to_string));
        if self.cut {
            lines.push(CUT.to_owned());
        }
        lines.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Interleaving {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut made = Interleaving::default();
        for line in Vec::<String>::deserialize(deserializer)? {
            if line == CUT {
                made.cut = true;
                break;
            }
            if made.turns >= MAX_TURNS {
                return Err(serde::de::Error::custom(format!(
                    "more than {MAX_TURNS} turns in one step"
                )));
            }
            if line.starts_with('@') {
                made.starts
                    .push(line.parse().map_err(serde::de::Error::custom)?);
                made.turns += 1;
                continue;
            }
            let round =
                round(&line, MAX_TURNS - made.turns - 1).map_err(serde::de::Error::custom)?;
            made.turns += round.turns.len() + 1;
            made.rounds.push(round);
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(text: &str) -> Result<Interleaving, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let text = r#"["0 1: v0*2 h v1 h~57","1:","2 0: v3*7","..."]"#;
        let order = read(text).unwrap();
        assert_eq!(order.rounds.len(), 3);
        assert_eq!(order.rounds[0].turns.len(), 5);
        assert_eq!(serde_json::to_string(&order).unwrap(), text);
    }

    #[test]
    fn starts_are_compared_operation_by_operation() {
        let text = r#"["@0: 0 1","@57: 2","@4000: 0"]"#;
        let one = read(text).unwrap();
        assert_eq!(serde_json::to_string(&one).unwrap(), text);
        let micros = Duration::from_micros;
        assert_eq!(one.starts_of(0), [micros(0), micros(4000)]);
        assert_eq!(one.starts_of(2), [micros(57)]);
        // The order may change; the start times count.
        let other = read(r#"["@3: 2","@5: 0 1","@3990: 0"]"#).unwrap();
        assert_eq!(one.apart(&other), Some(micros(54)));
        let fewer = read(r#"["@0: 0 1","@57: 2"]"#).unwrap();
        assert_eq!(one.apart(&fewer), None);
        assert_eq!(
            Interleaving::default().apart(&Interleaving::default()),
            None
        );
    }

    #[test]
    fn pauses_are_no_part_of_the_order() {
        let one = read(r#"["0 1: v0 h~57"]"#).unwrap();
        let other = read(r#"["0 1: v0~3 h"]"#).unwrap();
        assert!(one.is_same_order(&other));
        assert!(!one.is_same_order(&read(r#"["0 1: h v0"]"#).unwrap()));
    }

    #[rstest]
    #[case::no_round(r#"["v0 v1"]"#)]
    #[case::no_turn(r#"["0: x"]"#)]
    #[case::no_branch(r#"["a: h"]"#)]
    #[case::no_count(r#"["0: h*"]"#)]
    #[case::no_pause(r#"["0: h~"]"#)]
    #[case::too_many(r#"["0: h*65536"]"#)]
    #[case::no_time(r#"["@x: 0"]"#)]
    #[case::no_branch_of_a_start(r#"["@3: a"]"#)]
    #[case::much_too_late(r#"["@99999999999: 0"]"#)]
    #[case::far_too_many(r#"["0: h*18446744073709551615 h*2"]"#)]
    fn what_is_wrong_is_refused(#[case] text: &str) {
        assert!(read(text).is_err());
    }

    #[test]
    fn a_race_without_end_takes_no_memory_without_end() {
        let mut order = Interleaving::default();
        order.begin([0, 1]);
        let turn = Turn {
            who: Who::Host,
            pause: None,
        };
        for _ in 0..2 * MAX_TURNS {
            order.push(turn);
        }
        order.begin([0]);
        assert!(order.cut);
        let again = serde_json::to_string(&order).unwrap();
        assert_eq!(read(&again).unwrap(), order);
    }
}
