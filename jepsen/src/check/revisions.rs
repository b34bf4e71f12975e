//! Linearizability of any history of KV requests, by revisions: exact and without search, a million operations in seconds.
//!
//! Given the order of changes (the log), each request is evaluated on the state it must have seen. A history is
//! linearizable exactly when every answer is the one its state gives, every change has one owner and every owner its
//! change, refused requests changed nothing, and positions agree with real time (see [`order`](super::order)). Requests
//! without an outcome may own changes that nobody else does; which of several equal ones does is decided by matching.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::finding::Finding;
use super::order::{self, Placed};
use crate::history::op::{Kv, Op, Reply, Request};
use crate::history::stream::{Entry, Event, Log, show};
use crate::model::Store;

/// Judges all KV requests of a history against the log.
pub fn check(ops: &[Op], log: &Log) -> Finding {
    let mut run = Run { finding: Finding::new("revisions"), store: Store::new(log.base), log, placed: Vec::new() };
    for entry in log.entries.values() {
        run.check_fields(entry);
        run.store.commit(entry.rev, &entry.events);
    }
    let mut owners: HashMap<i64, u64> = HashMap::new();
    for op in ops.iter().filter(|op| is_kv(&op.request)) {
        if let Some(reply) = op.reply() {
            run.finding.checked += 1;
            run.check_answer(op, reply, &mut owners);
        }
    }
    run.check_refused(ops);
    run.match_unknown(ops, &owners);
    run.check_order(ops);
    run.finding
}

fn is_kv(request: &Request) -> bool {
    matches!(request, Request::Range(_) | Request::Put(_) | Request::Delete(_) | Request::Txn(_))
}

struct Run<'a> {
    finding: Finding,
    store: Store,
    log: &'a Log,
    placed: Vec<Placed>,
}

impl Run<'_> {
    /// Create revision and version must follow from the revision before; a deletion needs something to delete.
    fn check_fields(&mut self, entry: &Entry) {
        for (index, event) in entry.events.iter().enumerate() {
            let kv = &event.kv;
            let earlier = entry.events[..index].iter().rev().find(|earlier| earlier.kv.key == kv.key);
            let before = match earlier {
                Some(earlier) if earlier.deleted => None,
                Some(earlier) => Some(&earlier.kv),
                None => self.store.get(&kv.key, entry.rev - 1),
            };
            let right = match (event.deleted, before) {
                (true, before) => before.is_some(),
                (false, None) => kv.create_revision == entry.rev && kv.version == 1,
                (false, Some(old)) => kv.create_revision == old.create_revision && kv.version == old.version + 1,
            };
            if !right || kv.mod_revision != entry.rev {
                let text = format!("revision {}: {kv:?} (deleted: {}) follows on {before:?}", entry.rev, event.deleted);
                self.finding.wrong("wrong-fields", text, []);
            }
        }
    }

    /// The answer must be what the request gives on its state; a change must be in the log, and its alone.
    fn check_answer(&mut self, op: &Op, reply: &Reply, owners: &mut HashMap<i64, u64>) {
        let rev = reply.rev;
        if rev < self.log.base || rev > self.log.head() {
            let text = format!("answered at revision {rev}, the log has {}..={}", self.log.base, self.log.head());
            return self.finding.wrong("lost-write", text, [op.id]);
        }
        let changes = wrote(&op.request, reply);
        if changes && rev <= self.log.base {
            return self.finding.wrong("revision-reused", format!("a change at the old revision {rev}"), [op.id]);
        }
        let base = if changes { rev - 1 } else { rev };
        let effect = self.store.evaluate(&op.request, base, rev);
        self.placed.push(placed(op, rev, changes));
        if !same(&effect.reply, reply, &op.request) {
            let name = if changes { "wrong-answer" } else { "wrong-read" };
            let text = format!(
                "{} at revision {rev} was answered {}, had to be {}",
                op.request.name(),
                brief(reply),
                brief(&effect.reply)
            );
            self.finding.wrong(name, text, [op.id]);
        }
        if !changes {
            return;
        }
        if let Some(other) = owners.insert(rev, op.id) {
            self.finding.wrong(
                "revision-reused",
                format!("two changes were answered at revision {rev}"),
                [other, op.id],
            );
        }
        let events = self.log.entries.get(&rev).map_or(&[][..], |entry| &entry.events);
        if !same_changes(&effect.events, events) {
            let expected = show(&effect.events);
            let name = match common(&effect.events, events) {
                0 => "lost-write",
                _ => "half-transaction",
            };
            let text = format!("revision {rev} should be {expected}, is {}", show(events));
            self.finding.wrong(name, text, [op.id]);
        }
    }

    /// A refused request whose value is in the log did happen.
    fn check_refused(&mut self, ops: &[Op]) {
        let mut refused: HashMap<(&str, &str), u64> = HashMap::new();
        for op in ops.iter().filter(|op| op.is_refused()) {
            puts(&op.request, &mut |key, value| {
                refused.insert((key, value), op.id);
            });
        }
        for op in ops.iter().filter(|op| !op.is_refused()) {
            // Equal values of others prove nothing.
            puts(&op.request, &mut |key, value| {
                refused.remove(&(key, value));
            });
        }
        if refused.is_empty() {
            return;
        }
        for event in self.log.entries.values().flat_map(|entry| &entry.events).filter(|event| !event.deleted) {
            if let Some(id) = refused.get(&(event.kv.key.as_str(), event.kv.value.as_str())) {
                let text = format!("it was refused, but is at revision {}", event.kv.mod_revision);
                self.finding.wrong("refused-but-applied", text, [*id]);
            }
        }
    }

    /// Gives each revision without an answered owner to a request without an outcome, to a revocation, or to the end of a
    /// lease. An unknown one has no end, so the only order it can break is with what ended before it began.
    fn match_unknown(&mut self, ops: &[Op], owners: &HashMap<i64, u64>) {
        let open: Vec<&Op> =
            ops.iter().filter(|op| op.is_unknown() && op.request.may_write() && is_kv(&op.request)).collect();
        let mut by_value: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        let mut deleting = Vec::new();
        for (index, op) in open.iter().enumerate() {
            puts(&op.request, &mut |key, value| by_value.entry((key, value)).or_default().push(index));
            if deletes(&op.request) {
                deleting.push(index);
            }
        }
        let floor = Floor::new(&self.placed);
        let mut wanted: Vec<(i64, Vec<usize>)> = Vec::new();
        for entry in self.log.entries.values().filter(|entry| !owners.contains_key(&entry.rev)) {
            // Nobody need have asked for it, though somebody may have, whose request would do the same.
            if self.is_end_of_lease(entry) {
                continue;
            }
            let candidates = match entry.events.iter().find(|event| !event.deleted) {
                Some(put) => by_value.get(&(put.kv.key.as_str(), put.kv.value.as_str())),
                None => Some(&deleting),
            };
            let mut fitting = Vec::new();
            for &index in candidates.into_iter().flatten() {
                let effect = self.store.evaluate(&open[index].request, entry.rev - 1, entry.rev);
                let in_time = floor.before(open[index].start) < entry.rev * 2;
                if in_time && same_changes(&effect.events, &entry.events) && !fitting.contains(&index) {
                    fitting.push(index);
                }
            }
            wanted.push((entry.rev, fitting));
        }
        let taken = assign(&wanted, open.len());
        for (rev, fitting) in &wanted {
            match taken.get(rev) {
                Some(index) => self.placed.push(Placed { end: None, ..placed(open[*index], *rev, true) }),
                None => {
                    let entry = &self.log.entries[rev];
                    let text = format!("nobody asked for revision {rev}: {}", show(&entry.events));
                    self.finding.wrong("phantom", text, fitting.iter().map(|index| open[*index].id));
                }
            }
        }
    }

    fn is_end_of_lease(&self, entry: &Entry) -> bool {
        let lease = |event: &Event| self.store.get(&event.kv.key, entry.rev - 1).map_or(0, |kv| kv.lease);
        let Some(id) = entry.events.first().map(lease).filter(|id| *id != 0) else { return false };
        same_changes(&self.store.end_of_lease(id, entry.rev - 1, entry.rev), &entry.events)
    }

    fn check_order(&mut self, ops: &[Op]) {
        let placed = std::mem::take(&mut self.placed);
        let broken = order::violations(&placed);
        if broken.is_empty() {
            return;
        }
        let by_id: HashMap<u64, &Op> = ops.iter().map(|op| (op.id, op)).collect();
        for (later, earlier) in broken {
            let name = if later.changes { "write-out-of-order" } else { "stale-read" };
            let text = format!(
                "{} at revision {} began after {} at revision {} had ended",
                by_id[&later.id].request.name(),
                later.revision,
                by_id[&earlier.id].request.name(),
                earlier.revision
            );
            self.finding.wrong(name, text, [earlier.id, later.id]);
        }
    }
}

fn placed(op: &Op, revision: i64, changes: bool) -> Placed {
    let may_be_old = op.request.may_be_old();
    Placed { id: op.id, start: op.start, end: Some(op.end), revision, changes, may_be_old }
}

/// The highest position of what had ended before a moment.
struct Floor(BTreeMap<u64, i64>);

impl Floor {
    fn new(placed: &[Placed]) -> Self {
        let mut ended: Vec<(u64, i64)> =
            placed.iter().filter_map(|one| Some((one.end?, one.revision * 2 + i64::from(!one.changes)))).collect();
        ended.sort_unstable();
        let mut highest = i64::MIN;
        let rising = ended.into_iter().filter(|(_, position)| {
            let higher = *position > highest;
            highest = highest.max(*position);
            higher
        });
        Self(rising.collect())
    }

    fn before(&self, moment: u64) -> i64 {
        self.0.range(..moment).next_back().map_or(i64::MIN, |(_, position)| *position)
    }
}

/// Gives each revision one of its candidates, none twice, as many as possible (augmenting paths).
fn assign(wanted: &[(i64, Vec<usize>)], candidates: usize) -> HashMap<i64, usize> {
    fn augment(
        at: usize,
        wanted: &[(i64, Vec<usize>)],
        tried: &mut HashSet<usize>,
        owner: &mut [Option<usize>],
    ) -> bool {
        for &candidate in &wanted[at].1 {
            if tried.insert(candidate) && owner[candidate].is_none_or(|other| augment(other, wanted, tried, owner)) {
                owner[candidate] = Some(at);
                return true;
            }
        }
        false
    }
    let mut owner = vec![None; candidates];
    for at in 0..wanted.len() {
        augment(at, wanted, &mut HashSet::new(), &mut owner);
    }
    owner.iter().enumerate().filter_map(|(candidate, at)| Some((wanted[(*at)?].0, candidate))).collect()
}

/// Whether an answer says that something changed.
fn wrote(request: &Request, reply: &Reply) -> bool {
    match request {
        Request::Put(_) => true,
        Request::Delete(_) => reply.deleted > 0,
        Request::Txn(txn) => {
            let branch = if reply.succeeded { &txn.success } else { &txn.failure };
            branch.iter().zip(&reply.replies).any(|(request, reply)| wrote(request, reply))
        }
        _ => false,
    }
}

fn deletes(request: &Request) -> bool {
    match request {
        Request::Delete(_) => true,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(deletes),
        _ => false,
    }
}

fn puts<'a>(request: &'a Request, with: &mut impl FnMut(&'a str, &'a str)) {
    match request {
        Request::Put(put) => with(&put.key, &put.value),
        Request::Txn(txn) => {
            for request in txn.success.iter().chain(&txn.failure) {
                // Transactions of the workloads nest one deep at most; plain recursion would need a boxed closure.
                match request {
                    Request::Put(put) => with(&put.key, &put.value),
                    Request::Txn(inner) => inner.success.iter().chain(&inner.failure).for_each(|request| {
                        if let Request::Put(put) = request {
                            with(&put.key, &put.value);
                        }
                    }),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Whether two answers agree in what the request asks for. Servers differ in the lease of an answer without values.
fn same(expected: &Reply, actual: &Reply, request: &Request) -> bool {
    let keys_only = matches!(request, Request::Range(range) if range.keys_only);
    let kvs = match keys_only {
        true => {
            let without = |kvs: &[Kv]| -> Vec<Kv> { kvs.iter().map(|kv| Kv { lease: 0, ..kv.clone() }).collect() };
            without(&expected.kvs) == without(&actual.kvs)
        }
        false => expected.kvs == actual.kvs,
    };
    let branch = match request {
        Request::Txn(txn) if actual.succeeded => &txn.success[..],
        Request::Txn(txn) => &txn.failure[..],
        _ => &[],
    };
    kvs && expected.count == actual.count
        && expected.more == actual.more
        && expected.deleted == actual.deleted
        && expected.prev == actual.prev
        && expected.succeeded == actual.succeeded
        && expected.replies.len() == actual.replies.len()
        && expected.replies.iter().zip(&actual.replies).zip(branch).all(|((a, b), request)| same(a, b, request))
}

/// Whether events make the same changes; what was there before is the watch checker's.
fn same_changes(a: &[Event], b: &[Event]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.deleted == b.deleted && a.kv == b.kv)
}

fn common(a: &[Event], b: &[Event]) -> usize {
    a.iter()
        .filter(|event| b.iter().any(|other| other.kv.key == event.kv.key && other.kv.value == event.kv.value))
        .count()
}

fn brief(reply: &Reply) -> String {
    let text = format!("{reply:?}");
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text,
    }
}
