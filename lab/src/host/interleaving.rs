//! The order in which racing operations took turns, so that it can be taken again.
//!
//! Written for people: one line for each round, first the branches that take part, then who was let
//! advance. `0 1: v0*2 h v1 h~57` is a round of branches 0 and 1 in which vCPU 0 advanced twice, then
//! the host call, then vCPU 1, then the host call again, 57 microseconds later, while a vCPU was
//! at work by itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::plan::VcpuId;

/// Most turns kept of one step. A race that takes more is followed up to there.
pub const MAX_TURNS: usize = 1 << 16;

/// What a line that is left out looks like.
const CUT: &str = "...";

/// The order of one parallel step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interleaving {
    /// Rounds, one after the other.
    pub rounds: Vec<Round>,
    /// Whether there were more turns than are kept.
    pub cut: bool,
    turns: usize,
}

/// Operations that were started together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The branches that did their next operation, in the order in which they were started.
    pub branches: Vec<u16>,
    /// Who was let advance, turn after turn.
    pub turns: Vec<Turn>,
}

/// One stage of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose.
    pub who: Who,
    /// Microseconds after the turn before, where a vCPU was at work by itself meanwhile.
    pub pause: Option<u32>,
}

/// Who was let advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The request of a vCPU.
    Vcpu(VcpuId),
    /// The call of the host.
    Host,
}

impl Interleaving {
    /// A round begins.
    pub fn begin(&mut self, branches: impl IntoIterator<Item = usize>) {
        if self.turns >= MAX_TURNS {
            self.cut = true;
        }
        if !self.cut {
            let index = |branch| u16::try_from(branch).unwrap_or(u16::MAX);
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
