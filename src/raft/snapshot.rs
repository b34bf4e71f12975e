//! Raft's snapshots: the state as one verified file in etcd's own format, behind which the log is purged.
//!
//! The file is written from memory and not from the checkpoint, so that a fault in one never reaches the other. It
//! holds what etcd's tools read, and a bucket of ours with the mark and the state's meta. It is also what a leader sends
//! to a member whose log ends before its own begins: the bytes of the file as they are. [`files`] keeps the files.

pub mod files;

use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::storage::RaftSnapshotBuilder;

pub use files::{Receiving, SnapshotFile, Snapshots};

use super::apply::{Mark, Shared};
use super::checkpoint::{Checkpoint, Loaded};
use super::types::TypeConfig;
use crate::config::ETCD_CLUSTER_VERSION;
use crate::mutants::{Mutant, planted};
use crate::proto::{Record, leasepb};
use crate::state::meta::Meta;
use crate::state::{Revision, Store, View};
use crate::storage::engine::RevisionKey;
use crate::storage::etcd_file::{self, Bucket, ConfState, Finished, SnapshotReader, SnapshotWriter};
use crate::storage::fs::Disk;

/// A snapshot as openraft knows it: its meta, and a hold on its file.
pub type Held = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Keys of our bucket.
const MARK_KEY: &[u8] = b"mark";
const META_KEY: &[u8] = b"state";

/// A state of one instant, to be written to a file.
pub struct Image {
    /// How far the log is applied to it.
    pub mark: Mark,
    /// Everything that is no record.
    pub meta: Meta,
    /// The records.
    pub view: View,
}

impl Image {
    /// Of the state as it is now.
    pub fn of(shared: &Shared) -> Self {
        let mark = shared.mark.lock();
        let mut meta = shared.store.meta();
        if planted(Mutant::SnapshotWithoutLeases) {
            meta.leases.clear();
        }
        Self { mark: mark.clone(), meta, view: shared.store.view() }
    }

    /// Writes the file; it appears under its name when it is whole and durable.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, disk: &Arc<dyn Disk>, path: &Path) -> Result<Finished, etcd_file::Error> {
        let mut file = SnapshotWriter::create_on(disk.clone(), path)?;
        file.alarms(&self.meta.alarms)?;
        file.cluster_version(ETCD_CLUSTER_VERSION)?;
        file.start(Bucket::Kelson)?;
        file.put(MARK_KEY, &self.mark.encode())?;
        file.put(META_KEY, &self.meta.encode())?;
        file.start(Bucket::Key)?;
        for (revision, tombstone, record) in self.view.records() {
            let key = RevisionKey { main: revision.main, sub: revision.sub, tombstone };
            // etcd's record of a deletion is the bare key.
            let record = if tombstone { Record::tombstone(record.key(), 0) } else { record };
            file.record(key, record.as_bytes())?;
        }
        file.leases(self.meta.leases.iter().map(|lease| leasepb::Lease {
            id: lease.id,
            ttl: lease.ttl,
            remaining_ttl: lease.remaining_ttl,
        }))?;
        file.members(&self.members())?;
        let compacted = (self.meta.compact_revision > 0).then_some(RevisionKey {
            main: self.meta.compact_revision,
            sub: 0,
            tombstone: false,
        });
        let voters = self.mark.membership.voter_ids().collect();
        file.meta(&etcd_file::Meta {
            consistent_index: self.mark.log_id.map_or(0, |id| id.index),
            term: self.mark.log_id.map_or(0, |id| id.leader_id.term),
            conf_state: ConfState { voters, ..ConfState::default() },
            storage_version: ETCD_CLUSTER_VERSION.to_owned(),
            scheduled_compact: compacted,
            finished_compact: compacted,
        })?;
        file.finish()
    }

    fn members(&self) -> Vec<etcd_file::Member> {
        let membership = self.mark.membership.membership();
        let members = membership.nodes().map(|(&id, info)| {
            let published = self.meta.members.iter().find(|member| member.id == id).cloned().unwrap_or_default();
            etcd_file::Member {
                id,
                peer_urls: info.peer_urls.clone(),
                is_learner: membership.learner_ids().any(|learner| learner == id),
                name: published.name,
                client_urls: published.client_ur_ls,
            }
        });
        members.collect()
    }
}

/// Reads a snapshot file whole.
///
/// # Errors
/// When the hash does not fit or it is no snapshot of ours.
pub fn load(disk: &dyn Disk, path: &Path) -> io::Result<Loaded> {
    let reader = verify(disk, path)?;
    let (mark, meta) = own_bucket(path, &reader)?;
    Ok(Loaded { store: restore(&reader, meta)?, mark })
}

/// Compares a file with the hash behind it.
fn verify(disk: &dyn Disk, path: &Path) -> io::Result<SnapshotReader> {
    let reader = SnapshotReader::open_on(disk, path).map_err(io::Error::other)?;
    reader.verify_hash().map_err(io::Error::other)?;
    Ok(reader)
}

/// How far the log is applied to a file, whose hash and records are not looked at.
fn read_mark(disk: &dyn Disk, path: &Path) -> io::Result<Mark> {
    let reader = SnapshotReader::open_on(disk, path).map_err(io::Error::other)?;
    own_bucket(path, &reader).map(|(mark, _)| mark)
}

fn own_bucket(path: &Path, reader: &SnapshotReader) -> io::Result<(Mark, Meta)> {
    let (mut mark, mut meta) = (None, None);
    if let Some(mut bucket) = reader.bucket(Bucket::Kelson).map_err(io::Error::other)? {
        while let Some((key, value)) = bucket.advance().map_err(io::Error::other)? {
            match key {
                MARK_KEY => mark = Some(Mark::decode(value)?),
                META_KEY => meta = Some(Meta::decode(value).map_err(io::Error::other)?),
                _ => {}
            }
        }
    }
    mark.zip(meta).ok_or_else(|| {
        let reason = format!("{}: not written by kelson; use `kelson snapshot restore`", path.display());
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

/// Rebuilds the state of an opened snapshot.
///
/// # Errors
/// When a record cannot be read or does not follow the one before.
pub fn restore(reader: &SnapshotReader, meta: Meta) -> io::Result<Store> {
    let records = reader.records().map_err(io::Error::other)?.map(|record| {
        record.map(|(key, record)| {
            let record = if key.tombstone { Record::tombstone(record.key(), key.main) } else { record };
            (Revision { main: key.main, sub: key.sub }, key.tombstone, record)
        })
    });
    Store::restore(meta, records).map_err(io::Error::other)
}

/// A snapshot file without a name.
pub struct Unnamed {
    /// Bytes of the image, without the hash behind it.
    pub bytes: u64,
    /// The image.
    pub reader: Box<dyn io::Read + Send>,
}

/// Builds one snapshot.
pub struct SnapshotBuilder {
    shared: Arc<Shared>,
    snapshots: Snapshots,
    checkpoint: Checkpoint,
}

impl SnapshotBuilder {
    /// Of the state as it is when the build begins.
    pub fn new(shared: Arc<Shared>, snapshots: Snapshots, checkpoint: Checkpoint) -> Self {
        Self { shared, snapshots, checkpoint }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Held, io::Error> {
        let image = Image::of(&self.shared);
        let (snapshots, shared) = (self.snapshots.clone(), self.shared.clone());
        let save = move || {
            let started = shared.meter.clock.now();
            let snapshot = snapshots.save(&image)?;
            let took = shared.meter.since(started);
            shared.meter.metrics.disk.snap_save_seconds.observe(took.as_secs_f64());
            Ok::<_, io::Error>(snapshot)
        };
        let snapshot = crate::blocking::spawn(save).await.map_err(io::Error::other)??;
        // openraft purges the log up to the snapshot; the checkpoint must be there as well by then.
        if !self.checkpoint.flush().await {
            return Err(io::Error::other("the checkpoint is not up to date, so the log cannot be purged"));
        }
        Ok(snapshot)
    }
}
