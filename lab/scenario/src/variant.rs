//! Variants of a scenario: every case with every combination of the matrix, and the drawn variables
//! of each.

use indexmap::IndexMap;
use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use super::draw::{Draw, List};
use super::expr::Bytes;
use super::read::{self, Reader};
use super::scalar::{Literal, Scalar};
use super::vars::{is_name, nearest};
use super::yaml::Node;

/// Most plans of one scenario.
const MAX_PLANS: usize = 1024;

/// The variables that a file defines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variables<'f> {
    /// Variants by name.
    pub(super) cases: &'f IndexMap<String, IndexMap<String, Scalar<Literal>>>,
    /// Every combination of these is a plan.
    pub(super) matrix: &'f IndexMap<String, List<Scalar<Literal>>>,
    /// Drawn for each plan.
    pub(super) draw: &'f IndexMap<String, Draw>,
}

/// A case with a matrix point.
#[derive(Clone, Debug, Default)]
pub(super) struct Variant {
    /// The text in brackets after the scenario's name: `head,offset=4K`.
    pub(super) label: String,
    /// Its variables.
    pub(super) values: Vec<(String, String)>,
}

/// All variants, in the order of the file. Reports errors in their definition.
pub(super) fn variants(reader: &mut Reader<'_>, file: Variables<'_>, root: &Node) -> Vec<Variant> {
    let mut variants = cases(reader, file, root.key("cases"));
    for (name, values) in file.matrix {
        if variants.len().saturating_mul(values.0.len()) > MAX_PLANS {
            let span = root
                .entry("matrix")
                .map_or(0..0, |entry| entry.key_span.clone());
            reader.push(read::at(
                &span,
                format!("the matrix makes more than {MAX_PLANS} plans"),
                "too many combinations",
                "sweep less, or split the scenario".to_owned(),
            ));
            return Vec::new();
        }
        let node = root.key("matrix").key(name);
        let mut points = Vec::new();
        for (index, value) in values.0.iter().enumerate() {
            if values.0[..index]
                .iter()
                .any(|other| other.text() == value.text())
            {
                let message = format!("`{}` is there twice", value.text());
                let help = "every value makes a plan of its own name".to_owned();
                reader.wrong(node.item(index), message, "again", help);
            }
            points.extend(reader.get(value, node.item(index)));
        }
        variants = variants
            .iter()
            .flat_map(|variant| points.iter().map(move |value| variant.with(name, value)))
            .collect();
    }
    variants
}

impl Variant {
    fn with(&self, name: &str, value: &str) -> Variant {
        let mut variant = self.clone();
        let comma = if variant.label.is_empty() { "" } else { "," };
        variant.label += &format!("{comma}{name}={value}");
        variant.values.push((name.to_owned(), value.to_owned()));
        variant
    }
}

/// One variant for each case; a single empty one where there are none.
fn cases(reader: &mut Reader<'_>, file: Variables<'_>, node: &Node) -> Vec<Variant> {
    let Some((first, model)) = file.cases.first() else {
        return vec![Variant::default()];
    };
    let mut variants = Vec::new();
    for (case, values) in file.cases {
        let node = node.key(case);
        for name in model.keys().filter(|name| !values.contains_key(*name)) {
            reader.push(read::at(
                &node.span,
                format!("case `{case}` gives `{name}` no value"),
                "in here",
                format!("case `{first}` does, and all cases have the same variables"),
            ));
        }
        for (name, _) in values.iter().filter(|(name, _)| !model.contains_key(*name)) {
            let span = node
                .entry(name)
                .map_or(node.span.clone(), |entry| entry.key_span.clone());
            let help = match nearest(name, model.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("case `{first}` does not, and all cases have the same variables"),
            };
            let message = format!("case `{case}` gives a value to `{name}`");
            reader.push(read::at(&span, message, "only here", help));
        }
        let values = values
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), reader.get(value, node.key(name))?)))
            .collect();
        variants.push(Variant {
            label: case.clone(),
            values,
        });
    }
    if variants.len() > MAX_PLANS {
        let message = format!("{} cases", variants.len());
        reader.push(read::at(
            &node.span,
            message,
            "too many",
            format!("at most {MAX_PLANS}"),
        ));
        variants.clear();
    }
    variants
}

/// Reports invalid and duplicate names of variables in `cases`, `matrix` and `draw`.
pub(super) fn check_names(reader: &mut Reader<'_>, file: Variables<'_>, root: &Node) {
    let mut known: IndexMap<&str, &str> = IndexMap::new();
    let case = file.cases.first();
    let in_cases = case.into_iter().flat_map(|(case, values)| {
        let node = root.key("cases").key(case);
        values.keys().map(move |name| (name, "cases", node))
    });
    let in_matrix = file
        .matrix
        .keys()
        .map(|name| (name, "matrix", root.key("matrix")));
    let in_draw = file
        .draw
        .keys()
        .map(|name| (name, "draw", root.key("draw")));
    for (name, section, node) in in_cases.chain(in_matrix).chain(in_draw) {
        let span = node
            .entry(name)
            .map_or(node.span.clone(), |entry| entry.key_span.clone());
        if !is_name(name) {
            reader.push(read::at(
                &span,
                format!("`{name}` cannot be the name of a variable"),
                "no name",
                "letters, digits and `_`, not starting with a digit".to_owned(),
            ));
        }
        if let Some(other) = known.insert(name, section) {
            reader.push(read::at(
                &span,
                format!("the variable `{name}` is defined twice"),
                "again",
                format!("`{other}` defines it, too"),
            ));
        }
    }
}

/// Reports unused variables of `cases`, `matrix` and `draw`.
pub(super) fn check_used(reader: &mut Reader<'_>, file: Variables<'_>, root: &Node) {
    let case = file.cases.first();
    let in_cases = case.into_iter().flat_map(|(case, values)| {
        let node = root.key("cases").key(case);
        values.keys().map(move |name| (name, node))
    });
    let in_matrix = file.matrix.keys().map(|name| (name, root.key("matrix")));
    let in_draw = file.draw.keys().map(|name| (name, root.key("draw")));
    for (name, node) in in_cases.chain(in_matrix).chain(in_draw) {
        if !reader.vars.was_used(name) {
            let span = node
                .entry(name)
                .map_or(node.span.clone(), |entry| entry.key_span.clone());
            reader.push(read::at(
                &span,
                format!("`${name}` is never used"),
                "unused variable",
                format!("use it in a step, as in `range: 0..${name}`, or remove it"),
            ));
        }
    }
}

/// Gives every variable of `draws` a value from `random`.
pub(super) fn draw(
    reader: &mut Reader<'_>,
    draws: &IndexMap<String, Draw>,
    node: &Node,
    random: &mut ChaCha8Rng,
) {
    for (name, draw) in draws {
        let node = node.key(name);
        let value = match draw {
            Draw::OneOf(list) => {
                let index = below(random, list.0.len() as u64) as usize;
                list.0
                    .get(index)
                    .and_then(|value| reader.get(value, node.item(index)))
            }
            Draw::Within(within) => {
                let range = reader.get(&within.within, node.key("within"));
                let align = reader.get_or(within.align.as_ref(), node.key("align"), 4096);
                range.zip(align).and_then(|(range, align)| {
                    let first = range.start.checked_next_multiple_of(align);
                    match first {
                        Some(first) if first < range.end => {
                            let many = (range.end - first).div_ceil(align);
                            Some(Bytes(first + align * below(random, many)).to_string())
                        }
                        _ => {
                            reader.wrong(
                                node.key("within"),
                                format!("no multiple of {} lies in it", Bytes(align)),
                                "nothing to draw from",
                                "widen the range, or take a smaller `align`".to_owned(),
                            );
                            None
                        }
                    }
                })
            }
        };
        // Report a missing value once, then use 0 so that no follow-up errors appear.
        reader
            .vars
            .set(name, value.unwrap_or_else(|| "0".to_owned()));
    }
}

/// A number below `end`, which is not 0. The slight favour for small numbers does not matter, and
/// the way from seed to number stays ours.
pub(super) fn below(random: &mut ChaCha8Rng, end: u64) -> u64 {
    random.next_u64() % end.max(1)
}
