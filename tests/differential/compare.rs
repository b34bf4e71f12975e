//! Where two answers differ, and how to spoil one so that they must.

use serde_json::{Map, Value, json};

use crate::random::Random;

/// Lines shown of one difference.
const LINES_MAX: usize = 12;
/// Characters shown of one value.
const VALUE_CHARS_MAX: usize = 300;

/// The paths at which two answers differ, each with both values; empty when they are equal.
pub fn differences(one: &Value, two: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect("", one, two, &mut found);
    found.truncate(LINES_MAX);
    found
}

fn collect(path: &str, one: &Value, two: &Value, found: &mut Vec<String>) {
    match (one, two) {
        (Value::Object(first), Value::Object(second)) => {
            for (name, value) in first {
                collect(&format!("{path}.{name}"), value, second.get(name).unwrap_or(&Value::Null), found);
            }
            for (name, value) in second.iter().filter(|(name, _)| !first.contains_key(*name)) {
                collect(&format!("{path}.{name}"), &Value::Null, value, found);
            }
        }
        (Value::Array(first), Value::Array(second)) => {
            if first.len() != second.len() {
                found.push(format!("{path}: {} items, not {}", second.len(), first.len()));
            }
            for (index, (one, two)) in first.iter().zip(second).enumerate() {
                collect(&format!("{path}[{index}]"), one, two, found);
            }
        }
        _ if one != two => found.push(format!("{path}: {}, not {}", shown(two), shown(one))),
        _ => {}
    }
}

/// A value as one short line.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// Changes one value somewhere in an answer.
pub fn spoil(answer: &mut Value, random: &mut Random) {
    let leaves = leaves(answer);
    let mut left = random.below(leaves.max(1));
    if leaves == 0 || !change(answer, &mut left) {
        *answer = json!({"spoiled": answer.take()});
    }
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.values().map(leaves).sum(),
        Value::Array(list) => list.iter().map(leaves).sum(),
        _ => 1,
    }
}

/// Changes the leaf number `left`, counting down.
fn change(value: &mut Value, left: &mut usize) -> bool {
    match value {
        Value::Object(object) => object.values_mut().any(|value| change(value, left)),
        Value::Array(list) => list.iter_mut().any(|value| change(value, left)),
        _ if *left > 0 => {
            *left -= 1;
            false
        }
        leaf => {
            *leaf = match &*leaf {
                Value::Bool(bool) => json!(!bool),
                // Far off, so that no tolerance covers it.
                Value::Number(number) => json!(number.as_i64().unwrap_or(0) ^ (1 << 40)),
                Value::String(text) => json!(format!("{text}\u{1}")),
                _ => Value::Object(Map::from_iter([("spoiled".to_owned(), json!(true))])),
            };
            true
        }
    }
}
