//! One fact: what was found, what it means, and what to do.

use schemars::JsonSchema;
use serde::Serialize;

/// One thing about this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Fact {
    /// What was looked at.
    pub name: String,
    /// What was found.
    pub found: String,
    /// What it means for the lab.
    pub standing: Status,
    /// What to do about it, where something can be done.
    pub advice: Option<String>,
}

/// What a fact means for the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The lab can use it.
    Usable,
    /// The lab can go on without it, with fewer witnesses or more slowly.
    Limited,
    /// The lab cannot use it.
    Unusable,
}

impl Status {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Usable => "usable",
            Status::Limited => "limited",
            Status::Unusable => "unusable",
        }
    }

    /// The standing of that name.
    pub(super) fn named(name: &str) -> Option<Status> {
        [Status::Usable, Status::Limited, Status::Unusable]
            .into_iter()
            .find(|standing| standing.name() == name)
    }
}

impl Fact {
    pub(super) fn new(name: &str, standing: Status, found: impl Into<String>) -> Fact {
        Fact {
            name: name.to_owned(),
            found: found.into(),
            standing,
            advice: None,
        }
    }

    pub fn usable(name: &str, found: impl Into<String>) -> Fact {
        Fact::new(name, Status::Usable, found)
    }

    pub fn limited(name: &str, found: impl Into<String>) -> Fact {
        Fact::new(name, Status::Limited, found)
    }

    pub fn unusable(name: &str, found: impl Into<String>) -> Fact {
        Fact::new(name, Status::Unusable, found)
    }

    pub fn advise(self, advice: impl Into<String>) -> Fact {
        Fact {
            advice: Some(advice.into()),
            ..self
        }
    }
}
