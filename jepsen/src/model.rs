//! What etcd's contract says that a request does: a store with all its revisions, in memory.
//!
//! Checkers ask it what an answer had to be, given the order of changes that a server showed; the simulator answers with
//! it. It knows no time, no leases' ends and no compaction.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::history::Key;
use crate::history::op::{Compare, Delete, Expected, Kv, Put, Range, Reply, Request, SortBy, Txn};
use crate::history::stream::{Event, Log};

/// One revision of one key; `None` = deleted.
type Version = (i64, Option<Kv>);

/// Every revision of every key.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Most requests are of one key; a hash is several times as fast as the tree.
    places: HashMap<Arc<str>, usize>,
    order: BTreeMap<Arc<str>, usize>,
    versions: Vec<Vec<Version>>,
    revision: i64,
}

/// What a request comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The answer.
    pub reply: Reply,
    /// The changes, in order; none = the revision stays.
    pub events: Vec<Event>,
}

impl Store {
    /// An empty store at this revision.
    pub fn new(revision: i64) -> Self {
        Self { revision, ..Self::default() }
    }

    /// What all changes of this order come to, with everything on the way.
    pub fn of(log: &Log) -> Self {
        let mut store = Self::new(log.base);
        log.entries.values().for_each(|entry| store.commit(entry.rev, &entry.events));
        store
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A key as it was at a revision.
    pub fn get(&self, key: &str, at: i64) -> Option<&Kv> {
        at_revision(&self.versions[*self.places.get(key)?], at)
    }

    /// All keys of `key..end` (one key without an end) as they were at a revision, in their order.
    pub fn range<'a>(&'a self, key: &'a str, end: Option<&'a str>, at: i64) -> Vec<&'a Kv> {
        let Some(end) = end else { return self.get(key, at).into_iter().collect() };
        if key >= end {
            return Vec::new();
        }
        self.order
            .range::<str, _>((Bound::Included(key), Bound::Excluded(end)))
            .filter_map(|(_, place)| at_revision(&self.versions[*place], at))
            .collect()
    }

    /// Makes the next revision of these changes.
    pub fn commit(&mut self, revision: i64, events: &[Event]) {
        self.revision = revision;
        for event in events {
            let place = match self.places.get(event.kv.key.as_str()) {
                Some(place) => *place,
                None => {
                    let key: Arc<str> = event.kv.key.as_str().into();
                    self.places.insert(key.clone(), self.versions.len());
                    self.order.insert(key, self.versions.len());
                    self.versions.push(Vec::new());
                    self.versions.len() - 1
                }
            };
            self.versions[place].push((revision, (!event.deleted).then(|| event.kv.clone())));
        }
    }

    /// What a request of KV does on the state at `base`, were its changes to become `revision`.
    pub fn evaluate(&self, request: &Request, base: i64, revision: i64) -> Effect {
        let mut view = View { store: self, base, revision, changed: BTreeMap::new(), events: Vec::new() };
        let mut reply = view.run(request);
        reply.rev = if view.events.is_empty() { base } else { revision };
        Effect { reply, events: view.events }
    }

    /// The deletion of all keys of a lease at `base`.
    pub fn end_of_lease(&self, lease: i64, base: i64, revision: i64) -> Vec<Event> {
        let attached =
            |versions: &&usize| at_revision(&self.versions[**versions], base).is_some_and(|kv| kv.lease == lease);
        self.order.iter().filter(|(_, place)| attached(place)).map(|(key, _)| deletion(key, revision)).collect()
    }
}

fn at_revision(versions: &[Version], at: i64) -> Option<&Kv> {
    let behind = versions.partition_point(|(revision, _)| *revision <= at);
    versions[..behind].last().and_then(|(_, kv)| kv.as_ref())
}

fn deletion(key: &str, revision: i64) -> Event {
    Event { kv: Kv { key: key.into(), mod_revision: revision, ..Kv::default() }, deleted: true, prev: None }
}

/// A state with the changes of the transaction that runs on it.
struct View<'a> {
    store: &'a Store,
    base: i64,
    revision: i64,
    changed: BTreeMap<Key, Option<Kv>>,
    events: Vec<Event>,
}

impl View<'_> {
    fn get(&self, key: &str) -> Option<&Kv> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.store.get(key, self.base),
        }
    }

    fn all(&self, key: &str, end: Option<&str>) -> Vec<Kv> {
        let Some(end) = end else { return self.get(key).cloned().into_iter().collect() };
        let mut found: BTreeMap<&str, &Kv> =
            self.store.range(key, Some(end), self.base).into_iter().map(|kv| (kv.key.as_str(), kv)).collect();
        for (changed, kv) in
            self.changed.iter().filter(|(changed, _)| changed.as_str() >= key && changed.as_str() < end)
        {
            match kv {
                Some(kv) => found.insert(changed, kv),
                None => found.remove(changed.as_str()),
            };
        }
        found.into_values().cloned().collect()
    }

    fn run(&mut self, request: &Request) -> Reply {
        match request {
            Request::Range(range) => self.read(range),
            Request::Put(put) => self.put(put),
            Request::Delete(delete) => self.delete(delete),
            Request::Txn(txn) => self.txn(txn),
            _ => Reply::default(),
        }
    }

    fn read(&self, range: &Range) -> Reply {
        let end = range.end.as_deref();
        let mut kvs = match range.revision {
            0 => self.all(&range.key, end),
            at => self.store.range(&range.key, end, at).into_iter().cloned().collect(),
        };
        let count = kvs.len() as i64;
        if range.count_only {
            return Reply { rev: self.base, count, ..Reply::default() };
        }
        let [min_mod, max_mod, min_create, max_create] = range.bounds;
        let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        kvs.retain(|kv| {
            within(kv.mod_revision, min_mod, max_mod) && within(kv.create_revision, min_create, max_create)
        });
        if let Some((by, descending)) = range.sort {
            kvs.sort_by(|a, b| match by {
                SortBy::Key => a.key.cmp(&b.key),
                SortBy::Version => a.version.cmp(&b.version),
                SortBy::Create => a.create_revision.cmp(&b.create_revision),
                SortBy::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortBy::Value => a.value.as_bytes().cmp(b.value.as_bytes()),
            });
            if descending {
                kvs.reverse();
            }
        }
        let more = range.limit > 0 && kvs.len() as i64 > range.limit;
        if more {
            kvs.truncate(range.limit as usize);
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Reply { rev: self.base, kvs, count, more, ..Reply::default() }
    }

    fn put(&mut self, put: &Put) -> Reply {
        let before = self.get(&put.key);
        let kv = Kv {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: before.map_or(self.revision, |kv| kv.create_revision),
            mod_revision: self.revision,
            version: before.map_or(1, |kv| kv.version + 1),
            lease: put.lease,
        };
        let prev = before.filter(|_| put.prev_kv).cloned().into_iter().collect();
        self.changed.insert(put.key.clone(), Some(kv.clone()));
        self.events.push(Event { kv, deleted: false, prev: None });
        Reply { rev: self.revision, prev, ..Reply::default() }
    }

    fn delete(&mut self, delete: &Delete) -> Reply {
        let gone = self.all(&delete.key, delete.end.as_deref());
        for kv in &gone {
            self.changed.insert(kv.key.clone(), None);
            self.events.push(deletion(&kv.key, self.revision));
        }
        let deleted = gone.len() as i64;
        Reply { rev: self.base, deleted, prev: if delete.prev_kv { gone } else { Vec::new() }, ..Reply::default() }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.get(&compare.key);
        let number = |of: fn(&Kv) -> i64| kv.map_or(0, of);
        match &compare.is {
            Expected::Version(expected) => number(|kv| kv.version) == *expected,
            Expected::Create(expected) => number(|kv| kv.create_revision) == *expected,
            Expected::Mod(expected) => number(|kv| kv.mod_revision) == *expected,
            Expected::Lease(expected) => number(|kv| kv.lease) == *expected,
            Expected::Value(expected) => kv.is_some_and(|kv| kv.value == *expected),
        }
    }

    fn txn(&mut self, txn: &Txn) -> Reply {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let requests = if succeeded { &txn.success } else { &txn.failure };
        let replies = requests.iter().map(|request| Reply { rev: 0, ..self.run(request) }).collect();
        Reply { rev: self.base, succeeded, replies, ..Reply::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(store: &mut Store, request: &Request) -> Reply {
        let base = store.revision();
        let effect = store.evaluate(request, base, base + 1);
        if !effect.events.is_empty() {
            store.commit(base + 1, &effect.events);
        }
        effect.reply
    }

    #[test]
    fn versions_and_revisions_follow_etcds_rules() {
        let mut store = Store::new(1);
        apply(&mut store, &Request::put("a", "1"));
        apply(&mut store, &Request::put("a", "2"));
        let kv = store.get("a", 3).unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
        let delete = Request::Delete(Delete { key: "a".into(), ..Delete::default() });
        assert_eq!((apply(&mut store, &delete).rev, apply(&mut store, &delete).rev), (4, 4));
        apply(&mut store, &Request::put("a", "3"));
        assert_eq!(
            (store.get("a", 4), store.get("a", 5).unwrap().version, store.get("a", 2).unwrap().version),
            (None, 1, 1)
        );
    }

    #[test]
    fn a_transaction_reads_what_it_wrote_and_is_one_revision() {
        let mut store = Store::new(1);
        apply(&mut store, &Request::put("a", "1"));
        let compare = vec![Compare { key: "a".into(), is: Expected::Value("1".into()) }];
        let success = vec![Request::put("b", "2"), Request::list("")];
        let txn = Request::Txn(Txn { compare, success, failure: vec![] });
        let reply = apply(&mut store, &txn);
        assert_eq!((reply.rev, reply.succeeded, reply.replies[1].count), (3, true, 2));
        let missing = vec![Compare { key: "c".into(), is: Expected::Value(String::new()) }];
        assert!(!apply(&mut store, &Request::Txn(Txn { compare: missing, ..Txn::default() })).succeeded);
    }

    #[test]
    fn limits_come_after_order_and_bounds_and_leave_the_count() {
        let mut store = Store::new(1);
        ["c", "a", "b"].iter().for_each(|key| drop(apply(&mut store, &Request::put(*key, *key))));
        let Request::Range(all) = Request::list("") else { unreachable!() };
        let range = Range { sort: Some((SortBy::Mod, true)), limit: 2, ..all };
        let reply = apply(&mut store, &Request::Range(range.clone()));
        assert_eq!(reply.kvs.iter().map(|kv| kv.key.as_str()).collect::<String>(), "ba");
        assert_eq!((reply.count, reply.more), (3, true));
        let reply = apply(&mut store, &Request::Range(Range { bounds: [3, 0, 0, 0], limit: 0, revision: 3, ..range }));
        assert_eq!((reply.kvs.len(), reply.count, reply.more), (1, 2, false));
    }
}
