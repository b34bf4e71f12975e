//! Lists: transactions of reads and appends over a few keys, guarded by what was read before.
//!
//! A list is a value of numbers, the newest last. A transaction is first a read of all its keys (a transaction itself),
//! then one with a comparison for each key. A put in it appends the last number of its value.

use std::collections::BTreeMap;

use super::script::{Script, Step, guarded, unchanged};
use crate::history::Key;
use crate::history::op::{Op, Request, Txn};
use crate::rng::Rng;

/// Keys in use at one time.
pub const KEYS: u64 = 3;
/// Transactions of one client until the keys are replaced: lists stay short.
const GENERATION: u64 = 40;
/// Keys begin so.
pub const PREFIX: &str = "list/";

/// One client.
pub struct Append {
    rng: Rng,
    keys: u64,
    sent: u64,
    /// Of the transaction whose read is out: key → does it append.
    wanted: Vec<(Key, bool)>,
    /// What that read said.
    read: Option<BTreeMap<Key, (i64, String)>>,
}

impl Append {
    /// The script of one client.
    pub fn new(rng: Rng) -> Self {
        Self { rng, keys: KEYS, sent: 0, wanted: Vec::new(), read: None }
    }

    /// On so many keys at one time.
    pub fn on(self, keys: u64) -> Self {
        Self { keys, ..self }
    }
}

impl Script for Append {
    fn next(&mut self, id: u64, _: u64) -> Step {
        if let Some(read) = self.read.take() {
            let compare =
                self.wanted.iter().map(|(key, _)| unchanged(key, read.get(key).map_or(0, |kv| kv.0))).collect();
            let one = |(key, append): &(Key, bool)| match (append, read.get(key)) {
                (false, _) => Request::get(key.clone()),
                (true, None) => Request::put(key.clone(), id.to_string()),
                (true, Some((_, list))) => Request::put(key.clone(), format!("{list} {id}")),
            };
            return Step::Send(guarded(compare, self.wanted.iter().map(one).collect()));
        }
        let first = self.sent / GENERATION * self.keys;
        self.sent += 1;
        let mut keys: Vec<u64> = (0..self.keys).collect();
        self.wanted.clear();
        for _ in 0..self.rng.between(1, self.keys) {
            let key = keys.swap_remove(self.rng.below(keys.len() as u64) as usize);
            self.wanted.push((format!("{PREFIX}{}", first + key), self.rng.chance(0.6)));
        }
        let success = self.wanted.iter().map(|(key, _)| Request::get(key.clone())).collect();
        Step::Send(Request::Txn(Txn { success, ..Txn::default() }))
    }

    fn learn(&mut self, op: &Op) {
        let Request::Txn(txn) = &op.request else { return };
        let Some(reply) = op.reply().filter(|_| txn.compare.is_empty()) else { return };
        if self.wanted.iter().all(|(_, append)| !append) {
            return;
        }
        let kvs = reply.replies.iter().flat_map(|reply| &reply.kvs);
        self.read = Some(kvs.map(|kv| (kv.key.clone(), (kv.mod_revision, kv.value.clone()))).collect());
    }
}
