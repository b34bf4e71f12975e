//! Rebuilding a store from its records and its [`Meta`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::alarm::Alarms;
use super::event::{Change, ChangeKind, EventBatch, Revision};
use super::history::History;
use super::key_index::{Entry, KeyIndex, Version};
use super::lease::Leases;
use super::meta::{Meta, RestoreError};
use super::store::{Shared, Sizes, Store};
use crate::proto::Record;

impl Store {
    /// Rebuilds a store from [`Store::meta`] and all kept records in revision order; those newer than `meta.revision`
    /// are ignored.
    ///
    /// # Errors
    /// What the iterator yields, or records out of order.
    pub fn restore<E>(
        meta: Meta,
        records: impl Iterator<Item = Result<(Revision, bool, Record), E>>,
    ) -> Result<Self, RestoreError<E>> {
        let mut versions: Vec<Version> = Vec::new();
        for record in records {
            let (revision, tombstone, record) = record.map_err(RestoreError::Source)?;
            if let Some(after) = versions.last().map(Version::revision)
                && revision <= after
            {
                return Err(RestoreError::Order { found: revision, after });
            }
            if revision.main > meta.revision {
                break;
            }
            // etcd's own record of a deletion is the bare key.
            let record = if tombstone { Record::tombstone(record.key(), revision.main) } else { record };
            versions.push(Version::new(record, revision, tombstone));
        }
        let mut order: Vec<u32> = (0..versions.len() as u32).collect();
        order.sort_by(|a, b| versions[*a as usize].record().key().cmp(versions[*b as usize].record().key()));
        Ok(Self::build(meta, versions, &order))
    }

    /// `versions` in revision order; `order` their places by key, then revision.
    fn build(meta: Meta, versions: Vec<Version>, order: &[u32]) -> Self {
        let mut leases = Leases::new(&meta.leases);
        let mut sizes = Sizes::default();
        let mut previous: Vec<Option<Record>> = vec![None; versions.len()];
        let mut entries: Vec<(Entry, i64)> = Vec::new();
        for &place in order {
            let version = versions[place as usize].clone();
            let main = version.revision().main;
            match entries.last_mut().filter(|(entry, _)| entry.key() == version.record().key()) {
                Some((entry, reshaped)) => {
                    previous[place as usize] = entry.live().cloned();
                    if entry.live().is_some() == version.is_tombstone() {
                        *reshaped = main;
                    }
                    sizes.history_bytes += bytes(entry.newest());
                    entry.push(version);
                }
                None => {
                    let created = if version.is_tombstone() { main } else { version.record().create_revision() };
                    entries.push((Entry::new(version), created));
                }
            }
        }
        for (entry, _) in &entries {
            match entry.live() {
                Some(record) => {
                    sizes.live_bytes += bytes(entry.newest());
                    leases.attach(record.lease(), record.key());
                }
                None => sizes.history_bytes += bytes(entry.newest()),
            }
        }
        let shared = Shared {
            index: KeyIndex::from_sorted(entries.into_iter()),
            revision: meta.revision.max(1),
            compact_revision: meta.compact_revision.max(0),
            history: history(meta.compact_revision, versions, previous),
            sizes,
            alarms: Alarms::new(&meta.alarms),
            members: meta.members.into_iter().map(|member| (member.id, member)).collect::<BTreeMap<_, _>>(),
        };
        Self::from_parts(leases, shared)
    }
}

/// Batches from the compaction mark on.
fn history(compact_revision: i64, versions: Vec<Version>, previous: Vec<Option<Record>>) -> History {
    let mut history = History::default();
    let mut batch: Option<EventBatch> = None;
    let from = versions.partition_point(|version| version.revision().main < compact_revision);
    for (version, previous) in versions.into_iter().zip(previous).skip(from) {
        let revision = version.revision().main;
        if let Some(full) = batch.take_if(|batch| batch.revision != revision) {
            history.push(Arc::new(full));
        }
        let kind = if version.is_tombstone() { ChangeKind::Delete } else { ChangeKind::Put };
        let change = Change { kind, record: version.record().clone(), previous };
        batch.get_or_insert_with(|| EventBatch { revision, changes: Vec::new() }).changes.push(change);
    }
    if let Some(last) = batch {
        history.push(Arc::new(last));
    }
    history
}

fn bytes(version: &Version) -> u64 {
    version.record().as_bytes().len() as u64
}
