//! Finds places to mutate in sources, and the edits.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A place that can be changed.
#[derive(Clone, Debug)]
pub(super) struct Mutant {
    /// Path below `lab`.
    pub(super) file: PathBuf,
    pub(super) line: usize,
    /// The function around it.
    pub(super) function: String,
    pub(super) what: &'static str,
    /// The original code, on one line.
    pub(super) code: String,
    /// Byte ranges to replace, and the replacement; `#` stands for the number of the mutant.
    pub(super) edits: Vec<(usize, usize, String)>,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line) = (self.file.display(), self.line);
        let (function, what, code) = (&self.function, self.what, &self.code);
        write!(f, "{file}:{line}: in {function}: {what}: {code}")
    }
}

/// Finds the places of a file.
struct Finder<'a> {
    file: &'a Path,
    text: &'a str,
    function: String,
    found: Vec<Mutant>,
}

impl Finder<'_> {
    fn note(&mut self, at: &impl Spanned, what: &'static str, edits: Vec<(usize, usize, String)>) {
        let span = at.span();
        let range = span.byte_range();
        self.found.push(Mutant {
            file: self.file.to_owned(),
            line: span.start().line,
            function: self.function.clone(),
            what,
            code: self.text[range]
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            edits,
        });
    }

    fn call(&mut self, whole: &syn::ExprBinary, function: &str, by_reference: bool) {
        let (a, b) = (
            whole.left.span().byte_range(),
            whole.right.span().byte_range(),
        );
        let mark = if by_reference { "&" } else { "" };
        self.note(
            whole,
            match function {
                "eq" | "ne" => "the opposite",
                "add" | "sub" => "the other sign",
                _ => "the bound moved by one",
            },
            vec![
                (a.start, a.start, format!("::mutant::{function}(#, {mark}(")),
                (a.end, b.start, format!("), {mark}(")),
                (b.end, b.end, "))".to_owned()),
            ],
        );
    }

    /// Enters a function, and adds the mutant that returns a constant at once.
    fn enter(&mut self, signature: &syn::Signature, block: &syn::Block) {
        self.function = signature.ident.to_string();
        let syn::ReturnType::Type(_, result) = &signature.output else {
            return;
        };
        let syn::Type::Path(result) = result.as_ref() else {
            return;
        };
        let Some(result) = result.path.segments.last() else {
            return;
        };
        let constants: &[(&str, &str)] = match result.ident.to_string().as_str() {
            "bool" => &[("comes back true", "true"), ("comes back false", "false")],
            "Option" => &[("comes back None", "None")],
            "u16" | "u32" | "u64" | "usize" | "i64" => {
                &[("comes back 0", "0"), ("comes back 1", "1")]
            }
            "Vec" => &[("comes back empty", "Vec::new()")],
            _ => &[],
        };
        let at = block.brace_token.span.open().byte_range().end;
        for (what, constant) in constants {
            let edit = format!(" if ::mutant::on(#) {{ return {constant}; }} ");
            self.note(signature, what, vec![(at, at, edit)]);
        }
    }

    fn around(&mut self, at: &syn::Expr, what: &'static str, before: &str, after: &str) {
        let range = at.span().byte_range();
        let edits = vec![
            (range.start, range.start, before.to_owned()),
            (range.end, range.end, after.to_owned()),
        ];
        self.note(at, what, edits);
    }
}

/// Whether an expression binds names, so that it cannot be wrapped.
fn binds(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

/// Whether `!` before it negates a condition, not bits: a call returns a `bool`.
fn is_condition(expression: &syn::Expr) -> bool {
    matches!(
        expression,
        syn::Expr::MethodCall(_) | syn::Expr::Call(_) | syn::Expr::Field(_)
    )
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("cfg"))
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if item.sig.constness.is_none() && !is_test(&item.attrs) {
            self.enter(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if item.sig.constness.is_none() && !is_test(&item.attrs) {
            self.enter(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.enter(&item.sig, block);
            visit::visit_trait_item_fn(self, item);
        }
    }

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_expr_binary(&mut self, whole: &'ast syn::ExprBinary) {
        use syn::BinOp::{Add, And, Eq, Ge, Gt, Le, Lt, Ne, Or, Sub};
        match whole.op {
            Eq(_) => self.call(whole, "eq", true),
            Ne(_) => self.call(whole, "ne", true),
            Lt(_) => self.call(whole, "lt", true),
            Le(_) => self.call(whole, "le", true),
            Gt(_) => self.call(whole, "gt", true),
            Ge(_) => self.call(whole, "ge", true),
            Add(_) => self.call(whole, "add", false),
            Sub(_) => self.call(whole, "sub", false),
            And(_) | Or(_) => {
                for side in [&whole.left, &whole.right] {
                    if !binds(side) {
                        let (what, before) = match whole.op {
                            And(_) => ("left out of &&", "(::mutant::on(#) || ("),
                            _ => ("left out of ||", "(!::mutant::on(#) && ("),
                        };
                        self.around(side, what, before, "))");
                    }
                }
            }
            _ => {}
        }
        visit::visit_expr_binary(self, whole);
    }

    fn visit_expr_unary(&mut self, whole: &'ast syn::ExprUnary) {
        if matches!(whole.op, syn::UnOp::Not(_)) && is_condition(&whole.expr) {
            let whole = syn::Expr::Unary(whole.clone());
            self.around(&whole, "the opposite", "(::mutant::on(#) != (", "))");
        }
        visit::visit_expr_unary(self, whole);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if let syn::Pat::Guard(pattern) = &arm.pat {
            let guard = &pattern.guard;
            if !binds(guard) {
                self.around(guard, "always", "(::mutant::on(#) || (", "))");
                self.around(guard, "never", "(!::mutant::on(#) && (", "))");
            }
            self.visit_expr(guard);
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_if(&mut self, whole: &'ast syn::ExprIf) {
        if !binds(&whole.cond) {
            self.around(&whole.cond, "always", "(::mutant::on(#) || (", "))");
            self.around(&whole.cond, "never", "(!::mutant::on(#) && (", "))");
        }
        visit::visit_expr_if(self, whole);
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        if let syn::Stmt::Expr(expression, Some(_)) = statement
            && let syn::Expr::MethodCall(_) | syn::Expr::Call(_) | syn::Expr::Assign(_) = expression
        {
            let range = statement.span().byte_range();
            let edits = vec![
                (
                    range.start,
                    range.start,
                    "if !::mutant::on(#) { ".to_owned(),
                ),
                (range.end, range.end, " }".to_owned()),
            ];
            self.note(statement, "left out", edits);
        }
        visit::visit_stmt(self, statement);
    }
}

/// Sources at a path, but for tests.
fn sources(path: &Path, into: &mut Vec<PathBuf>) {
    if path.ends_with("tests") || path.ends_with("tests.rs") {
        return;
    }
    if path.is_dir() {
        let mut inside: Vec<_> = fs::read_dir(path)
            .expect("a folder of sources")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        inside.sort();
        inside.iter().for_each(|path| sources(path, into));
    } else if path.extension().is_some_and(|end| end == "rs") {
        into.push(path.to_owned());
    }
}

/// All places in the files and folders `subjects` of `sources`.
pub(super) fn find(sources: &Path, subjects: &[String]) -> Vec<Mutant> {
    let mut files = Vec::new();
    for subject in subjects {
        self::sources(&sources.join(subject), &mut files);
    }
    let mut all = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let mut finder = Finder {
            file: file.strip_prefix(sources).expect("found below it"),
            text: &text,
            function: String::new(),
            found: Vec::new(),
        };
        finder.visit_file(&syn::parse_file(&text).expect("it compiles"));
        all.extend(finder.found);
    }
    all
}
