//! Variants of a scenario: every case with every combination of the matrix, and the drawn variables
//! of each.

use std::collections::BTreeSet;
use std::ops::Range;

use indexmap::IndexMap;
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use tdxlab_plan::plan_name::unprintable;

use super::draw::{Draw, List, Within};
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
            let span = root.place_of("matrix");
            let message = format!("the matrix makes more than {MAX_PLANS} plans");
            let help = "sweep less, or split the scenario".to_owned();
            reader.push(read::at(&span, message, "too many combinations", help));
            return Vec::new();
        }
        let node = root.key("matrix").key(name);
        let mut points = Vec::new();
        for (index, value) in values.0.iter().enumerate() {
            let node = node.item(index);
            let Some(value) = reader.get(value, node) else {
                continue;
            };
            if points.contains(&value) {
                let message = format!("`{value}` is there twice");
                let help = "every value makes a plan of its own name".to_owned();
                reader.wrong(node, message, "again", help);
            }
            check_label(reader, "a value that names a plan", &value, &node.span);
            points.push(value);
        }
        variants = variants
            .iter()
            .flat_map(|variant| points.iter().map(move |value| variant.with(name, value)))
            .collect();
    }
    check_unique(reader, &variants, root);
    variants
}

/// Reports what cannot be shown as part of the name of a plan.
fn check_label(reader: &mut Reader<'_>, what: &str, text: &str, place: &Range<usize>) {
    if let Some(letter) = unprintable(text) {
        let message = format!("{what} has the letter U+{:04X}", u32::from(letter));
        let help = "leave it out: names stand on a line of their own, in reports and on terminals";
        reader.push(read::at(place, message, "no name", help.to_owned()));
    }
}

/// Reports two variants of one name: commas and `=` can stand in values, too.
fn check_unique(reader: &mut Reader<'_>, variants: &[Variant], root: &Node) {
    let mut known = BTreeSet::new();
    let twice = variants
        .iter()
        .find(|variant| !known.insert(&variant.label));
    // Doubled values are reported where they stand.
    if reader.is_clean()
        && let Some(twice) = twice
    {
        let span = root.place_of("matrix");
        let message = format!("two plans have the name `[{}]`", twice.label);
        let help = "write one of the values in another way, or rename a case".to_owned();
        reader.push(read::at(&span, message, "one name for two", help));
    }
}

impl Variant {
    /// The name of its plan.
    pub(super) fn plan_name(&self, scenario: &str) -> String {
        match self.label.as_str() {
            "" => scenario.to_owned(),
            label => format!("{scenario}[{label}]"),
        }
    }

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
        let place = node.place_of(case);
        check_label(reader, "the name of a case", case, &place);
        if case.trim().is_empty() {
            let message = "a case without a name".to_owned();
            let help = "give it one: it tells its plan from the others".to_owned();
            reader.push(read::at(&place, message, "empty", help));
        }
        let node = node.key(case);
        for name in model.keys().filter(|name| !values.contains_key(*name)) {
            let message = format!("case `{case}` gives `{name}` no value");
            let help = format!("case `{first}` does, and all cases have the same variables");
            reader.push(read::at(&node.span, message, "in here", help));
        }
        for (name, _) in values.iter().filter(|(name, _)| !model.contains_key(*name)) {
            let span = node.place_of(name);
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
        let help = format!("at most {MAX_PLANS}");
        reader.push(read::at(&node.span, message, "too many", help));
        variants.clear();
    }
    variants
}

impl<'f> Variables<'f> {
    /// Every variable with the key it is defined under, and where.
    fn definitions(&self, root: &Node) -> Vec<(&'f str, &'static str, Range<usize>)> {
        let cases = self.cases.first();
        let in_cases = cases.into_iter().flat_map(|(case, values)| {
            let node = root.key("cases").key(case);
            values.keys().map(move |name| (name, "cases", node))
        });
        let other = |key| move |name| (name, key, root.key(key));
        let in_matrix = self.matrix.keys().map(other("matrix"));
        let in_draw = self.draw.keys().map(other("draw"));
        in_cases
            .chain(in_matrix)
            .chain(in_draw)
            .map(|(name, key, node)| (name.as_str(), key, node.place_of(name)))
            .collect()
    }
}

/// Reports invalid and duplicate names of variables in `cases`, `matrix` and `draw`.
pub(super) fn check_names(reader: &mut Reader<'_>, file: Variables<'_>, root: &Node) {
    let mut known: IndexMap<&str, &str> = IndexMap::new();
    for (name, section, place) in file.definitions(root) {
        if !is_name(name) {
            let message = format!("`{name}` cannot be the name of a variable");
            let help = "letters, digits and `_`, not starting with a digit".to_owned();
            reader.push(read::at(&place, message, "no name", help));
        }
        if let Some(other) = known.insert(name, section) {
            let message = format!("the variable `{name}` is defined twice");
            let help = format!("`{other}` defines it, too");
            reader.push(read::at(&place, message, "again", help));
        }
    }
}

/// Reports unused variables of `cases`, `matrix` and `draw`.
pub(super) fn check_used(reader: &mut Reader<'_>, file: Variables<'_>, root: &Node) {
    for (name, _, place) in file.definitions(root) {
        let help = format!("use it in a step, as in `range: 0..${name}`, or remove it");
        report_unused(reader, name, &place, help);
    }
}

fn report_unused(reader: &mut Reader<'_>, name: &str, place: &Range<usize>, help: String) {
    if !reader.vars.was_used(name) {
        let message = format!("`${name}` is never used");
        reader.push(read::at(place, message, "unused variable", help));
    }
}

/// Begins the scope of the variables of a `repeat` at `node`; they come with their places. `None` after
/// reporting that one of them cannot be defined: steps that use it are not to blame.
pub(super) fn begin_scope<'f>(
    reader: &mut Reader<'_>,
    variables: impl Iterator<Item = &'f String>,
    node: &Node,
) -> Option<Vec<(&'f str, Range<usize>)>> {
    let mut names: Vec<(&str, Range<usize>)> = Vec::new();
    for name in variables {
        let place = match node.key("draw").entry(name) {
            Some(entry) => entry.key_span.clone(),
            None => node.key("as").span.clone(),
        };
        let twice = names.iter().any(|(other, _)| *other == name.as_str());
        if !is_name(name) || reader.vars.has(name) || twice {
            let (message, label) = match is_name(name) {
                true => (format!("the variable `{name}` is defined twice"), "again"),
                false => (
                    format!("`{name}` cannot be the name of a variable"),
                    "no name",
                ),
            };
            let help = "take another name: letters, digits and `_`".to_owned();
            reader.push(read::at(&place, message, label, help));
            return None;
        }
        reader.vars.forget_use(name);
        names.push((name.as_str(), place));
    }
    Some(names)
}

/// Ends the scope of the variables of a `repeat`, and reports those that were never used. After an error
/// nothing is known of that.
pub(super) fn end_scope(reader: &mut Reader<'_>, names: &[(&str, Range<usize>)]) {
    let clean = reader.is_clean();
    for (name, place) in names {
        if clean {
            let help = "use it in a step of the `repeat`, or remove it".to_owned();
            report_unused(reader, name, place, help);
        }
        reader.vars.unset(name);
    }
}

/// Gives every variable of `draws` a value from `random`, or the one that is to be tried.
pub(super) fn draw(
    reader: &mut Reader<'_>,
    draws: &IndexMap<String, Draw>,
    node: &Node,
    random: &mut ChaCha8Rng,
) {
    for (name, draw) in draws {
        let node = node.key(name);
        let value = match draw {
            Draw::OneOf(list) => one_of(reader, list, node, random),
            Draw::Within(within) => multiple(reader, within, node, random),
        };
        if let Some(value) = &value
            && reader.picks.wanted(node.span.start).is_some()
        {
            reader.tried = format!("`{name}` is drawn as `{value}`");
        }
        // Report a missing value once, then use 0 so that no follow-up errors appear.
        reader
            .vars
            .set(name, value.unwrap_or_else(|| "0".to_owned()));
    }
}

/// One of a list. All of it is read once, whatever is drawn.
fn one_of(
    reader: &mut Reader<'_>,
    list: &List<Scalar<Literal>>,
    node: &Node,
    random: &mut ChaCha8Rng,
) -> Option<String> {
    if reader.picks.meet(node.span.start, list.0.len()) {
        for (index, value) in list.0.iter().enumerate() {
            reader.get(value, node.item(index));
        }
    }
    let drawn = below(random, list.0.len() as u64) as usize;
    let index = reader.picks.wanted(node.span.start).unwrap_or(drawn);
    let value = list.0.get(index)?;
    reader.get(value, node.item(index))
}

/// A multiple of `align` in a range.
fn multiple(
    reader: &mut Reader<'_>,
    within: &Within,
    node: &Node,
    random: &mut ChaCha8Rng,
) -> Option<String> {
    let range = reader.get(&within.within, node.key("within"));
    let align = reader.get_or(within.align.as_ref(), node.key("align"), 4096);
    let (range, align) = range.zip(align)?;
    let first = range.start.checked_next_multiple_of(align);
    let Some(first) = first.filter(|first| *first < range.end) else {
        reader.wrong(
            node.key("within"),
            format!("no multiple of {} lies in it", Bytes(align)),
            "nothing to draw from",
            "widen the range, or take a smaller `align`".to_owned(),
        );
        return None;
    };
    let many = (range.end - first).div_ceil(align);
    reader.picks.meet(node.span.start, 2);
    let drawn = below(random, many);
    let index = match reader.picks.wanted(node.span.start) {
        None => drawn,
        Some(0) => 0,
        Some(_) => many - 1,
    };
    Some(Bytes(first + align * index).to_string())
}

/// A number below `end`, which is not 0. The slight favour for small numbers does not matter, and
/// the way from seed to number stays ours.
pub(super) fn below(random: &mut ChaCha8Rng, end: u64) -> u64 {
    random.next_u64() % end.max(1)
}
