//! Reads single values of a file, and collects errors with their positions.

use std::ops::Range;

use super::error::{MAX_PROBLEMS, Problem};
use super::picks::{Pick, Picks};
use super::scalar::{Kind, Scalar};
use super::vars::{Fault, Vars};
use super::yaml::Node;

/// Most bytes of values that are read for all plans of a file. Every variant and round reads them again.
const MAX_WORK: usize = 128 << 20;

/// The variables of one variant and all that was found wrong so far.
pub(super) struct Reader<'a> {
    source: &'a str,
    pub(super) vars: Vars,
    /// The variant being read, as in the plan's name; empty if there is only one.
    pub(super) variant: String,
    /// The drawn variables.
    pub(super) picks: Picks,
    /// What is tried for a drawn variable, in words; empty while the seed draws.
    pub(super) tried: String,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a str) -> Reader<'a> {
        Reader {
            source,
            vars: Vars::default(),
            variant: String::new(),
            picks: Picks::default(),
            tried: String::new(),
            problems: Vec::new(),
        }
    }

    /// The value of `scalar` at `node`; `None` after reporting an error.
    pub(super) fn get<K: Kind>(&mut self, scalar: &Scalar<K>, node: &Node) -> Option<K::Value> {
        // Uses the text as written, not YAML's type: `1.0` is not `1`, `True` not `true`.
        let text = node.text().unwrap_or(scalar.text());
        self.vars.count_work(text);
        K::read(text, &self.vars)
            .map_err(|fault| self.fault(fault, node))
            .ok()
    }

    /// Like [`Reader::get`], with a default for a missing key.
    pub(super) fn get_or<K: Kind>(
        &mut self,
        scalar: Option<&Scalar<K>>,
        node: &Node,
        absent: K::Value,
    ) -> Option<K::Value> {
        match scalar {
            Some(scalar) => self.get(scalar, node),
            None => Some(absent),
        }
    }

    /// Like [`Reader::get`] for an optional key. Outer `None`: an error has been reported.
    pub(super) fn get_if<K: Kind>(
        &mut self,
        scalar: Option<&Scalar<K>>,
        node: &Node,
    ) -> Option<Option<K::Value>> {
        match scalar {
            Some(scalar) => self.get(scalar, node).map(Some),
            None => Some(None),
        }
    }

    fn fault(&mut self, fault: Fault, node: &Node) {
        let span = node.part(self.source, &fault.at);
        self.push(Problem {
            help: fault.help,
            ..Problem::new(span, fault.message, fault.label)
        });
    }

    /// Reports a problem with the value at `node`. If it depends on variables, the message names
    /// the variant, and the value that is tried.
    pub(super) fn wrong(&mut self, node: &Node, message: String, label: &str, help: String) {
        let depends = node.text().is_some_and(|text| text.contains('$'));
        let message = match (self.variant.as_str(), self.tried.as_str()) {
            _ if !depends => message,
            ("", "") => message,
            ("", tried) => format!("{message} (where {tried})"),
            (variant, "") => format!("{message} (in `[{variant}]`)"),
            (variant, tried) => format!("{message} (in `[{variant}]`, where {tried})"),
        };
        self.push(Problem::new(node.span.clone(), message, label).help(help));
    }

    /// Reports a problem.
    pub(super) fn push(&mut self, problem: Problem) {
        // The same text is read again for every variant and round.
        let told = |known: &Problem| known.span == problem.span && known.label == problem.label;
        if self.problems.len() < MAX_PROBLEMS && !self.problems.iter().any(told) {
            self.problems.push(problem);
        }
    }

    /// Takes this value of a drawn variable from now on, or again what is drawn.
    pub(super) fn attempt(&mut self, pick: Option<Pick>) {
        self.picks.take(pick);
        self.tried.clear();
    }

    /// `None` if there is no point in reading on: enough was wrong, or too much is to be read, which is
    /// reported at `node`.
    pub(super) fn goes_on(&mut self, node: &Node) -> Option<()> {
        if self.vars.work() > MAX_WORK {
            let message = "the values of all plans together are too long to be read".to_owned();
            let help = "sweep or repeat less, or write shorter values".to_owned();
            // Where something is wrong, that is what makes it long.
            if self.is_clean() {
                self.push(at(&node.span, message, "too much by here", help));
            }
            return None;
        }
        (self.problems.len() < MAX_PROBLEMS).then_some(())
    }

    /// Whether no problem was reported.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// All that was wrong.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// A problem at a place that is no single value.
pub(super) fn at(span: &Range<usize>, message: String, label: &str, help: String) -> Problem {
    Problem::new(span.clone(), message, label).help(help)
}
