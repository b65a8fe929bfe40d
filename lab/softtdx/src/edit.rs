//! Small edits of a kernel's files, each at an anchor.

use crate::error::{AnchorError, BuildError};
use crate::items::{Kind, Unfinished, items};

/// One edit: replaces text that occurs once in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The file, below the kernel's source.
    pub file: &'static str,
    /// The function; `None`: anywhere in the file.
    pub function: Option<&'static str>,
    /// The text to replace.
    pub find: &'static str,
    /// What takes its place.
    pub replace: &'static str,
    /// The trees that it is for.
    pub applies: Applies,
}

/// The trees that an edit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// All.
    Always,
    /// Those whose file does not contain this: a tree with its own code keeps it.
    Unless(&'static str),
    /// Those whose file contains this: only some kernels have it.
    IfThere(&'static str),
}

/// Returns `source` with `edit` applied.
///
/// # Errors
///
/// The function, or the text in it, is missing or occurs more than once.
pub fn apply(source: &str, edit: &Edit) -> Result<String, BuildError> {
    let applies = match edit.applies {
        Applies::Always => true,
        Applies::Unless(own) => !source.contains(own),
        Applies::IfThere(text) => source.contains(text),
    };
    if !applies {
        return Ok(source.to_owned());
    }
    let error = |found| AnchorError {
        file: edit.file.to_owned(),
        function: edit.function.map(str::to_owned),
        anchor: edit.find.to_owned(),
        found,
    };
    let place = match edit.function {
        None => 0..source.len(),
        Some(function) => {
            let all = items(source).map_err(|Unfinished(line)| BuildError::Unfinished {
                file: edit.file.to_owned(),
                line,
            })?;
            let is_it = |kind: Kind, name: &str| {
                matches!(kind, Kind::Function | Kind::Type) && name == function
            };
            let item = all.into_iter().find(|item| is_it(item.kind, &item.name));
            item.ok_or_else(|| error(None))?.bytes
        }
    };
    let within = &source[place.clone()];
    let times = within.matches(edit.find).count();
    if times != 1 {
        return Err(error(Some(times)).into());
    }
    let edited = within.replacen(edit.find, edit.replace, 1);
    Ok([&source[..place.start], &edited, &source[place.end..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "int a(void)\n{\n\treturn 1;\n}\n\nint b(void)\n{\n\treturn 1;\n}\n";

    fn edit(function: Option<&'static str>, find: &'static str) -> Edit {
        Edit {
            file: "x.c",
            function,
            find,
            replace: "return 2;",
            applies: Applies::Always,
        }
    }

    #[test]
    fn only_the_named_function_changes() {
        let edited = apply(SOURCE, &edit(Some("b"), "return 1;")).unwrap();
        assert_eq!(
            edited,
            "int a(void)\n{\n\treturn 1;\n}\n\nint b(void)\n{\n\treturn 2;\n}\n"
        );
    }

    #[test]
    fn a_tree_with_its_own_code_keeps_it() {
        let edit = Edit {
            applies: Applies::Unless("int b("),
            ..edit(Some("c"), "nothing")
        };
        assert_eq!(apply(SOURCE, &edit).unwrap(), SOURCE);
    }

    #[test]
    fn what_only_some_kernels_have_is_edited_there_only() {
        let edit = |text| Edit {
            applies: Applies::IfThere(text),
            ..edit(Some("b"), "return 1;")
        };
        assert_eq!(apply(SOURCE, &edit("int c(")).unwrap(), SOURCE);
        assert!(
            apply(SOURCE, &edit("int b("))
                .unwrap()
                .contains("return 2;")
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let said = |edit| apply(SOURCE, &edit).unwrap_err().to_string();
        assert!(said(edit(Some("c"), "x")).contains("x.c: there is no function c()"));
        assert!(said(edit(Some("a"), "return 3;")).contains("a() does not have"));
        assert!(said(edit(None, "return 1;")).contains("the file has 2 times"));
    }
}
