//! Extracts functions, macros and types by name from a kernel's C file.

use std::collections::BTreeSet;

use crate::error::{BuildError, NotFound};
use crate::items::{Kind, Unfinished, items};

/// The items of `source` with these names, verbatim and in their order, each with a line directive,
/// so that a compiler's error names `file`.
///
/// Those of `if_there` may be missing. A macro that is used like a function is named with its first argument: `DEFINE_CLASS:name`.
/// A function's prototypes are taken with it.
///
/// # Errors
///
/// All missing names; a file that ends within an item.
pub fn take(
    source: &str,
    file: &str,
    names: &[&str],
    if_there: &[&str],
) -> Result<String, BuildError> {
    let all = items(source).map_err(|Unfinished(line)| BuildError::Unfinished {
        file: file.to_owned(),
        line,
    })?;
    let needed: BTreeSet<&str> = names.iter().copied().collect();
    let wanted: BTreeSet<&str> = names.iter().chain(if_there).copied().collect();
    let mut defined = BTreeSet::new();
    let mut text = String::new();
    for item in &all {
        let Some(&name) = wanted.get(item.name.as_str()) else {
            continue;
        };
        let is_prototype = item.kind == Kind::Call && !name.contains(':');
        if !is_prototype {
            defined.insert(name);
        }
        let taken = &source[item.bytes.clone()];
        text.push_str(&format!("#line {} \"{file}\"\n{taken}\n\n", item.line));
    }
    let missing: Vec<String> = needed
        .difference(&defined)
        .map(|&name| name.to_owned())
        .collect();
    if missing.is_empty() {
        return Ok(text);
    }
    Err(NotFound {
        file: file.to_owned(),
        names: missing,
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "#define A 1\n\nstatic int late(void);\n\n/* b */\nint b(void)\n{\n\treturn late();\n}\n\n\
                          static int late(void)\n{\n\treturn A;\n}\n";

    #[test]
    fn items_come_in_the_files_order_under_their_lines() {
        let text = take(SOURCE, "x.c", &["late", "A"], &["newer"]).unwrap();
        assert_eq!(
            text,
            "#line 1 \"x.c\"\n#define A 1\n\n#line 3 \"x.c\"\nstatic int late(void);\n\n\
             #line 11 \"x.c\"\nstatic int late(void)\n{\n\treturn A;\n}\n\n"
        );
    }

    #[test]
    fn all_missing_names_are_told_and_a_prototype_is_not_enough() {
        let source = "int gone(void);\n";
        let error = take(source, "x.c", &["gone", "M"], &["newer"]).unwrap_err();
        assert_eq!(error.to_string(), "x.c has no M, no gone");
    }
}
