//! What kube-apiserver asks: guarded creates, updates and deletes, lists in pages at one revision, compactions.
//!
//! The lists and watches of its caches are readers of the run, see [`reader`](super::reader).

use std::collections::BTreeMap;

use super::script::{Script, Step, unchanged};
use crate::history::op::{Delete, Op, Range, Request, Txn, prefix_end};
use crate::rng::Rng;

/// Objects begin so.
pub const PREFIX: &str = "/registry/pods/";
/// Objects that the clients share.
const OBJECTS: u64 = 40;
/// Objects in a page.
const PAGE: i64 = 7;
/// Requests of the first client between two compactions.
const COMPACT_EVERY: u64 = 60;
/// Revisions that a compaction leaves readable.
const KEPT: i64 = 150;

/// One client.
pub struct Kubernetes {
    process: u32,
    rng: Rng,
    sent: u64,
    known: BTreeMap<String, i64>,
    head: i64,
    compacted: i64,
    /// The next page: from this key, at this revision.
    page: Option<(String, i64)>,
}

impl Kubernetes {
    /// The script of one client.
    pub fn new(process: u32, rng: Rng) -> Self {
        Self { process, rng, sent: 0, known: BTreeMap::new(), head: 0, compacted: 0, page: None }
    }
}

impl Script for Kubernetes {
    fn next(&mut self, id: u64, _: u64) -> Step {
        self.sent += 1;
        let list = |key: String, revision| Range {
            key,
            end: Some(prefix_end(PREFIX)),
            limit: PAGE,
            revision,
            ..Range::default()
        };
        if let Some((key, revision)) = self.page.take() {
            return Step::Send(Request::Range(list(key, revision)));
        }
        let target = self.head - KEPT;
        if self.process == 0 && self.sent.is_multiple_of(COMPACT_EVERY) && target > self.compacted.max(1) {
            self.compacted = target;
            return Step::Send(Request::Compact(target));
        }
        let key = format!("{PREFIX}ns-{}/pod-{:02}", self.rng.below(3), self.rng.below(OBJECTS));
        let guard = vec![unchanged(&key, self.known.get(&key).copied().unwrap_or(0))];
        let failure = vec![Request::get(key.clone())];
        Step::Send(match self.rng.below(100) {
            0..10 => Request::Range(list(PREFIX.into(), 0)),
            10..15 => Request::Range(Range { count_only: true, limit: 0, ..list(PREFIX.into(), 0) }),
            15..20 => Request::get(key),
            20..40 if self.known.get(&key).is_some_and(|known| *known > 0) => {
                let success = vec![Request::Delete(Delete { key, ..Delete::default() })];
                Request::Txn(Txn { compare: guard, success, failure })
            }
            _ => Request::Txn(Txn { compare: guard, success: vec![Request::put(key, id.to_string())], failure }),
        })
    }

    fn learn(&mut self, op: &Op) {
        let Some(reply) = op.reply() else { return };
        self.head = self.head.max(reply.rev);
        match &op.request {
            Request::Range(range) => {
                if let Some(last) = reply.kvs.last().filter(|_| reply.more) {
                    let at = if range.revision == 0 { reply.rev } else { range.revision };
                    self.page = Some((format!("{}\0", last.key), at));
                }
                self.known.extend(reply.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
            }
            Request::Txn(txn) => {
                let Some(compare) = txn.compare.first() else { return };
                let now = match (reply.succeeded, &txn.success[..]) {
                    (true, [Request::Put(_)]) => reply.rev,
                    (true, _) => 0,
                    (false, _) => {
                        reply.replies.iter().flat_map(|one| &one.kvs).map(|kv| kv.mod_revision).next().unwrap_or(0)
                    }
                };
                self.known.insert(compare.key.clone(), now);
            }
            _ => {}
        }
    }
}
