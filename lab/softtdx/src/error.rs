//! Errors of building the modules, each with a remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Kernels whose KVM is known.
const KNOWN: &str = "Linux 7.2 and 7.3";

/// Why the modules could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The folder is no kernel's source.
    #[error("{tree} has no {file}: it is no kernel source, or not all of one")]
    NoKernel {
        /// The folder.
        tree: PathBuf,
        /// The file that every kernel source has.
        file: &'static str,
    },
    /// This kernel's KVM has no TDX code.
    #[error(
        "{tree} has no arch/x86/kvm/vmx/tdx.c: KVM runs TDs from Linux 6.16 on; use a newer kernel"
    )]
    NoTdx {
        /// The folder.
        tree: PathBuf,
    },
    /// Functions or macros are missing that the supported kernels have.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// A file of KVM lacks the anchor of an edit.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// All of the tree that differs.
    #[error(transparent)]
    Differs(#[from] Differs),
    /// A file of the tree is no C that can be followed.
    #[error("{file}:{line}: this starts something that does not end; is the file cut?")]
    Unfinished {
        /// The file, below the tree.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// The compiler, or make, has refused.
    #[error("the kernel's modules do not build:\n{lines}")]
    Compiler {
        /// The compiler's messages, without its progress.
        lines: Complaints,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// The operation that failed.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

/// Names that are not in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound {
    /// The file, below the tree.
    pub file: String,
    /// Functions, macros and types.
    pub names: Vec<String>,
}

impl std::error::Error for NotFound {}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no {}", self.file, self.names.join(", no "))
    }
}

/// An edit that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorError {
    /// The file, below the tree.
    pub file: String,
    /// The function, or that it is about the whole file.
    pub function: Option<String>,
    /// The text that was not found.
    pub anchor: String,
    /// How often it was found; `None`: the function is not there.
    pub found: Option<usize>,
}

impl std::error::Error for AnchorError {}

impl fmt::Display for AnchorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AnchorError {
            file,
            function,
            anchor,
            found,
        } = self;
        write!(f, "{file}: ")?;
        match (function, found) {
            (Some(function), None) => return write!(f, "there is no function {function}()"),
            (Some(function), Some(_)) => write!(f, "{function}() ")?,
            (None, _) => f.write_str("the file ")?,
        }
        match found {
            None | Some(0) => f.write_str("does not have")?,
            Some(times) => write!(f, "has {times} times, not once,")?,
        }
        write!(f, " what is to be edited:")?;
        for line in anchor.trim_matches('\n').lines() {
            write!(f, "\n    {}", line.trim_end())?;
        }
        Ok(())
    }
}

/// One place where a tree differs from the known kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// Names that are not there.
    NotFound(NotFound),
    /// The anchor of an edit.
    Anchor(AnchorError),
}

/// All places where a tree differs from the known kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs(pub Vec<Misfit>);

impl std::error::Error for Differs {}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its KVM differs from what this program knows ({KNOWN}):")?;
        for misfit in &self.0 {
            match misfit {
                Misfit::NotFound(misfit) => write!(f, "\n{misfit}")?,
                Misfit::Anchor(misfit) => write!(f, "\n{misfit}")?,
            }
        }
        Ok(())
    }
}

/// The compiler's errors, verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaints(pub Vec<String>);

impl Complaints {
    /// Bound on the lines kept.
    const MOST: usize = 40;

    /// The errors in make's output; its last lines if there are none.
    pub fn of(output: &str) -> Complaints {
        let is_wrong = |line: &&str| {
            ["error", "undefined!", "***", "No rule to make"]
                .iter()
                .any(|word| line.contains(word))
        };
        let wrong: Vec<&str> = output.lines().filter(is_wrong).collect();
        let lines = if wrong.is_empty() {
            let all: Vec<&str> = output.lines().collect();
            all[all.len().saturating_sub(10)..].to_vec()
        } else {
            wrong
        };
        Complaints(
            lines
                .into_iter()
                .take(Complaints::MOST)
                .map(str::to_owned)
                .collect(),
        )
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// For `map_err`: adds the purpose to a failed system call.
pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::System {
        doing: doing.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_the_compilers_own_lines() {
        let output =
            "  CC [M]  a.o\nsplit.c:7:2: error: 'x' undeclared\n  note\nmake: *** [x] Error 2\n";
        assert_eq!(
            Complaints::of(output).0,
            [
                "split.c:7:2: error: 'x' undeclared",
                "make: *** [x] Error 2"
            ]
        );
        assert_eq!(Complaints::of("a\nb").to_string(), "a\nb");
        let many = "error\n".repeat(100);
        assert_eq!(Complaints::of(&many).0.len(), Complaints::MOST);
    }

    #[test]
    fn an_anchor_error_says_file_function_and_what_was_looked_for() {
        let mut error = AnchorError {
            file: "arch/x86/kvm/svm/svm.c".to_owned(),
            function: Some("svm_init".to_owned()),
            anchor: "\tr = kvm_init(\n".to_owned(),
            found: Some(0),
        };
        assert_eq!(
            error.to_string(),
            "arch/x86/kvm/svm/svm.c: svm_init() does not have what is to be edited:\n    \tr = kvm_init("
        );
        error.found = Some(2);
        assert!(error.to_string().contains("has 2 times"), "{error}");
        error.found = None;
        assert!(
            error
                .to_string()
                .ends_with("there is no function svm_init()"),
            "{error}"
        );
    }
}
