//! Documents and differences between them as JSON.

use automerge::{ObjType, Patch, PatchAction, Prop, ScalarValue, hydrate};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// A value, with everything in it.
pub fn value(value: &hydrate::Value) -> Value {
    match value {
        hydrate::Value::Scalar(value) => scalar(value),
        hydrate::Value::Map(map) => {
            Value::Object(map.iter().map(|(key, entry)| (key.clone(), self::value(&entry.value))).collect())
        }
        hydrate::Value::List(list) => {
            Value::Array(list.iter().map(|entry| self::value(&entry.value)).collect())
        }
        hydrate::Value::Text(text) => Value::String(text.to_string()),
    }
}

fn scalar(value: &ScalarValue) -> Value {
    match value {
        ScalarValue::Str(text) => Value::String(text.to_string()),
        ScalarValue::Int(number) | ScalarValue::Timestamp(number) => Value::from(*number),
        ScalarValue::Uint(number) => Value::from(*number),
        // Not a number, or infinite: null.
        ScalarValue::F64(number) => Value::from(*number),
        ScalarValue::Counter(counter) => Value::from(i64::from(counter)),
        ScalarValue::Boolean(boolean) => Value::from(*boolean),
        ScalarValue::Bytes(bytes) => json!({ "$bytes": STANDARD.encode(bytes) }),
        ScalarValue::Null | ScalarValue::Unknown { .. } => Value::Null,
    }
}

/// What leads from one state to another.
pub fn patches(patches: &[Patch]) -> Value {
    Value::Array(patches.iter().map(patch).collect())
}

fn patch(patch: &Patch) -> Value {
    let mut path: Vec<Value> = patch.path.iter().map(|(_, prop)| prop_value(prop)).collect();
    let mut said = Map::new();
    let mut say = |name: &str, value: Value| drop(said.insert(name.to_owned(), value));
    match &patch.action {
        PatchAction::PutMap { key, value, .. } => {
            path.push(Value::from(key.clone()));
            say("action", "put".into());
            say("value", put(&value.0));
        }
        PatchAction::PutSeq { index, value, .. } => {
            path.push(Value::from(*index));
            say("action", "put".into());
            say("value", put(&value.0));
        }
        PatchAction::Insert { index, values } => {
            path.push(Value::from(*index));
            say("action", "insert".into());
            say("values", values.iter().map(|(value, _, _)| put(value)).collect());
        }
        PatchAction::SpliceText { index, value, .. } => {
            path.push(Value::from(*index));
            say("action", "insert_text".into());
            say("text", value.make_string().into());
        }
        PatchAction::Increment { prop, value } => {
            path.push(prop_value(prop));
            say("action", "increment".into());
            say("by", Value::from(*value));
        }
        PatchAction::Conflict { prop } => {
            path.push(prop_value(prop));
            say("action", "conflict".into());
        }
        PatchAction::DeleteMap { key } => {
            path.push(Value::from(key.clone()));
            say("action", "delete".into());
        }
        PatchAction::DeleteSeq { index, length } => {
            path.push(Value::from(*index));
            say("action", "delete".into());
            say("count", Value::from(*length));
        }
        PatchAction::Mark { marks } => {
            let mark = |mark: &automerge::marks::Mark| {
                let value = scalar(mark.value());
                json!({ "name": mark.name(), "value": value, "from": mark.start, "to": mark.end })
            };
            say("action", "mark".into());
            say("marks", marks.iter().map(mark).collect());
        }
    }
    say("path", Value::Array(path));
    Value::Object(said)
}

fn prop_value(prop: &Prop) -> Value {
    match prop {
        Prop::Map(key) => Value::from(key.clone()),
        Prop::Seq(index) => Value::from(*index),
    }
}

/// A value as it is put: an object begins empty, and what is in it follows.
fn put(value: &automerge::Value<'_>) -> Value {
    match value {
        automerge::Value::Object(ObjType::Map | ObjType::Table) => json!({}),
        automerge::Value::Object(ObjType::List) => json!([]),
        automerge::Value::Object(ObjType::Text) => json!(""),
        automerge::Value::Scalar(value) => scalar(value),
    }
}
