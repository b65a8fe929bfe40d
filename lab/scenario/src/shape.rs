//! Checks a file against the JSON Schema of its own types: unknown keys, missing keys, a list in
//! place of a value. Reports all at once; serde would stop at the first.
//!
//! Single values are not checked here, but when variables have values.

use serde_json::{Map, Value};

use super::error::{MAX_PROBLEMS, Problem};
use super::vars::nearest;
use super::yaml::{Content, Node};

/// Puts all that is wrong with the shape of `file` into `problems`.
pub(super) fn check(file: &Node, schema: &Value, problems: &mut Vec<Problem>) {
    let mut shape = Shape { schema, problems };
    shape.visit(file, schema, "a scenario");
}

struct Shape<'a> {
    schema: &'a Value,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Shape<'a> {
    /// Checks that `node`, called `name` in messages, has the shape of `schema`.
    fn visit(&mut self, node: &Node, schema: &'a Value, name: &str) {
        let choices = self.choices(schema);
        let find = |kind: &str| choices.iter().copied().find(|choice| is(choice, kind));
        match &node.content {
            Content::Empty => self.problems.push(
                Problem::new(node.span.clone(), format!("{name} has no value"), "empty").help(
                    format!(
                        "give it a value or leave it out; it is {}",
                        wanted(&choices)
                    ),
                ),
            ),
            Content::Mapping(_) => match find("object") {
                Some(object) => self.mapping(node, object, name),
                None => self.wrong_shape(node, "a mapping", name, &choices),
            },
            Content::List(items) => match find("array") {
                Some(array) => {
                    if items.is_empty() {
                        self.problems.push(Problem::new(
                            node.span.clone(),
                            format!("{name} is an empty list"),
                            "nothing in it",
                        ));
                    }
                    if let Some(item) = array.get("items") {
                        let name = entry_name(name);
                        for node in items {
                            self.visit(node, item, &name);
                        }
                    }
                }
                None => self.wrong_shape(node, "a list", name, &choices),
            },
            Content::Scalar(_) => {
                let scalar =
                    |choice: &&Map<String, Value>| !is(choice, "object") && !is(choice, "array");
                if !choices.iter().any(scalar) {
                    self.wrong_shape(node, "a single value", name, &choices);
                }
            }
        }
    }

    fn mapping(&mut self, node: &Node, object: &'a Map<String, Value>, name: &str) {
        let properties = object.get("properties").and_then(Value::as_object);
        let known = || {
            properties
                .into_iter()
                .flat_map(|keys| keys.keys().map(String::as_str))
        };
        let others = object
            .get("additionalProperties")
            .filter(|others| others.is_object());
        let mut meant = Vec::new();
        for entry in node.entries() {
            if self.problems.len() >= MAX_PROBLEMS {
                return;
            }
            let key = format!("`{}`", entry.key);
            let value = properties.and_then(|keys| keys.get(&entry.key)).or(others);
            if let Some(schema) = value {
                self.visit(&entry.value, schema, &key);
                continue;
            }
            let near = nearest(&entry.key, known());
            meant.extend(near);
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None if entry.key == "expect" => {
                    "it stands beside `parallel`, for all branches together".to_owned()
                }
                None => format!("known here: {}", list(known())),
            };
            let message = format!("{name} has no key {key}");
            let problem = Problem::new(entry.key_span.clone(), message, "unknown key");
            self.problems.push(problem.help(help));
        }
        if node.entries().is_empty() {
            self.problems.push(
                Problem::new(
                    node.span.clone(),
                    format!("{name} is empty"),
                    "nothing in it",
                )
                .help(match properties {
                    Some(_) => format!("known here: {}", list(known())),
                    None => "give it a value or leave it out".to_owned(),
                }),
            );
            return;
        }
        let required = object.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            if node.entry(key).is_none() && !meant.contains(&key) {
                self.problems.push(
                    Problem::new(
                        node.span.clone(),
                        format!("{name} lacks `{key}`"),
                        "in here",
                    )
                    .help(self.describe(key, properties)),
                );
            }
        }
        self.exactly_one(node, object, name);
    }

    /// `oneOf` of single required keys: exactly one of them is there.
    fn exactly_one(&mut self, node: &Node, object: &Map<String, Value>, name: &str) {
        let Some(one_of) = object.get("oneOf").and_then(Value::as_array) else {
            return;
        };
        let keys = || {
            one_of
                .iter()
                .filter_map(|one| one.pointer("/required/0")?.as_str())
        };
        let mut there = keys().filter_map(|key| node.entry(key));
        match (there.next(), there.next()) {
            (Some(_), None) => {}
            (Some(first), Some(second)) => {
                let (earlier, later) = match first.key_span.start < second.key_span.start {
                    true => (first, second),
                    false => (second, first),
                };
                self.problems.push(
                    Problem::new(
                        later.key_span.clone(),
                        format!("{name} does both `{}` and `{}`", earlier.key, later.key),
                        "a second operation",
                    )
                    .help("one step does one thing; put `-` before the second to make two steps"),
                );
            }
            // An unknown key was most likely meant to be the operation, and is already reported.
            (None, _)
                if node.entries().iter().any(|entry| {
                    object
                        .get("properties")
                        .is_none_or(|keys| keys.get(&entry.key).is_none())
                }) => {}
            (None, _) => self.problems.push(
                Problem::new(
                    node.span.clone(),
                    format!("{name} does nothing"),
                    "no operation",
                )
                .help(format!("operations are {}", list(keys()))),
            ),
        }
    }

    fn wrong_shape(
        &mut self,
        node: &Node,
        found: &str,
        name: &str,
        choices: &[&'a Map<String, Value>],
    ) {
        let mut help = format!("it is {}", wanted(choices));
        let keys = choices
            .iter()
            .find_map(|choice| choice.get("properties")?.as_object());
        if let (Content::Scalar(_), Some(keys)) = (&node.content, keys) {
            help += &format!(" with the keys {}", list(keys.keys().map(String::as_str)));
        }
        self.problems.push(
            Problem::new(
                node.span.clone(),
                format!("{name} cannot be {found}"),
                found,
            )
            .help(help),
        );
    }

    /// The description of a key.
    fn describe(&self, key: &str, properties: Option<&'a Map<String, Value>>) -> String {
        let schema = properties.and_then(|keys| keys.get(key));
        let text = |schema: &'a Value| schema.get("description")?.as_str();
        match schema.and_then(|schema| text(schema).or_else(|| text(self.target(schema)))) {
            Some(description) => format!("`{key}`: {description}"),
            None => format!("add `{key}`"),
        }
    }

    /// What `$ref` points to.
    fn target(&self, schema: &'a Value) -> &'a Value {
        let pointer = schema.get("$ref").and_then(Value::as_str);
        pointer
            .and_then(|pointer| self.schema.pointer(pointer.trim_start_matches('#')))
            .unwrap_or(schema)
    }

    /// The shapes that `schema` allows, references followed.
    fn choices(&self, schema: &'a Value) -> Vec<&'a Map<String, Value>> {
        let schema = self.target(schema);
        match schema.get("anyOf").and_then(Value::as_array) {
            Some(any) => any.iter().flat_map(|one| self.choices(one)).collect(),
            None => schema.as_object().into_iter().collect(),
        }
    }
}

/// The noun for an entry of the list `name`.
fn entry_name(name: &str) -> String {
    match name {
        "`steps`" => "a step".to_owned(),
        "`parallel`" => "a branch".to_owned(),
        "a branch" => "an operation".to_owned(),
        _ => format!("an entry of {name}"),
    }
}

/// Whether a schema allows values of `kind`.
fn is(schema: &Map<String, Value>, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(several)) => several.iter().any(|one| one == kind),
        _ => false,
    }
}

/// Describes one of `choices`.
fn wanted(choices: &[&Map<String, Value>]) -> String {
    let mut words = Vec::new();
    for choice in choices {
        let word = match (is(choice, "object"), is(choice, "array")) {
            (true, _) => "a mapping",
            (_, true) => "a list",
            _ => "a single value",
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

/// `a`, `b`, `c`.
fn list<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    keys.map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
