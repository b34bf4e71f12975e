//! Spoils an answer, to prove that the comparison finds it.

use serde_json::{Map, Value, json};

use crate::random::Random;

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
