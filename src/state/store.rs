//! The store: one writer applies commands, many readers take views. Called by `raft`, `watch`, `rpc`, `lessor`,
//! `compactor` and the checkpoint; knows none of them.
//!
//! Locks. Only who holds `writer` takes both others, so their order does not matter:
//! - `writer`: held by whoever changes anything, for as long as it takes. No reader wants it.
//! - `leases`: the lease table, apart from the rest because no range needs it.
//! - `shared`: what views are made of. Held for one small command or a swap of roots, never for a long walk.

use std::collections::BTreeMap;

use parking_lot::{Mutex, RwLock};

use super::alarm::Alarms;
use super::compaction::Pass;
use super::draft::{ByteDelta, Outcome};
use super::error::Error;
use super::event::SharedBatch;
use super::history::History;
use super::key_index::KeyIndex;
use super::lease::{LeaseInfo, Leases};
use super::meta::{FORMAT, Meta};
use super::range::Reader;
use super::view::View;
use crate::proto::etcdserverpb as pb;

/// The history asked for lies before the compaction mark, which is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compacted at revision {0}")]
pub struct CompactedAt(pub i64);

/// How much the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Keys that exist at the newest revision.
    pub keys: u64,
    /// Bytes of their records.
    pub live_bytes: u64,
    /// Bytes of superseded records and tombstones, which compaction frees.
    pub history_bytes: u64,
    /// Bytes of all records written by puts since the process began; never falls.
    pub put_bytes: u64,
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

/// The replicated state of one member. Everything is locked inside; see the file's head.
#[derive(Debug)]
pub struct Store {
    pub(super) writer: Mutex<Pass>,
    pub(super) leases: RwLock<Leases>,
    pub(super) shared: RwLock<Shared>,
}

/// What readers share with the writer.
#[derive(Debug)]
pub(super) struct Shared {
    pub index: KeyIndex,
    /// The newest revision; 1 before the first change.
    pub revision: i64,
    /// 0 = never compacted.
    pub compact_revision: i64,
    /// At least every batch with `revision >= compact_revision`.
    pub history: History,
    /// `keys` is not kept here, the index knows it.
    pub sizes: Sizes,
    pub alarms: Alarms,
    pub members: BTreeMap<u64, pb::Member>,
    /// How often [`Store::replace`] put another state here.
    pub replacements: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store at revision 1.
    pub fn new() -> Self {
        let shared = Shared {
            index: KeyIndex::default(),
            revision: 1,
            compact_revision: 0,
            history: History::default(),
            sizes: Sizes::default(),
            alarms: Alarms::default(),
            members: BTreeMap::new(),
            replacements: 0,
        };
        Self::from_parts(Leases::default(), shared)
    }

    pub(super) fn from_parts(leases: Leases, shared: Shared) -> Self {
        Self { writer: Mutex::default(), leases: RwLock::new(leases), shared: RwLock::new(shared) }
    }

    /// Puts another state in the place of this one: whoever takes a lock next sees all of it and nothing of the old
    /// one. Views keep what they pinned, batches handed out stay as they are, and bytes put are counted on. Gives the
    /// old state back, for freeing it may take long and nobody should wait for that.
    ///
    /// # Panics
    /// When the other state is older: clients would see revisions go back.
    #[must_use = "freeing the old state takes long; drop it where nobody waits"]
    pub fn replace(&self, other: Self) -> Self {
        let (other_pass, other_leases, mut other_shared) =
            (other.writer.into_inner(), other.leases.into_inner(), other.shared.into_inner());
        let mut pass = self.writer.lock();
        let mut leases = self.leases.write();
        let mut shared = self.shared.write();
        assert!(
            other_shared.revision >= shared.revision && other_shared.compact_revision >= shared.compact_revision,
            "a state at revision {}, compacted at {}, in place of one at {}, compacted at {}",
            other_shared.revision,
            other_shared.compact_revision,
            shared.revision,
            shared.compact_revision
        );
        other_shared.sizes.put_bytes = shared.sizes.put_bytes;
        other_shared.replacements = shared.replacements + 1;
        Self {
            writer: Mutex::new(std::mem::replace(&mut *pass, other_pass)),
            leases: RwLock::new(std::mem::replace(&mut *leases, other_leases)),
            shared: RwLock::new(std::mem::replace(&mut *shared, other_shared)),
        }
    }

    /// How often the state was replaced. Who reads it in several steps looks at this after each: as long as it has not
    /// changed, the steps were of one state.
    pub fn replacements(&self) -> u64 {
        self.shared.read().replacements
    }

    /// A pinned, consistent view of the newest state.
    pub fn view(&self) -> View {
        self.shared.read().view()
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.shared.read().revision
    }

    /// The compaction mark; 0 when never compacted.
    pub fn compact_revision(&self) -> i64 {
        self.shared.read().compact_revision
    }

    /// Batches with `after < revision <= up_to`, oldest first; at most `revisions_max` and about `bytes_max` bytes of
    /// records, but at least one when there is one.
    ///
    /// # Errors
    /// [`CompactedAt`] when `after + 1` lies before the compaction mark.
    pub fn history(
        &self,
        after: i64,
        up_to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<SharedBatch>, CompactedAt> {
        let shared = self.shared.read();
        if after.saturating_add(1) < shared.compact_revision {
            return Err(CompactedAt(shared.compact_revision));
        }
        Ok(shared.history.slice(after, up_to, revisions_max.max(1), bytes_max))
    }

    /// As [`Store::history`] without an upper bound, but for the checkpoint, which must get every batch once: those that
    /// the compaction mark has passed are still given, because [`Store::compact_slice`] does not drop what is newer than
    /// the checkpoint.
    pub fn backlog(&self, after: i64, revisions_max: usize, bytes_max: usize) -> Vec<SharedBatch> {
        self.shared.read().history.slice(after, i64::MAX, revisions_max.max(1), bytes_max)
    }

    /// How much the store holds.
    pub fn sizes(&self) -> Sizes {
        let shared = self.shared.read();
        Sizes { keys: shared.index.live(), ..shared.sizes }
    }

    /// A lease with its keys.
    pub fn lease(&self, id: i64) -> Option<LeaseInfo> {
        self.leases.read().info(id)
    }

    /// All leases as (id, ttl in seconds), by id.
    pub fn leases(&self) -> Vec<(i64, i64)> {
        self.leases.read().meta().iter().map(|lease| (lease.id, lease.ttl)).collect()
    }

    /// Raised alarms.
    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        self.shared.read().alarms.list()
    }

    /// Members as they published themselves, by id.
    pub fn members(&self) -> Vec<pb::Member> {
        self.shared.read().members.values().cloned().collect()
    }

    /// Hashes what is kept up to `revision` (0 = newest), as etcd does. Works on a view, so that the writer goes on.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        self.view().hash_kv(revision)
    }

    /// The small state that goes with the records into a checkpoint or snapshot; consistent, so it waits for a command
    /// that is being applied.
    pub fn meta(&self) -> Meta {
        let _no_writer = self.writer.lock();
        let leases = self.leases.read().meta();
        let shared = self.shared.read();
        Meta {
            format: FORMAT,
            revision: shared.revision,
            compact_revision: shared.compact_revision,
            leases,
            alarms: shared.alarms.list(),
            members: shared.members.values().cloned().collect(),
        }
    }
}

impl Shared {
    /// Pins the newest state.
    pub fn view(&self) -> View {
        View { index: self.index.clone(), revision: self.revision, compact_revision: self.compact_revision }
    }

    /// Reads of the newest state under the lock.
    pub fn reader(&self) -> Reader<'_> {
        Reader { index: &self.index, revision: self.revision, compact_revision: self.compact_revision }
    }

    /// Publishes what a command did to the index; returns the revision after it.
    pub fn publish(&mut self, outcome: &Outcome) -> i64 {
        if let Some(batch) = &outcome.batch {
            self.revision = batch.revision;
            self.history.push(batch.clone());
            self.sizes.add(outcome.bytes);
        }
        self.revision
    }
}

impl Sizes {
    fn add(&mut self, delta: ByteDelta) {
        self.live_bytes = self.live_bytes.saturating_add_signed(delta.live);
        self.history_bytes = self.history_bytes.saturating_add_signed(delta.history);
        self.put_bytes = self.put_bytes.saturating_add_signed(delta.put);
    }
}
