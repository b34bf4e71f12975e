//! Writers for watches: puts, deletes and transactions of several events over a few prefixes, and compactions.

use super::script::{Script, Step};
use crate::history::op::{Delete, Op, Put, Range, Request, SortBy, Txn, prefix_end};
use crate::rng::Rng;

/// Keys begin so; the next letter is one of [`GROUPS`].
pub const PREFIX: &str = "w/";
/// Prefixes within that.
pub const GROUPS: [&str; 3] = ["a", "b", "c"];
/// Keys in each.
const KEYS: u64 = 12;
/// Requests of the first client between two compactions.
const COMPACT_EVERY: u64 = 50;
/// Revisions that a compaction leaves readable.
const KEPT: i64 = 60;
/// One put in this many is large, so that a response is cut into fragments.
const LARGE_ONE_IN: u64 = 300;
/// Bytes of a large value.
const LARGE: usize = 400_000;

/// One client.
pub struct Watched {
    process: u32,
    rng: Rng,
    sent: u64,
    head: i64,
    compacted: i64,
}

impl Watched {
    /// The script of one client.
    pub fn new(process: u32, rng: Rng) -> Self {
        Self { process, rng, sent: 0, head: 0, compacted: 0 }
    }

    fn key(&mut self) -> String {
        format!("{PREFIX}{}/{:02}", *self.rng.pick(&GROUPS), self.rng.below(KEYS))
    }

    fn read(&mut self) -> Range {
        let prefix = format!("{PREFIX}{}/", *self.rng.pick(&GROUPS));
        let by = *self.rng.pick(&[SortBy::Key, SortBy::Mod, SortBy::Create]);
        let low = self.head - self.rng.below(40) as i64;
        Range {
            end: Some(prefix_end(&prefix)),
            key: prefix,
            limit: self.rng.below(6) as i64,
            keys_only: self.rng.chance(0.3),
            serializable: self.rng.chance(0.3),
            revision: if self.rng.chance(0.4) { low.max(0) } else { 0 },
            // Only orders without equals have one right answer.
            sort: matches!(by, SortBy::Key).then_some((by, self.rng.chance(0.5))),
            bounds: if self.rng.chance(0.3) { [low.max(0), 0, 0, self.head] } else { [0; 4] },
            count_only: false,
        }
    }
}

impl Script for Watched {
    fn next(&mut self, id: u64, _: u64) -> Step {
        self.sent += 1;
        if self.process == 0 && self.compacted > 0 && self.sent % COMPACT_EVERY == COMPACT_EVERY - 1 {
            // What the last compaction had to leave, now that it had the time to drop the rest.
            let end = Some(prefix_end(PREFIX));
            let revision = self.compacted;
            return Step::Send(Request::Range(Range { key: PREFIX.into(), end, revision, ..Range::default() }));
        }
        let target = self.head - KEPT;
        if self.process == 0 && self.sent.is_multiple_of(COMPACT_EVERY) && target > self.compacted.max(1) {
            self.compacted = target;
            return Step::Send(Request::Compact(target));
        }
        let key = self.key();
        let value =
            if self.rng.below(LARGE_ONE_IN) == 0 { format!("{id} {}", "x".repeat(LARGE)) } else { id.to_string() };
        Step::Send(match self.rng.below(100) {
            0..45 => Request::Put(Put { key, value, prev_kv: true, lease: 0 }),
            45..60 => Request::Delete(Delete { key, prev_kv: true, end: None }),
            60..85 => {
                let count = self.rng.between(2, 8);
                let first = self.rng.below(KEYS);
                let one = |n: u64| {
                    let key = format!("{PREFIX}{}/{:02}", GROUPS[n as usize % GROUPS.len()], (first + n) % KEYS);
                    match self.rng.chance(0.25) {
                        true => Request::Delete(Delete { key, ..Delete::default() }),
                        false => Request::put(key, id.to_string()),
                    }
                };
                let success: Vec<Request> = (0..count).map(one).collect();
                Request::Txn(Txn { success, ..Txn::default() })
            }
            _ => Request::Range(self.read()),
        })
    }

    fn learn(&mut self, op: &Op) {
        self.head = self.head.max(op.reply().map_or(0, |reply| reply.rev));
    }
}
