//! Reads single values of a file, and collects errors with their positions.

use std::ops::Range;

use super::error::{MAX_PROBLEMS, Problem};
use super::scalar::{Kind, Scalar};
use super::vars::{Fault, Vars};
use super::yaml::Node;

/// The variables of one variant and all that was found wrong so far.
pub(super) struct Reader<'a> {
    source: &'a str,
    pub(super) vars: Vars,
    /// The variant being read, as in the plan's name; empty if there is only one.
    pub(super) variant: String,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a str) -> Reader<'a> {
        Reader {
            source,
            vars: Vars::default(),
            variant: String::new(),
            problems: Vec::new(),
        }
    }

    /// The value of `scalar` at `node`; `None` after reporting an error.
    pub(super) fn get<K: Kind>(&mut self, scalar: &Scalar<K>, node: &Node) -> Option<K::Value> {
        // Uses the text as written, not YAML's type: `1.0` is not `1`, `True` not `true`.
        let text = node.text().unwrap_or(scalar.text());
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
    /// the variant.
    pub(super) fn wrong(&mut self, node: &Node, message: String, label: &str, help: String) {
        let depends = node.text().is_some_and(|text| text.contains('$'));
        let message = match depends && !self.variant.is_empty() {
            true => format!("{message} (in `[{}]`)", self.variant),
            false => message,
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
