//! Locks and elections by the recipes of etcd's clients, with fencing.
//!
//! A candidate puts a key of its own under the lock's name with its lease; the one with the smallest create revision
//! holds. It learns that by reading the keys again and again: a script has one request at a time, so it does not watch.
//! Whoever holds adds elements in transactions that compare the create revision of its own key (the fence), so that one
//! that only believes it holds adds nothing.

use super::script::{MILLISECOND, Script, Step, put_leased};
use crate::history::op::{Compare, Expected, Op, Range, Request, SortBy, Txn, prefix_end};
use crate::rng::Rng;

/// TTL of a candidate's lease in seconds.
const TTL: i64 = 5;
/// Guarded adds while it holds, at most.
const ADDS_MAX: u64 = 4;
/// Between two looks at the other candidates.
const POLL: u64 = 15 * MILLISECOND;
/// Elements begin so.
pub const ELEMENTS: &str = "fenced/";

/// Where a candidate is in its recipe.
enum Stage {
    Grant,
    Announce,
    Wait,
    Look,
    Hold { adds: u64, since: u64 },
    Note { since: u64 },
    Resign,
    Revoke,
}

/// One candidate for a lock or an election.
pub struct Lock {
    /// `lock/` or `election/`: candidates' keys begin so.
    name: &'static str,
    rng: Rng,
    stage: Stage,
    lease: i64,
    key: String,
    fence: i64,
    now: u64,
}

impl Lock {
    /// The script of one client.
    pub fn new(name: &'static str, rng: Rng) -> Self {
        Self { name, rng, stage: Stage::Grant, lease: 0, key: String::new(), fence: 0, now: 0 }
    }

    fn fence(&self) -> Compare {
        Compare { key: self.key.clone(), is: Expected::Create(self.fence) }
    }
}

impl Script for Lock {
    fn next(&mut self, id: u64, now: u64) -> Step {
        self.now = now;
        match &mut self.stage {
            Stage::Grant => {
                self.lease = id as i64 * 1013 + 11;
                self.key = format!("{}{:x}", self.name, self.lease);
                Step::Send(Request::Grant(self.lease, TTL))
            }
            Stage::Announce => {
                let missing = Compare { key: self.key.clone(), is: Expected::Create(0) };
                let success = vec![put_leased(&self.key, id.to_string(), self.lease)];
                Step::Send(Request::Txn(Txn { compare: vec![missing], success, failure: vec![] }))
            }
            Stage::Wait => {
                self.stage = Stage::Look;
                Step::Wait(POLL)
            }
            Stage::Look => Step::Send(Request::Range(Range {
                key: self.name.into(),
                end: Some(prefix_end(self.name)),
                sort: Some((SortBy::Create, false)),
                limit: 1,
                ..Range::default()
            })),
            Stage::Hold { adds: 0, since } => {
                let since = *since;
                self.stage = Stage::Note { since };
                self.next(id, now)
            }
            Stage::Hold { adds, .. } => {
                *adds -= 1;
                let success = vec![Request::put(format!("{ELEMENTS}{id:010}"), self.key.clone())];
                Step::Send(Request::Txn(Txn { compare: vec![self.fence()], success, failure: vec![] }))
            }
            Stage::Note { since } => {
                let since = *since;
                self.stage = Stage::Resign;
                Step::Note(Request::Hold(self.name.into(), self.key.clone(), self.fence), since)
            }
            Stage::Resign => {
                self.stage = Stage::Revoke;
                let delete = crate::history::op::Delete { key: self.key.clone(), ..Default::default() };
                Step::Send(Request::Delete(delete))
            }
            Stage::Revoke => {
                self.stage = Stage::Grant;
                Step::Send(Request::Revoke(self.lease))
            }
        }
    }

    fn learn(&mut self, op: &Op) {
        let reply = op.reply();
        self.stage = match (&op.request, &self.stage, reply) {
            (Request::Grant(..), _, Some(_)) => Stage::Announce,
            (Request::Txn(_), Stage::Announce, Some(reply)) if reply.succeeded => {
                self.fence = reply.rev;
                Stage::Look
            }
            (Request::Txn(_), Stage::Announce, _) => Stage::Revoke,
            (Request::Range(_), Stage::Look, Some(reply)) => match reply.kvs.first() {
                Some(first) if first.key == self.key => {
                    Stage::Hold { adds: self.rng.between(1, ADDS_MAX), since: op.end }
                }
                Some(first) if first.create_revision < self.fence => Stage::Wait,
                // Its own key is gone: the lease ran out while it waited.
                _ => Stage::Revoke,
            },
            (Request::Range(_), Stage::Look, None) => Stage::Wait,
            // A fence that fails ends the belief; an unknown outcome does not.
            (Request::Txn(_), Stage::Hold { since, .. }, Some(reply)) if !reply.succeeded => {
                Stage::Note { since: *since }
            }
            _ => return,
        };
    }
}
