//! One command being executed on an index: everything it writes gets the same main revision. Nothing is visible before
//! `apply` publishes the index it worked on. Called by `apply`, and by `view` for transactions that only read.

use std::sync::Arc;

use parking_lot::RwLock;

use super::error::Error;
use super::event::{Change, ChangeKind, EventBatch, Revision, SharedBatch};
use super::key_index::{KeyIndex, KeyRange, NEWEST, Version};
use super::lease::{LeaseMove, Leases};
use super::range::Reader;
use crate::mutants::{Mutant, planted};
use crate::proto::etcdserverpb as pb;
use crate::proto::{Put, Record};

/// The command's working state.
#[derive(Debug)]
pub struct Draft<'a> {
    index: &'a mut KeyIndex,
    /// The newest revision before the command.
    start: i64,
    compact_revision: i64,
    /// Tells which leases exist; without it there are none.
    leases: Option<&'a RwLock<Leases>>,
    changes: Vec<Change>,
    moves: Vec<LeaseMove>,
    bytes: ByteDelta,
    operations: OpCounts,
}

/// Operations that a command carried out, those of its transactions included, as etcd's `mvcc` counts them: a range
/// deletion is one however many keys it removes, but the end of a lease one for each of its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCounts {
    /// Keys written.
    pub puts: u64,
    /// Range deletions.
    pub deletes: u64,
    /// Ranges read.
    pub ranges: u64,
}

/// How a command changed the store's size; see [`super::Sizes`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteDelta {
    /// Of live records.
    pub live: i64,
    /// Of superseded records and tombstones.
    pub history: i64,
    /// Of records written.
    pub put: i64,
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// Its changes, when there are any.
    pub batch: Option<SharedBatch>,
    /// Keys that changed their lease, in order.
    pub moves: Vec<LeaseMove>,
    /// Bytes gained and lost.
    pub bytes: ByteDelta,
    /// How many of what.
    pub operations: OpCounts,
}

impl<'a> Draft<'a> {
    /// Before the command: the state it starts from.
    pub fn new(index: &'a mut KeyIndex, start: i64, compact_revision: i64, leases: Option<&'a RwLock<Leases>>) -> Self {
        let (changes, moves, bytes, operations) = Default::default();
        Self { index, start, compact_revision, leases, changes, moves, bytes, operations }
    }

    /// After it: what it did.
    pub fn finish(mut self) -> Outcome {
        let revision = self.start + 1;
        self.changes.shrink_to_fit();
        let batch = (!self.changes.is_empty()).then(|| Arc::new(EventBatch { revision, changes: self.changes }));
        Outcome { batch, moves: self.moves, bytes: self.bytes, operations: self.operations }
    }

    /// The revision as seen from inside the command: one more from its first change on.
    pub fn revision(&self) -> i64 {
        self.start + i64::from(!self.changes.is_empty())
    }

    /// What reads inside the command see: its own writes too.
    pub fn reader(&self) -> Reader<'_> {
        Reader { index: self.index, revision: self.revision(), compact_revision: self.compact_revision }
    }

    /// A range read inside the command.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn range(&mut self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        self.operations.ranges += 1;
        self.reader().range(request)
    }

    /// Whether a put would be accepted.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`], [`Error::KeyNotFound`].
    pub fn check_put(&self, request: &pb::PutRequest) -> Result<(), Error> {
        if request.lease != 0 && !self.leases.is_some_and(|leases| leases.read().contains(request.lease)) {
            return Err(Error::LeaseNotFound);
        }
        if (request.ignore_value || request.ignore_lease) && self.index.count(KeyRange::One(&request.key), NEWEST) == 0
        {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    /// Writes a key. The request was checked; should it ignore the value or lease of a key that does not exist after
    /// all, these are empty.
    pub fn put(&mut self, request: &pb::PutRequest) -> pb::PutResponse {
        self.operations.puts += 1;
        let revision = self.next();
        let mut previous = None;
        let mut record = Record::default();
        let mut leases = (0, request.lease);
        self.index.write(&request.key, |entry| {
            previous = entry.and_then(|entry| entry.live()).cloned();
            let old = previous.as_ref().map(|previous| (previous, previous.fields()));
            let mut put = Put {
                key: &request.key,
                value: &request.value,
                create_revision: revision.main,
                mod_revision: revision.main,
                version: 1,
                lease: request.lease,
            };
            if let Some((old, fields)) = &old {
                put.create_revision = fields.create_revision;
                // A file may say any version; the last one there is stays.
                put.version = fields.version.saturating_add(1);
                put.value = if request.ignore_value { &old.as_bytes()[fields.value.clone()] } else { put.value };
                put.lease = if request.ignore_lease { fields.lease } else { put.lease };
                leases = (fields.lease, put.lease);
            } else if planted(Mutant::VersionGoesOn) {
                let deleted = entry.and_then(|entry| entry.versions().find(|version| !version.is_tombstone()));
                put.version += deleted.map_or(0, |version| version.record().version());
            }
            record = Record::put(put);
            Version::new(record.clone(), revision, false)
        });
        self.note_move(&record, leases);
        self.bytes.put += size(&record);
        self.bytes.live += size(&record);
        if let Some(previous) = &previous {
            self.bytes.live -= size(previous);
            self.bytes.history += size(previous);
        }
        let prev_kv = previous.clone().filter(|_| request.prev_kv);
        if self.changes.is_empty() {
            // Most commands are one put: their batch, which history keeps, is to hold no more than that.
            self.changes.reserve_exact(1);
        }
        self.changes.push(Change { kind: ChangeKind::Put, record, previous });
        pb::PutResponse { header: None, prev_kv }
    }

    /// Removes every key in a range.
    pub fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let first = self.changes.len();
        self.delete(KeyRange::new(&request.key, &request.range_end));
        let deleted = &self.changes[first..];
        let prev_kvs = if request.prev_kv {
            deleted.iter().filter_map(|change| change.previous.clone()).collect()
        } else {
            Vec::new()
        };
        pb::DeleteRangeResponse { header: None, deleted: deleted.len() as i64, prev_kvs }
    }

    /// Removes every key in a range, in key order.
    pub fn delete(&mut self, range: KeyRange<'_>) {
        self.operations.deletes += 1;
        let Self { index, changes, moves, bytes, start, .. } = self;
        index.retire(range, |entry| {
            let revision = Revision { main: *start + 1, sub: changes.len() as i64 };
            let record = Record::tombstone(entry.key(), revision.main);
            let previous = entry.live().cloned();
            if let Some(previous) = &previous {
                bytes.live -= size(previous);
                bytes.history += size(previous) + size(&record);
                let lease = previous.lease();
                if lease != 0 {
                    moves.push(LeaseMove { record: record.clone(), from: lease, to: 0 });
                }
            }
            changes.push(Change { kind: ChangeKind::Delete, record: record.clone(), previous });
            Version::new(record, revision, true)
        });
    }

    fn next(&self) -> Revision {
        Revision { main: self.start + 1, sub: self.changes.len() as i64 }
    }

    fn note_move(&mut self, record: &Record, (from, to): (i64, i64)) {
        if from != to {
            self.moves.push(LeaseMove { record: record.clone(), from, to });
        }
    }
}

fn size(record: &Record) -> i64 {
    record.as_bytes().len() as i64
}
