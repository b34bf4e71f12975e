//! Registers: reads, writes, compare-and-set by value and deletes of single keys.
//!
//! Keys are replaced after a while, so that a search for a linearization has pieces of a size that it can do.

use std::collections::BTreeMap;

use super::script::{Script, Step};
use crate::history::op::{Compare, Delete, Expected, Op, Range, Request, Txn};
use crate::rng::Rng;

/// Keys in use at one time.
pub const KEYS: u64 = 4;
/// Requests of one client until the keys are replaced.
const GENERATION: u64 = 80;
/// Keys begin so.
pub const PREFIX: &str = "reg/";

/// One client.
pub struct Register {
    rng: Rng,
    keys: u64,
    sent: u64,
    seen: BTreeMap<String, String>,
}

impl Register {
    /// The script of one client.
    pub fn new(rng: Rng) -> Self {
        Self { rng, keys: KEYS, sent: 0, seen: BTreeMap::new() }
    }

    /// On so many keys at one time.
    pub fn on(self, keys: u64) -> Self {
        Self { keys, ..self }
    }
}

impl Script for Register {
    fn next(&mut self, id: u64, _: u64) -> Step {
        let key = format!("{PREFIX}{}", self.sent / GENERATION * self.keys + self.rng.below(self.keys));
        self.sent += 1;
        Step::Send(match self.rng.below(100) {
            0..40 => Request::get(key),
            40..45 => Request::Range(Range { key, serializable: true, ..Range::default() }),
            45..70 => Request::put(key, id.to_string()),
            70..92 => {
                let expected = self.seen.get(&key).cloned().unwrap_or_default();
                Request::Txn(Txn {
                    compare: vec![Compare { key: key.clone(), is: Expected::Value(expected) }],
                    success: vec![Request::put(key.clone(), id.to_string())],
                    failure: vec![Request::get(key)],
                })
            }
            _ => Request::Delete(Delete { key, ..Delete::default() }),
        })
    }

    fn learn(&mut self, op: &Op) {
        let Some(reply) = op.reply() else { return };
        let read = match &op.request {
            Request::Range(_) => reply.kvs.first(),
            Request::Txn(_) => reply.replies.first().and_then(|reply| reply.kvs.first()),
            _ => None,
        };
        if let Some(kv) = read {
            self.seen.insert(kv.key.clone(), kv.value.clone());
        } else if let Request::Put(put) = &op.request {
            self.seen.insert(put.key.clone(), put.value.clone());
        }
    }
}
