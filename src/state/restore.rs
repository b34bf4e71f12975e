//! Rebuilding a store from its records and its [`Meta`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::alarm::Alarms;
use super::event::{Change, ChangeKind, EventBatch, Revision};
use super::history::History;
use super::key_index::{Builder, Entry, FETCH, HEAD_BYTES, Version, fetch, head};
use super::lease::Leases;
use super::meta::{Meta, RestoreError};
use super::store::{Shared, Sizes, Store};
use crate::proto::Record;

impl Store {
    /// Rebuilds a store from [`Store::meta`] and all kept records in revision order; those newer than `meta.revision`
    /// are ignored.
    ///
    /// # Errors
    /// What the iterator yields, or records out of order or with a revision that is none.
    pub fn restore<E>(
        meta: Meta,
        records: impl Iterator<Item = Result<(Revision, bool, Record), E>>,
    ) -> Result<Self, RestoreError<E>> {
        let mut versions: Vec<Version> = Vec::new();
        for record in records {
            let (revision, tombstone, record) = record.map_err(RestoreError::Source)?;
            if u32::try_from(revision.sub).is_err() {
                return Err(RestoreError::Revision(revision));
            }
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
        let order = by_key(&versions);
        Ok(Self::build(meta, versions, &order))
    }

    /// `versions` in revision order; `order` their places by key, then revision.
    fn build(meta: Meta, versions: Vec<Version>, order: &[u32]) -> Self {
        let mut keys = Keys {
            index: Builder::default(),
            leases: Leases::new(&meta.leases),
            sizes: Sizes::default(),
            open: None,
            previous: vec![None; versions.len()],
            reshaping: vec![false; versions.len()],
        };
        for places in order.chunks(FETCH) {
            fetch(places.iter().map(|place| versions[*place as usize].record()));
            for &place in places {
                keys.push(place as usize, versions[place as usize].clone());
            }
        }
        keys.close();
        let mut index = keys.index.finish();
        let after_mark = versions.partition_point(|version| version.revision().main <= meta.compact_revision);
        for (version, _) in versions.iter().zip(&keys.reshaping).skip(after_mark).filter(|(_, reshaping)| **reshaping) {
            index.note_reshaping(version);
        }
        let shared = Shared {
            index,
            revision: meta.revision.max(1),
            compact_revision: meta.compact_revision.max(0),
            history: history(meta.compact_revision, versions, keys.previous),
            sizes: keys.sizes,
            alarms: Alarms::new(&meta.alarms),
            members: meta.members.into_iter().map(|member| (member.id, member)).collect::<BTreeMap<_, _>>(),
            replacements: 0,
        };
        Self::from_parts(keys.leases, shared)
    }
}

/// What is gathered while going through all versions by key.
struct Keys {
    index: Builder,
    leases: Leases,
    sizes: Sizes,
    /// The key at hand, with the main revision at which it was last created or removed, as far as is known: a creation
    /// that compaction dropped lies before the first version left.
    open: Option<(Entry, i64)>,
    /// What each version superseded, by the version's place.
    previous: Vec<Option<Record>>,
    /// Whether each version created or removed its key.
    reshaping: Vec<bool>,
}

impl Keys {
    fn push(&mut self, place: usize, version: Version) {
        let main = version.revision().main;
        match self.open.as_mut().filter(|(entry, _)| entry.key() == version.record().key()) {
            Some((entry, reshaped)) => {
                self.previous[place] = entry.live().cloned();
                if entry.live().is_some() == version.is_tombstone() {
                    *reshaped = main;
                    self.reshaping[place] = true;
                }
                self.sizes.history_bytes += bytes(entry.newest());
                entry.push(version);
            }
            None => {
                self.close();
                self.reshaping[place] = true;
                self.open = Some((Entry::new(version), main));
            }
        }
    }

    fn close(&mut self) {
        let Some((entry, reshaped)) = self.open.take() else { return };
        match entry.live() {
            Some(record) => {
                self.sizes.live_bytes += bytes(entry.newest());
                if !self.leases.is_empty() {
                    self.leases.attach(record.lease(), record.key());
                }
            }
            None => self.sizes.history_bytes += bytes(entry.newest()),
        }
        self.index.push(entry, reshaped);
    }
}

/// The places of versions by key, then by revision. Comparing whole keys that are alike for most of their length, each
/// somewhere else in memory, takes seconds for a million of them; so they are sorted by eight bytes at a time, and only
/// what these leave equal is sorted by the next eight.
fn by_key(versions: &[Version]) -> Vec<u32> {
    let key = |place: u32| versions[place as usize].record().key();
    let mut items: Vec<(u64, u32)> = (0..versions.len() as u32).map(|place| (0, place)).collect();
    let mut ranges = vec![(0..items.len(), 0)];
    while let Some((range, depth)) = ranges.pop() {
        let items = &mut items[range.clone()];
        let mut longest = 0;
        for (head_of, place) in items.iter_mut() {
            *head_of = head(key(*place), depth);
            longest = longest.max(key(*place).len());
        }
        if longest <= depth {
            // Equal but for zeros at the end, which the heads do not tell from nothing.
            items.sort_unstable_by_key(|(_, place)| (key(*place).len(), *place));
            continue;
        }
        items.sort_unstable();
        let mut start = range.start;
        for run in items.chunk_by(|(a, _), (b, _)| a == b) {
            if run.len() > 1 {
                ranges.push((start..start + run.len(), depth + HEAD_BYTES));
            }
            start += run.len();
        }
    }
    items.into_iter().map(|(_, place)| place).collect()
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
