//! Variables, their names, and faults in a piece of text.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

use indexmap::IndexMap;

/// The variables that `cases`, `matrix`, `draw` and `repeat` have given a value, and which of
/// them were used.
#[derive(Debug, Default)]
pub(super) struct Vars {
    values: IndexMap<String, String>,
    used: RefCell<BTreeSet<String>>,
    /// Bytes of values that were read.
    work: Cell<usize>,
}

impl Vars {
    /// Gives `name` the value `text`.
    pub(super) fn set(&mut self, name: &str, text: String) {
        self.values.insert(name.to_owned(), text);
    }

    /// Takes `name` out of scope.
    pub(super) fn unset(&mut self, name: &str) {
        self.values.shift_remove(name);
    }

    /// Takes all variables out of scope.
    pub(super) fn clear(&mut self) {
        self.values.clear();
    }

    /// Whether `name` has a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether `name` was used.
    pub(super) fn was_used(&self, name: &str) -> bool {
        self.used.borrow().contains(name)
    }

    /// Forgets that `name` was used: another variable of that name begins.
    pub(super) fn forget_use(&mut self, name: &str) {
        self.used.get_mut().remove(name);
    }

    /// Counts that `text` is read.
    pub(super) fn count_work(&self, text: &str) {
        self.work.set(self.work.get().saturating_add(text.len()));
    }

    /// Bytes of values that were read.
    pub(super) fn work(&self) -> usize {
        self.work.get()
    }

    /// The value of `name`, which counts as used.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?;
        self.used.borrow_mut().insert(name.to_owned());
        Some(value)
    }

    /// The value of the variable that is all of `text`, or `text` itself.
    pub(super) fn resolve<'a>(&'a self, text: &'a str) -> Result<&'a str, Fault> {
        let trimmed = text.trim();
        let resolved = match whole_variable(trimmed) {
            Some(name) => self
                .get(name)
                .ok_or_else(|| self.unknown(name, 0..text.len()))?,
            None => text,
        };
        self.count_work(resolved);
        Ok(resolved)
    }

    /// The fault for an unknown `name`, with a suggestion.
    pub(super) fn unknown(&self, name: &str, at: Range<usize>) -> Fault {
        let names: Vec<&str> = self.values.keys().map(String::as_str).collect();
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `${near}`?"),
            None if names.is_empty() => {
                "variables come from `cases`, `matrix`, `draw` or the `as` of a `repeat`".to_owned()
            }
            None => format!("known here: ${}", names.join(", $")),
        };
        Fault::new(at, format!("there is no variable `${name}`"), "not defined").help(help)
    }
}

/// The name in `$name` or `${name}`, if that is the whole text.
pub(super) fn whole_variable(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('$')?;
    let name = match rest.strip_prefix('{') {
        Some(braced) => braced.strip_suffix('}')?,
        None => rest,
    };
    is_name(name).then_some(name)
}

/// Whether `name` can be the name of a variable.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Longest word that is compared with others.
const LONGEST_WORD: usize = 100;

/// The candidate most similar to `word`, if any is.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .filter(|_| word.len() <= LONGEST_WORD)
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// An error in a piece of text, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Bytes of the text at fault.
    pub(super) at: Range<usize>,
    /// The error.
    pub(super) message: String,
    /// Label of the underlined text.
    pub(super) label: String,
    /// The suggestion.
    pub(super) help: Option<String>,
}

impl Fault {
    pub(super) fn new(
        at: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Fault {
        Fault {
            at,
            message: message.into(),
            label: label.into(),
            help: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }
}
