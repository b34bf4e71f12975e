//! Raft's snapshots: the state as one verified file in etcd's own format, behind which the log is purged.
//!
//! The file is written from memory and not from the checkpoint, so that a fault in one never reaches the other. It
//! holds what etcd's tools read, and a bucket of ours with the mark and the state's meta.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;

use super::apply::{Mark, Shared};
use super::checkpoint::{Checkpoint, Loaded};
use super::types::{SnapshotMeta, TypeConfig};
use crate::config::ETCD_CLUSTER_VERSION;
use crate::proto::{Record, leasepb};
use crate::state::meta::Meta;
use crate::state::{Revision, Store, View};
use crate::storage::engine::RevisionKey;
use crate::storage::etcd_file::{self, Bucket, ConfState, Finished, SnapshotReader, SnapshotWriter};
use crate::storage::fs::Disk;

type Held = openraft::alias::SnapshotOf<TypeConfig, PathBuf>;

/// Keys of our bucket.
const MARK_KEY: &[u8] = b"mark";
const META_KEY: &[u8] = b"state";
/// Names are `<applied index, 16 hex digits>.db`, so that they sort by age.
const SUFFIX: &str = ".db";

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
        Self { mark: mark.clone(), meta: shared.store.meta(), view: shared.store.view() }
    }

    /// Writes the file; it appears under its name when it is whole and durable.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, path: &Path) -> Result<Finished, etcd_file::Error> {
        let mut file = SnapshotWriter::create(path)?;
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
pub fn load(path: &Path) -> io::Result<Loaded> {
    let reader = SnapshotReader::open(path).map_err(io::Error::other)?;
    reader.verify_hash().map_err(io::Error::other)?;
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
    let (Some(mark), Some(meta)) = (mark, meta) else {
        let reason = format!("{}: not written by kelson; use `kelson snapshot restore`", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    };
    Ok(Loaded { store: restore(&reader, meta)?, mark })
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

/// The member's snapshot files; clones share them.
#[derive(Clone)]
pub struct Snapshots {
    /// `None` in memory: a snapshot then only says up to where the log may be purged.
    dir: Option<(Arc<dyn Disk>, PathBuf)>,
    // Guards which file is the newest; held for a moment.
    current: Arc<Mutex<Option<(SnapshotMeta, PathBuf)>>>,
}

impl Snapshots {
    /// No files.
    pub fn memory_only() -> Self {
        Self { dir: None, current: Arc::default() }
    }

    /// The files in `dir`, which is made if need be. Nothing is read yet.
    ///
    /// # Errors
    /// The directory's.
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        disk.create_dir_all(&dir)?;
        Ok(Self { dir: Some((disk, dir)), current: Arc::default() })
    }

    /// The state of the newest file, whether or not the checkpoint holds a newer one.
    ///
    /// # Errors
    /// When there is a file and it cannot be read; an older one is not taken instead, for the log may begin behind it.
    pub fn load(&self) -> io::Result<Option<Loaded>> {
        let Some(path) = self.newest()? else { return Ok(None) };
        let loaded = load(&path)?;
        self.set_current(&loaded.mark, path);
        Ok(Some(loaded))
    }

    /// Takes the newest file as the current snapshot, knowing it only by its mark; for members whose checkpoint, at
    /// `checkpoint`, is whole. A file ahead of the checkpoint is passed over: the member ended between the two, so the
    /// log still holds what lies between, and the next snapshot replaces the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn recall(&self, checkpoint: &Mark) -> io::Result<()> {
        let Some(path) = self.newest()? else { return Ok(()) };
        let reader = SnapshotReader::open(&path).map_err(io::Error::other)?;
        let Some(mut bucket) = reader.bucket(Bucket::Kelson).map_err(io::Error::other)? else { return Ok(()) };
        while let Some((key, value)) = bucket.advance().map_err(io::Error::other)? {
            if key == MARK_KEY {
                let mark = Mark::decode(value)?;
                if mark.log_id <= checkpoint.log_id {
                    self.set_current(&mark, path.clone());
                }
            }
        }
        Ok(())
    }

    /// The newest snapshot.
    pub fn current(&self) -> Option<Held> {
        self.current.lock().clone().map(|(meta, snapshot)| Snapshot { meta, snapshot })
    }

    fn set_current(&self, mark: &Mark, path: PathBuf) {
        let meta = SnapshotMeta { last_log_id: mark.log_id, last_membership: mark.membership.clone() };
        *self.current.lock() = Some((meta, path));
    }

    /// Files by age, oldest first.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let Some((disk, dir)) = &self.dir else { return Ok(Vec::new()) };
        let mut names: Vec<_> = disk.read_dir(dir)?.into_iter().filter(|name| name.ends_with(SUFFIX)).collect();
        names.sort();
        Ok(names.into_iter().map(|name| dir.join(name)).collect())
    }

    fn newest(&self) -> io::Result<Option<PathBuf>> {
        Ok(self.files()?.pop())
    }

    /// Writes and verifies a file, then forgets the ones before it.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, image: &Image) -> io::Result<()> {
        let Some((disk, dir)) = &self.dir else {
            self.set_current(&image.mark, PathBuf::new());
            return Ok(());
        };
        let path = dir.join(format!("{:016x}{SUFFIX}", image.mark.log_id.map_or(0, |id| id.index)));
        let finished = image.write(&path).map_err(io::Error::other)?;
        SnapshotReader::open(&path).and_then(|reader| reader.verify_hash()).map_err(io::Error::other)?;
        self.set_current(&image.mark, path.clone());
        tracing::info!(path = %path.display(), bytes = finished.bytes, "snapshot written");
        for old in self.files()?.into_iter().filter(|old| *old != path) {
            disk.remove(&old)?;
        }
        disk.sync_dir(dir)
    }
}

/// A snapshot file without a name.
pub struct Unnamed {
    /// Bytes of the image, without the hash behind it.
    pub bytes: u64,
    /// The image.
    pub reader: Box<dyn io::Read + Send>,
}

impl Snapshots {
    /// Writes a file for one reader; its disk space is free again when the reader is dropped.
    ///
    /// # Errors
    /// The file's.
    pub fn unnamed(&self, image: &Image) -> io::Result<Unnamed> {
        let dir = match &self.dir {
            Some((_, dir)) => tempfile::Builder::new().prefix("sending-").tempdir_in(dir)?,
            None => tempfile::tempdir()?,
        };
        let path = dir.path().join("db");
        image.write(&path).map_err(io::Error::other)?;
        let (bytes, reader) = etcd_file::open_image(&path)?;
        Ok(Unnamed { bytes, reader })
    }
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
    type SnapshotData = PathBuf;

    async fn build_snapshot(&mut self) -> Result<Held, io::Error> {
        let image = Image::of(&self.shared);
        let (snapshots, shared) = (self.snapshots.clone(), self.shared.clone());
        let save = move || {
            let started = shared.meter.clock.now();
            snapshots.save(&image)?;
            let took = shared.meter.since(started);
            shared.meter.metrics.disk.snap_save_seconds.observe(took.as_secs_f64());
            Ok::<_, io::Error>(())
        };
        tokio::task::spawn_blocking(save).await.map_err(io::Error::other)??;
        // openraft purges the log up to the snapshot; the checkpoint must be there as well by then.
        if !self.checkpoint.flush().await {
            return Err(io::Error::other("the checkpoint is not up to date, so the log cannot be purged"));
        }
        self.snapshots.current().ok_or_else(|| io::Error::other("the snapshot written is gone"))
    }
}
