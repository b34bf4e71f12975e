//! The crash runs' operations in the common format of a history.
//!
//! Their ledger works on values that name their operation; on disk all workloads look alike.

use super::op::{Compare, Delete, Expected, Failure, Kv, Op, Outcome, Put, Range, Reply, Request, Txn};
use super::{Action, Doom, Key, Operation, Value};

impl From<&Operation> for Op {
    fn from(operation: &Operation) -> Self {
        let failure = |text: &str, definite| {
            let (code, msg) = text.split_once(": ").unwrap_or(("connection", text));
            Failure { code: code.into(), msg: msg.into(), definite }
        };
        let outcome = match &operation.outcome {
            super::Outcome::Refused(why) => Outcome::Fail { err: failure(why, true) },
            super::Outcome::Unknown(why) => Outcome::Info { err: failure(why, false) },
            super::Outcome::Acknowledged(answer) => {
                let read = answer.read.iter().map(kv).collect::<Vec<Kv>>();
                let count = read.len() as i64;
                let base = Reply { rev: answer.revision, deleted: answer.deleted, ttl: answer.ttl, ..Reply::default() };
                let out = match operation.action {
                    Action::Cas { .. } if !answer.succeeded => {
                        Reply { replies: vec![Reply { kvs: read, count, ..Reply::default() }], ..base }
                    }
                    Action::Cas { .. } | Action::Many { .. } => Reply { succeeded: answer.succeeded, ..base },
                    _ => Reply { kvs: read, count, ..base },
                };
                Outcome::Ok { out }
            }
        };
        let Operation { id, process, start, end, .. } = *operation;
        Self { id, process, node: 0, start, end, request: request(&operation.action), outcome }
    }
}

fn request(action: &Action) -> Request {
    match action {
        Action::Put { key, value, lease } => put(key, value, *lease),
        Action::Delete { key, end } => delete(key, end.clone()),
        Action::Cas { key, expected, value } => Request::Txn(Txn {
            compare: vec![Compare { key: key.clone(), is: Expected::Mod(*expected) }],
            success: vec![put(key, value, 0)],
            failure: vec![Request::get(key.clone())],
        }),
        Action::Many { puts, deletes } => {
            let puts = puts.iter().map(|(key, value)| put(key, value, 0));
            let success = puts.chain(deletes.iter().map(|key| delete(key, None))).collect();
            Request::Txn(Txn { success, ..Txn::default() })
        }
        Action::Get { key, serializable } => {
            Request::Range(Range { key: key.clone(), serializable: *serializable, ..Range::default() })
        }
        Action::Doomed { how, key, value } => {
            let other = Value { part: value.part + 1, ..*value };
            let success = match how {
                Doom::UnknownLease => return put(key, value, -1),
                Doom::DuplicateKey => vec![put(key, value, 0), put(key, &other, 0)],
                Doom::HalfGood => vec![put(key, value, 0), put(&format!("{key}/second"), &other, -1)],
            };
            Request::Txn(Txn { success, ..Txn::default() })
        }
        Action::Grant { id, ttl } => Request::Grant(*id, *ttl),
        Action::Revoke { id } => Request::Revoke(*id),
        Action::Compact { revision } => Request::Compact(*revision),
    }
}

fn put(key: &Key, value: &Value, lease: i64) -> Request {
    Request::Put(Put { key: key.clone(), value: text(value), lease, prev_kv: false })
}

fn delete(key: &Key, end: Option<Key>) -> Request {
    Request::Delete(Delete { key: key.clone(), end, prev_kv: false })
}

/// The value's header; its filler follows from it.
fn text(value: &Value) -> String {
    format!("{}.{}.{}.", value.operation, value.part, value.length)
}

fn kv(kv: &super::Kv) -> Kv {
    Kv {
        key: kv.key.clone(),
        value: kv.value.as_ref().map(text).unwrap_or_default(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, write_lines};

    #[test]
    fn an_operation_of_a_crash_run_is_stored_like_all_others() {
        let value = Value { operation: 7, part: 0, length: 40 };
        let action = Action::Cas { key: "reg/1".into(), expected: 3, value };
        let outcome =
            crate::history::Outcome::Acknowledged(Answer { revision: 9, succeeded: true, ..Answer::default() });
        let operation = Operation { id: 7, process: 1, start: 10, end: 20, action, outcome };
        let mut bytes = Vec::new();
        write_lines(&mut bytes, &[Op::from(&operation)]).unwrap();
        let op: Op = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((op.id, op.request.name(), op.reply().unwrap().succeeded), (7, "txn", true));
    }
}
