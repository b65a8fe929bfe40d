//! The JSON Schema of a scenario file.

use serde_json::{Value, json};

use super::linux;
use super::model::File;
use super::type_schema::of;

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
