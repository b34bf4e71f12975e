//! The store: one writer applies commands, many readers take views. Called by `raft`, `watch`, `rpc`, `lessor`,
//! `compactor` and the checkpoint; knows none of them.

use std::sync::Arc;

use bytes::Bytes;

use super::command::{Applied, Command, Effects};
use super::error::Error;
use super::event::{EventBatch, Revision};
use super::meta::{Meta, RestoreError};
use super::view::View;
use crate::proto::Record;
use crate::proto::etcdserverpb as pb;

/// The history asked for lies before the compaction mark, which is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compacted at revision {0}")]
pub struct CompactedAt(pub i64);

/// What one slice of physical compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactSlice {
    /// Nothing is left to drop for this compaction mark and this `up_to`.
    pub done: bool,
    /// What is no longer kept, and whether it was a tombstone; for the checkpoint to remove.
    pub dropped: Vec<(Revision, bool)>,
}

/// How much the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Keys that exist at the newest revision.
    pub keys: u64,
    /// Bytes of their records.
    pub live_bytes: u64,
    /// Bytes of superseded records and tombstones, which compaction frees.
    pub history_bytes: u64,
    /// Bytes of all records written by puts since the store was made; never falls.
    pub put_bytes: u64,
}

/// A lease as the state knows it; how long it still lives is the lessor's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The lease.
    pub id: i64,
    /// Granted, in seconds.
    pub ttl: i64,
    /// Seconds at the last checkpoint of the lease; 0 = never checkpointed.
    pub remaining_ttl: i64,
    /// Attached keys, sorted.
    pub keys: Vec<Bytes>,
}

/// etcd's hash over what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C, computed as etcd does.
    pub hash: u32,
    /// Compaction mark; -1 when the store was never compacted, as etcd reports it.
    pub compact_revision: i64,
    /// The revision up to which was hashed.
    pub revision: i64,
}

/// The replicated state of one member.
#[derive(Debug, Default)]
pub struct Store {}

impl Store {
    /// An empty store at revision 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a command. Called by one thread, in log order.
    pub fn apply(&self, _command: &Command) -> (Applied, Effects) {
        (Applied { revision: 1, response: Err(Error::Corrupt) }, Effects::default())
    }

    /// A pinned, consistent view of the newest state.
    pub fn view(&self) -> View {
        View {}
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        1
    }

    /// The compaction mark; 0 when never compacted.
    pub fn compact_revision(&self) -> i64 {
        0
    }

    /// Batches with `after < revision <= up_to`, oldest first; at most `revisions_max` and about `bytes_max` bytes, but
    /// at least one when there is one.
    ///
    /// # Errors
    /// [`CompactedAt`] when `after + 1` lies before the compaction mark.
    pub fn history(
        &self,
        _after: i64,
        _up_to: i64,
        _revisions_max: usize,
        _bytes_max: usize,
    ) -> Result<Vec<Arc<EventBatch>>, CompactedAt> {
        Ok(Vec::new())
    }

    /// As [`Store::history`], but for the checkpoint: batches that compaction has passed and [`Store::compact_slice`] has
    /// not dropped yet are still given.
    pub fn backlog(&self, _after: i64, _revisions_max: usize, _bytes_max: usize) -> Vec<Arc<EventBatch>> {
        Vec::new()
    }

    /// One slice of physical compaction: visits at most about `keys_max` keys and drops nothing newer than `up_to`, the
    /// revision up to which the checkpoint has written everything.
    pub fn compact_slice(&self, _up_to: i64, _keys_max: usize) -> CompactSlice {
        CompactSlice { done: true, dropped: Vec::new() }
    }

    /// How much the store holds.
    pub fn sizes(&self) -> Sizes {
        Sizes::default()
    }

    /// A lease with its keys.
    pub fn lease(&self, _id: i64) -> Option<LeaseInfo> {
        None
    }

    /// All leases as (id, ttl in seconds), by id.
    pub fn leases(&self) -> Vec<(i64, i64)> {
        Vec::new()
    }

    /// Raised alarms.
    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        Vec::new()
    }

    /// Members as they published themselves, by id.
    pub fn members(&self) -> Vec<pb::Member> {
        Vec::new()
    }

    /// Hashes what is kept up to `revision` (0 = newest), as etcd does. Takes a view, so that the writer goes on.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn hash_kv(&self, _revision: i64) -> Result<HashKv, Error> {
        Err(Error::Compacted)
    }

    /// The small state that goes with the records into a checkpoint or snapshot.
    pub fn meta(&self) -> Meta {
        Meta::default()
    }

    /// Rebuilds a store from [`Store::meta`] and all kept records in revision order; those newer than `meta.revision`
    /// are ignored.
    ///
    /// # Errors
    /// What the iterator yields, or records out of order.
    pub fn restore<E>(
        _meta: Meta,
        _records: impl Iterator<Item = Result<(Revision, bool, Record), E>>,
    ) -> Result<Self, RestoreError<E>> {
        Ok(Self::default())
    }
}
