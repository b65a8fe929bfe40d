//! The top level of a C file of the kernel: macros, functions, types and variables, each as its
//! lines.
//!
//! No parser: comments, strings and preprocessor lines are told apart, braces and parentheses
//! counted. Where `#ifdef` makes braces uneven, a `}` in the first column ends a body, as the
//! kernel's style has it.

use std::ops::Range;

/// Kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `#define NAME`.
    Macro,
    /// A function with its body.
    Function,
    /// A function's prototype, or a use of a macro that ends in a semicolon: `MACRO(name, ...);`.
    Call,
    /// `struct`, `union` or `enum` with its members.
    Type,
    /// `typedef`.
    Typedef,
    /// All else that ends in a semicolon.
    Other,
}

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// Line it starts in, from 1.
    pub(crate) line: usize,
    /// Its bytes, without the comment in front of it.
    pub(crate) bytes: Range<usize>,
}

/// A file that ends within an item, which starts in this line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished(pub(crate) usize);

/// All of `source`, in order.
pub(crate) fn items(source: &str) -> Result<Vec<Item>, Unfinished> {
    let mut scanner = Scanner {
        bytes: source.as_bytes(),
        at: 0,
        line: 1,
    };
    let mut found = Vec::new();
    while scanner.skip_blank()? {
        let (start, line) = (scanner.at, scanner.line);
        if scanner.bytes[scanner.at] == b'#' {
            scanner.preprocessor_line();
            let text = &source[start..scanner.at];
            if let Some(name) = macro_name(text) {
                found.push(Item {
                    kind: Kind::Macro,
                    name,
                    line,
                    bytes: start..scanner.at,
                });
            }
            continue;
        }
        let end = scanner.declaration().ok_or(Unfinished(line))?;
        let text = &source[start..scanner.at];
        let (kind, name) = describe(text, end);
        found.push(Item {
            kind,
            name,
            line,
            bytes: start..scanner.at,
        });
    }
    Ok(found)
}

/// How a declaration ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Body,
    Semicolon,
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn step(&mut self) {
        if self.peek(0) == b'\n' {
            self.line += 1;
        }
        self.at += 1;
    }

    fn at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Past blanks, comments and stray semicolons; false at the end.
    fn skip_blank(&mut self) -> Result<bool, Unfinished> {
        while !self.at_end() {
            let line = self.line;
            match self.peek(0) {
                b'/' if self.is_comment() => {
                    if !self.comment() {
                        return Err(Unfinished(line));
                    }
                }
                byte if byte.is_ascii_whitespace() || byte == b';' => self.step(),
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    fn is_comment(&self) -> bool {
        self.peek(0) == b'/' && matches!(self.peek(1), b'*' | b'/')
    }

    /// Past a comment; false where it does not end.
    fn comment(&mut self) -> bool {
        let block = self.peek(1) == b'*';
        self.at += 2;
        while !self.at_end() {
            if block && self.peek(0) == b'*' && self.peek(1) == b'/' {
                self.at += 2;
                return true;
            }
            if !block && self.peek(0) == b'\n' {
                return true;
            }
            self.step();
        }
        !block
    }

    /// Past a string or character; an end of line ends it, too.
    fn quoted(&mut self) {
        let quote = self.peek(0);
        self.step();
        while !self.at_end() && self.peek(0) != b'\n' {
            match self.peek(0) {
                b'\\' => {
                    self.step();
                    self.step();
                }
                byte => {
                    self.step();
                    if byte == quote {
                        return;
                    }
                }
            }
        }
    }

    /// Past a line with its continuations; comments in it may have several lines.
    fn preprocessor_line(&mut self) {
        while !self.at_end() {
            match self.peek(0) {
                b'/' if self.is_comment() && self.peek(1) == b'*' => {
                    self.comment();
                }
                b'\\' => {
                    self.step();
                    self.step();
                }
                b'\n' => return,
                _ => self.step(),
            }
        }
        self.at = self.at.min(self.bytes.len());
    }

    /// Past a declaration or definition; `None` where it does not end.
    fn declaration(&mut self) -> Option<End> {
        let (mut braces, mut parentheses) = (0_usize, 0_usize);
        let mut is_function = false;
        let mut previous = 0_u8;
        let start = self.at;
        while !self.at_end() {
            let first_column = self.at == 0 || self.bytes[self.at - 1] == b'\n';
            let byte = self.peek(0);
            match byte {
                b'/' if self.is_comment() => {
                    if !self.comment() {
                        return None;
                    }
                    continue;
                }
                b'"' | b'\'' => {
                    self.quoted();
                    continue;
                }
                b'#' if first_column => {
                    self.preprocessor_line();
                    continue;
                }
                b'{' => {
                    if braces == 0 && parentheses == 0 {
                        is_function = previous == b')';
                    }
                    braces += 1;
                }
                b'}' => {
                    braces = if first_column {
                        0
                    } else {
                        braces.saturating_sub(1)
                    };
                    if first_column {
                        parentheses = 0;
                    }
                    if braces == 0 && parentheses == 0 && is_function {
                        self.step();
                        return Some(End::Body);
                    }
                }
                b'(' => parentheses += 1,
                b')' => {
                    parentheses = parentheses.saturating_sub(1);
                    if braces == 0 && parentheses == 0 && self.ends_a_bare_call(start) {
                        self.step();
                        return Some(End::Semicolon);
                    }
                }
                b';' if braces == 0 && parentheses == 0 => {
                    self.step();
                    return Some(End::Semicolon);
                }
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                previous = byte;
            }
            self.step();
        }
        None
    }
}

impl Scanner<'_> {
    /// Whether this `)` ends a use of a macro without a semicolon, as `module_init(f)`: one word
    /// before its parenthesis, and no continuation behind it.
    fn ends_a_bare_call(&self, start: usize) -> bool {
        let text = &self.bytes[start..self.at];
        let head = text.split(|&byte| byte == b'(').next().unwrap_or_default();
        let one_word = head
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let behind = &self.bytes[self.at + 1..];
        let next = behind.iter().find(|byte| !byte.is_ascii_whitespace());
        let ends_line = behind.first().is_none_or(|byte| *byte == b'\n');
        one_word && ends_line && !matches!(next, Some(b';' | b'{' | b'=' | b','))
    }
}

fn macro_name(line: &str) -> Option<String> {
    let rest = line
        .strip_prefix('#')?
        .trim_start()
        .strip_prefix("define")?;
    rest.starts_with([' ', '\t'])
        .then(|| identifier(rest.trim_start()).to_owned())
        .filter(|name| !name.is_empty())
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The word that `text` starts with.
fn identifier(text: &str) -> &str {
    text.split(|character| !is_word(character))
        .next()
        .unwrap_or("")
}

/// The word that `text` ends with.
fn last_identifier(text: &str) -> &str {
    let text = text.trim_end();
    let start = text.rfind(|character| !is_word(character));
    &text[start.map_or(0, |at| {
        at + text[at..].chars().next().map_or(1, char::len_utf8)
    })..]
}

/// Kind and name of a declaration.
fn describe(text: &str, end: End) -> (Kind, String) {
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if end == End::Semicolon && identifier(text) == "typedef" {
        let before = text.trim_end_matches(';');
        return (Kind::Typedef, last_identifier(before).to_owned());
    }
    let head = &text[..text.find(['(', '{', '=', ';', '[']).unwrap_or(text.len())];
    let opener = text[head.len()..].chars().next();
    if end == End::Body || opener == Some('(') {
        let name = last_identifier(head);
        if end == End::Body {
            return (Kind::Function, name.to_owned());
        }
        // `MACRO(name, ...);` has one word in front; a prototype has more.
        let is_macro = words(head).len() == 1;
        let argument = text[head.len()..].trim_start_matches('(');
        let name = if is_macro {
            format!("{name}:{}", identifier(argument.trim_start()))
        } else {
            name.to_owned()
        };
        return (Kind::Call, name);
    }
    let is_type = ["struct", "union", "enum"].contains(&identifier(head));
    if is_type && opener == Some('{') {
        return (Kind::Type, last_identifier(head).to_owned());
    }
    (Kind::Other, last_identifier(head).to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn named(source: &str) -> Vec<(Kind, String)> {
        let found = items(source).unwrap();
        found
            .into_iter()
            .map(|item| (item.kind, item.name))
            .collect()
    }

    #[rstest]
    #[case::function("static int f(int a)\n{\n\treturn a;\n}\n", Kind::Function, "f")]
    #[case::one_line("static bool g(void) { return false; }", Kind::Function, "g")]
    #[case::over_lines(
        "static __always_inline void\nh(struct x *y,\n  int z)\n{\n}\n",
        Kind::Function,
        "h"
    )]
    #[case::prototype("static void i(struct vcpu *v);", Kind::Call, "i")]
    #[case::macro_use(
        "DEFINE_CLASS(guard, t, if (x) y(), z(k), int k);",
        Kind::Call,
        "DEFINE_CLASS:guard"
    )]
    #[case::macro_of_lines("#define M(x) \\\n\tdo { \\\n\t} while (0)\n", Kind::Macro, "M")]
    #[case::structure("struct s {\n\tint a;\n};", Kind::Type, "s")]
    #[case::typedef("typedef void *guard_t;", Kind::Typedef, "guard_t")]
    #[case::variable("static int table[] = {\n\t{ 1 },\n};", Kind::Other, "table")]
    #[case::bare_macro("module_init(start)\n", Kind::Call, "module_init:start")]
    #[case::braces_in_strings(
        "static void s(void)\n{\n\tp(\"}{\", '}', '\\'');\n}\n",
        Kind::Function,
        "s"
    )]
    #[case::braces_in_comments(
        "static void c(void)\n{\n\t/* } */\n\t// }\n}\n",
        Kind::Function,
        "c"
    )]
    fn items_are_told_apart(#[case] source: &str, #[case] kind: Kind, #[case] name: &str) {
        assert_eq!(named(source), [(kind, name.to_owned())], "{source}");
    }

    #[test]
    fn uneven_braces_of_an_ifdef_end_with_the_first_column() {
        let source = "static int a(void)\n{\n#ifdef X\n\tif (1) {\n#else\n\tif (2) {\n#endif\n\t}\n}\n\n\
                      static int b(void)\n{\n}\n";
        assert_eq!(
            named(source),
            [
                (Kind::Function, "a".to_owned()),
                (Kind::Function, "b".to_owned())
            ]
        );
    }

    #[test]
    fn a_macro_without_a_semicolon_takes_nothing_along() {
        assert_eq!(
            named("module_init(start)\nmodule_exit(end)\n\nstatic int f(void)\n{\n}\n"),
            [
                (Kind::Call, "module_init:start".to_owned()),
                (Kind::Call, "module_exit:end".to_owned()),
                (Kind::Function, "f".to_owned()),
            ]
        );
    }

    #[test]
    fn lines_and_bytes_are_those_of_the_item() {
        let source = "/* about f */\nstatic int f(void)\n{\n}\n#define M 1\n";
        let found = items(source).unwrap();
        assert_eq!(found[0].line, 2);
        assert_eq!(&source[found[0].bytes.clone()], "static int f(void)\n{\n}");
        assert_eq!(
            (found[1].line, &source[found[1].bytes.clone()]),
            (5, "#define M 1")
        );
    }

    #[rstest]
    #[case("static int f(void)\n{\n", 1)]
    #[case("\n\n/* no end", 3)]
    #[case("int a;\nint b = (", 2)]
    fn what_does_not_end_is_told_by_its_line(#[case] source: &str, #[case] line: usize) {
        assert_eq!(items(source), Err(Unfinished(line)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(source in "[a-z(){};#\"'/*\\\\\n =é]{0,200}") {
            if let Ok(found) = items(&source) {
                for item in found {
                    prop_assert!(source.get(item.bytes).is_some());
                }
            }
        }

        #[test]
        fn nor_does_any_other(source in any::<String>()) {
            let _ = items(&source);
        }
    }
}
