//! Where two answers differ.

use serde_json::Value;

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
