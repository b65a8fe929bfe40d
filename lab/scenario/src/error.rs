//! Errors in a scenario file, written for its author.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, NamedSource, SourceSpan};

use super::excerpt::{self, Excerpt};

/// Bound on the problems reported per file.
pub(super) const MAX_PROBLEMS: usize = 50;

/// Why there is no scenario. Rendered by miette: with file, line, and the text underlined.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read {}: {answer}", path.display())]
    #[diagnostic(code(scenario::unreadable))]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system call.
        answer: std::io::Error,
    },
    /// There is no such file, and no scenario of that name either.
    #[error("there is no file or folder {}, and no scenario of that name", path.display())]
    #[diagnostic(code(scenario::unknown), help("{help}"))]
    NoSuch {
        /// The path given by the user.
        path: PathBuf,
        /// The suggestion.
        help: String,
    },
    /// No scenario was found.
    #[error("no scenario in {}", path.display())]
    #[diagnostic(
        code(scenario::none),
        help("a scenario is a file that ends in .yaml; a folder stands for all of them below it")
    )]
    Nothing {
        /// The file or folder.
        path: PathBuf,
    },
    /// Only scenarios of another kind of guest were found.
    #[error("all scenarios in {} are of Linux guests", path.display())]
    #[diagnostic(
        code(scenario::of_linux),
        help("run them with `tdxlab linux`, or as TDs with `tdxlab rehearse`")
    )]
    OfLinux {
        /// The folder.
        path: PathBuf,
    },
    /// Two files have the same name, so that their results could not be told apart.
    #[error("scenario `{name}` is in two files: {} and {}", first.display(), second.display())]
    #[diagnostic(code(scenario::twice), help("give one of them another name"))]
    Twice {
        /// The name used twice.
        name: String,
        /// Where it was first.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
    /// The file is wrong, in one place or several.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Wrong(Box<Wrong>),
}

/// A file and everything that is wrong with it.
#[derive(Debug, Diagnostic)]
#[diagnostic(code(scenario::wrong))]
pub struct Wrong {
    /// The text, named by its path.
    #[source_code]
    pub(super) source: NamedSource<Excerpt>,
    /// The problems, in the order of the file; at least one.
    #[related]
    pub problems: Vec<Problem>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = self.problems.len();
        let noun = if many == 1 { "problem" } else { "problems" };
        write!(f, "scenario in {}: {many} {noun}", self.source.name())
    }
}

impl std::error::Error for Wrong {}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct Problem {
    /// The error, as one sentence without a full stop.
    pub message: String,
    /// Label of the underlined text.
    pub label: String,
    /// The text at fault.
    #[label("{label}")]
    pub span: SourceSpan,
    /// The suggestion.
    #[help]
    pub help: Option<String>,
}

impl Problem {
    pub(super) fn new(
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Problem {
        Problem {
            message: message.into(),
            label: label.into(),
            span: span.into(),
            help: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

impl ScenarioError {
    pub(super) fn wrong(path: &Path, text: &str, mut problems: Vec<Problem>) -> ScenarioError {
        problems.sort_by_key(|problem| problem.span.offset());
        problems.truncate(MAX_PROBLEMS);
        for problem in &mut problems {
            problem.span = excerpt::underlined(text, problem.span);
            problem.message = excerpt::readable(&problem.message);
            problem.help = problem.help.as_deref().map(excerpt::readable);
        }
        let name = path.display().to_string();
        ScenarioError::Wrong(Box::new(Wrong {
            source: NamedSource::new(name, Excerpt::of(text)).with_language("yaml"),
            problems,
        }))
    }
}
