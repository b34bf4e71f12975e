//! The state written down as plainly as possible: a full map for every revision. The property tests compare with it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::*;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use pb::response_op::Response as OpResponse;

type Map = BTreeMap<Vec<u8>, Kv>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kv {
    pub value: Vec<u8>,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// (is a put, key, state after it, state before it).
pub type ModelEvent = (bool, Vec<u8>, Option<Kv>, Option<Kv>);

#[derive(Clone, Debug)]
pub struct Model {
    /// `states[r]` is the state at revision `r`; revision 0 is never asked for.
    pub states: Vec<Rc<Map>>,
    pub events: BTreeMap<i64, Vec<ModelEvent>>,
    pub compact_revision: i64,
    pub leases: BTreeMap<i64, i64>,
}

/// A command under way.
struct Work {
    map: Map,
    start: i64,
    events: Vec<ModelEvent>,
}

impl Model {
    pub fn new() -> Self {
        let empty = Rc::new(Map::new());
        Self {
            states: vec![empty.clone(), empty],
            events: BTreeMap::new(),
            compact_revision: 0,
            leases: BTreeMap::new(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    pub fn newest(&self) -> &Map {
        self.states.last().unwrap()
    }

    pub fn lease_keys(&self, id: i64) -> Vec<Vec<u8>> {
        self.newest().iter().filter(|(_, kv)| kv.lease == id).map(|(key, _)| key.clone()).collect()
    }

    pub fn apply(&mut self, command: &Command) -> Result<Response, Error> {
        let mut work = Work { map: self.newest().clone(), start: self.revision(), events: Vec::new() };
        let response = match command {
            Command::Put(request) => {
                self.check_put(&work, request)?;
                Response::Put(work.put(request))
            }
            Command::DeleteRange(request) => Response::DeleteRange(work.delete(request)),
            Command::Txn(request) => {
                let mut path = Vec::new();
                decide(&work.map, request, &mut path);
                self.check(&work, request, &mut path.clone().into_iter())?;
                Response::Txn(self.run(&mut work, request, &mut path.into_iter()))
            }
            Command::Compact(request) => {
                if request.revision <= self.compact_revision {
                    return Err(Error::Compacted);
                }
                if request.revision > self.revision() {
                    return Err(Error::FutureRevision);
                }
                self.compact_revision = request.revision;
                Response::Compact
            }
            Command::LeaseGrant(request) => {
                if self.leases.contains_key(&request.id) {
                    return Err(Error::LeaseExists);
                }
                self.leases.insert(request.id, request.ttl);
                let (id, ttl) = (request.id, request.ttl);
                Response::LeaseGrant(pb::LeaseGrantResponse { id, ttl, ..Default::default() })
            }
            Command::LeaseRevoke(request) => {
                self.leases.remove(&request.id).ok_or(Error::LeaseNotFound)?;
                for key in self.lease_keys(request.id) {
                    work.delete(&pb::DeleteRangeRequest { key: key.into(), ..Default::default() });
                }
                Response::LeaseRevoke
            }
            Command::Alarm(_) | Command::Publish(_) => unreachable!("the property tests do not make these"),
        };
        if !work.events.is_empty() {
            self.states.push(Rc::new(work.map));
            self.events.insert(self.revision(), work.events);
        }
        Ok(response)
    }

    fn check_put(&self, work: &Work, request: &pb::PutRequest) -> Result<(), Error> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (request.ignore_lease || request.ignore_value) && !work.map.contains_key(&request.key[..]) {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    pub fn check_revision(&self, revision: i64) -> Result<(), Error> {
        if revision > self.revision() {
            return Err(Error::FutureRevision);
        }
        if revision > 0 && revision < self.compact_revision {
            return Err(Error::Compacted);
        }
        Ok(())
    }

    fn check(&self, work: &Work, txn: &pb::TxnRequest, path: &mut dyn Iterator<Item = bool>) -> Result<(), Error> {
        for op in taken(txn, path.next().unwrap()) {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => self.check_revision(range.revision)?,
                Request::RequestPut(put) => self.check_put(work, put)?,
                Request::RequestDeleteRange(_) => {}
                Request::RequestTxn(nested) => self.check(work, nested, path)?,
            }
        }
        Ok(())
    }

    fn run(&self, work: &mut Work, txn: &pb::TxnRequest, path: &mut dyn Iterator<Item = bool>) -> pb::TxnResponse {
        let succeeded = path.next().unwrap();
        let mut responses = Vec::new();
        for op in taken(txn, succeeded) {
            let mut response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    let map = if range.revision > 0 { &self.states[range.revision as usize] } else { &work.map };
                    OpResponse::ResponseRange(range_of(map, range))
                }
                Request::RequestPut(put) => OpResponse::ResponsePut(work.put(put)),
                Request::RequestDeleteRange(delete) => OpResponse::ResponseDeleteRange(work.delete(delete)),
                Request::RequestTxn(nested) => OpResponse::ResponseTxn(self.run(work, nested, path)),
            };
            let revision = work.start + i64::from(!work.events.is_empty());
            let header = Some(pb::ResponseHeader { revision, ..Default::default() });
            match &mut response {
                OpResponse::ResponseRange(response) => response.header = header,
                OpResponse::ResponsePut(response) => response.header = header,
                OpResponse::ResponseDeleteRange(response) => response.header = header,
                OpResponse::ResponseTxn(response) => response.header = Some(Default::default()),
            }
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        pb::TxnResponse { header: None, succeeded, responses }
    }

    pub fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        self.check_revision(request.revision)?;
        let at = if request.revision > 0 { request.revision } else { self.revision() };
        Ok(range_of(&self.states[at as usize], request))
    }

    pub fn txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        match self.clone().apply(&Command::Txn(request.clone()))? {
            Response::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    /// Revisions of the versions that compaction must keep, with tombstones and where they are: (main, key) pairs.
    pub fn kept(&self) -> BTreeSet<(i64, Vec<u8>)> {
        let mut kept = BTreeSet::new();
        let mark = self.compact_revision.max(1);
        for (key, kv) in self.states[mark as usize].iter() {
            kept.insert((kv.modified, key.clone()));
        }
        for (revision, events) in self.events.range(self.compact_revision..) {
            kept.extend(events.iter().map(|event| (*revision, event.1.clone())));
        }
        kept
    }
}

impl Work {
    fn put(&mut self, request: &pb::PutRequest) -> pb::PutResponse {
        let revision = self.start + 1;
        let old = self.map.get(&request.key[..]).cloned();
        let mut kv = Kv {
            value: request.value.to_vec(),
            create: revision,
            modified: revision,
            version: 1,
            lease: request.lease,
        };
        if let Some(old) = &old {
            kv.create = old.create;
            kv.version = old.version + 1;
            kv.value = if request.ignore_value { old.value.clone() } else { kv.value };
            kv.lease = if request.ignore_lease { old.lease } else { kv.lease };
        }
        self.map.insert(request.key.to_vec(), kv.clone());
        let prev_kv = old.as_ref().filter(|_| request.prev_kv).map(|old| record(&request.key, old));
        self.events.push((true, request.key.to_vec(), Some(kv), old));
        pb::PutResponse { header: None, prev_kv }
    }

    fn delete(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let keys: Vec<_> =
            self.map.keys().filter(|key| within(key, &request.key, &request.range_end)).cloned().collect();
        let mut response = pb::DeleteRangeResponse { deleted: keys.len() as i64, ..Default::default() };
        for key in keys {
            let old = self.map.remove(&key).unwrap();
            if request.prev_kv {
                response.prev_kvs.push(record(&key, &old));
            }
            self.events.push((false, key, None, Some(old)));
        }
        response
    }
}

pub fn record(key: &[u8], kv: &Kv) -> Record {
    Record::put(crate::proto::Put {
        key,
        value: &kv.value,
        create_revision: kv.create,
        mod_revision: kv.modified,
        version: kv.version,
        lease: kv.lease,
    })
}

fn taken(txn: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn decide(map: &Map, txn: &pb::TxnRequest, path: &mut Vec<bool>) {
    let succeeded = txn.compare.iter().all(|compare| compares(map, compare));
    path.push(succeeded);
    for op in taken(txn, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            decide(map, nested, path);
        }
    }
}

fn compares(map: &Map, compare: &pb::Compare) -> bool {
    let found: Vec<&Kv> =
        map.iter().filter(|(key, _)| within(key, &compare.key, &compare.range_end)).map(|(_, kv)| kv).collect();
    if found.is_empty() {
        return compare.target != 3 && compare_one(compare, &Kv::default());
    }
    found.into_iter().all(|kv| compare_one(compare, kv))
}

fn compare_one(compare: &pb::Compare, kv: &Kv) -> bool {
    let order = match compare.target_union.as_ref().unwrap() {
        TargetUnion::Version(wanted) => kv.version.cmp(wanted),
        TargetUnion::CreateRevision(wanted) => kv.create.cmp(wanted),
        TargetUnion::ModRevision(wanted) => kv.modified.cmp(wanted),
        TargetUnion::Value(wanted) => kv.value[..].cmp(&wanted[..]),
        TargetUnion::Lease(wanted) => kv.lease.cmp(wanted),
    };
    match compare.result {
        0 => order.is_eq(),
        1 => order.is_gt(),
        2 => order.is_lt(),
        _ => order.is_ne(),
    }
}

pub fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

fn range_of(map: &Map, request: &pb::RangeRequest) -> pb::RangeResponse {
    let mut found: Vec<(&Vec<u8>, &Kv)> =
        map.iter().filter(|(key, _)| within(key, &request.key, &request.range_end)).collect();
    let count = found.len() as i64;
    if request.count_only {
        return pb::RangeResponse { count, ..Default::default() };
    }
    let filtered =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    let filtered = filtered.iter().any(|bound| *bound != 0);
    let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
    if request.sort_order == 0 && !filtered && limit < usize::MAX {
        found.truncate(limit + 1);
    }
    found.retain(|(_, kv)| {
        (request.min_mod_revision == 0 || kv.modified >= request.min_mod_revision)
            && (request.max_mod_revision == 0 || kv.modified <= request.max_mod_revision)
            && (request.min_create_revision == 0 || kv.create >= request.min_create_revision)
            && (request.max_create_revision == 0 || kv.create <= request.max_create_revision)
    });
    let descend = request.sort_order == 2;
    if request.sort_order != 0 || request.sort_target != 0 {
        found.sort_by(|(a_key, a), (b_key, b)| {
            let order = match request.sort_target {
                0 => a_key.cmp(b_key),
                1 => a.version.cmp(&b.version),
                2 => a.create.cmp(&b.create),
                3 => a.modified.cmp(&b.modified),
                _ => a.value.cmp(&b.value),
            };
            if descend { order.reverse() } else { order }
        });
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let kvs = found.into_iter().map(|(key, kv)| {
        let record = record(key, kv);
        if request.keys_only { record.without_value() } else { record }
    });
    pb::RangeResponse { header: None, kvs: kvs.collect(), more, count }
}
