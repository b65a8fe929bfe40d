//! The JSON Schema of a scenario file.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::{Value, json};

use super::linux;
use super::model::File;

/// The JSON Schema of a scenario file, for editors: of the micro guest, or of a Linux guest where
/// `guest` says so. `docs/scenario.schema.json` is a copy.
pub fn schema() -> Value {
    let mut definitions = serde_json::Map::new();
    let mut take = |mut root: Value, name: &str| {
        if let Some(object) = root.as_object_mut() {
            if let Some(Value::Object(own)) = object.remove("$defs") {
                definitions.extend(own);
            }
            object.remove("$schema");
        }
        definitions.insert(name.to_owned(), root);
        json!({ "$ref": format!("#/$defs/{name}") })
    };
    let micro = take(of::<File>(), "Scenario");
    let linux = take(linux::schema().clone(), "LinuxScenario");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tdxlab scenario",
        "type": "object",
        "if": {
            "properties": { "guest": { "type": "object", "required": ["linux"] } },
            "required": ["guest"],
        },
        "then": linux,
        "else": micro,
        "$defs": definitions,
    })
}

/// The JSON Schema of a type, which files are held against.
pub(super) fn of<T: JsonSchema>() -> Value {
    let mut schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>();
    RecursiveTransform(|schema: &mut schemars::Schema| forbid_null(schema)).transform(&mut schema);
    schema.insert("title".to_owned(), "tdxlab scenario".into());
    schema.to_value()
}

/// An optional key may be left out, but must not be present without a value.
fn forbid_null(schema: &mut schemars::Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    // Defaults are described in words; `null` and `{}` say nothing.
    object.remove("default");
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(alternatives)) = object.get_mut("anyOf") else {
        return;
    };
    alternatives.retain(|alternative| *alternative != serde_json::json!({ "type": "null" }));
    if let [Value::Object(only)] = alternatives.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}
