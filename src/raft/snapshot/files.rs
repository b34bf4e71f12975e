//! The member's snapshot files: which one is current, which are still being read, and those that a peer is sending.
//!
//! What is in a file is [`super`]'s business. A file is only ever seen under its final name when it is whole, verified
//! and durable, and it is removed when a newer one has taken its place and nobody reads it any more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::{Held, Image, Unnamed, load, read_mark, verify};
use crate::raft::apply::Mark;
use crate::raft::checkpoint::Loaded;
use crate::raft::types::SnapshotMeta;
use crate::storage::etcd_file;
use crate::storage::fs::{Disk, File, Open, RealDisk};

/// Names are `<applied index, 16 hex digits>.db`, so that they sort by age.
const SUFFIX: &str = ".db";
/// Begins the names of files that a peer is sending.
const RECEIVING: &str = "receiving-";
/// Ends the names of files that are being written, see [`etcd_file::SnapshotWriter`].
const WRITING: &str = ".db.tmp";
/// What a file that is received must leave free on its file system, which the log may be on as well.
const LEFT_FREE_BYTES_MIN: u64 = 64 << 20;
/// Bytes copied at a time from a file that is not this member's.
const COPY_BYTES: usize = 1 << 20;

/// A hold on a snapshot file: while one of its clones lives the file keeps its name. The last one to go takes a file
/// with it that is not, or no longer, the member's current one.
#[derive(Clone)]
pub struct SnapshotFile(Arc<Hold>);

struct Hold {
    dir: Arc<Dir>,
    path: PathBuf,
    /// Whether the file is worth nothing once nobody reads it: received and not installed, or superseded.
    goes: AtomicBool,
}

/// A directory of snapshot files. Whoever holds a file holds it, so that a temporary one outlives its readers.
struct Dir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Of a member in memory.
    _temporary: Option<TempDir>,
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SnapshotFile").field(&self.0.path).finish()
    }
}

impl SnapshotFile {
    fn new(dir: &Arc<Dir>, path: PathBuf, goes: bool) -> Self {
        Self(Arc::new(Hold { dir: dir.clone(), path, goes: AtomicBool::new(goes) }))
    }

    /// Where it is, as long as this lives and is not installed.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens it for sending. What goes over the wire are its bytes as they are, all `len()` of them: the image and the
    /// SHA-256 behind it, by which the receiver knows that it has the whole file.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(&self) -> io::Result<Arc<dyn File>> {
        self.0.dir.disk.open(&self.0.path, Open::Read)
    }

    /// What Raft has to know of it, read from the file: it needs no other carrier on the wire.
    ///
    /// # Errors
    /// When it cannot be read, or kelson did not write it.
    pub fn meta(&self) -> io::Result<SnapshotMeta> {
        read_mark(&*self.0.dir.disk, &self.0.path).map(|mark| meta_of(&mark))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.goes.load(Ordering::Acquire) {
            remove(&self.dir, &self.path);
        }
    }
}

/// Removes a file that is worth nothing. If it stays, the next start or the next snapshot removes it.
fn remove(dir: &Dir, path: &Path) {
    if let Err(error) = dir.disk.remove(path) {
        tracing::warn!(path = %path.display(), %error, "a snapshot file that is not needed stays");
    }
}

/// A file that a peer is sending. Dropped before [`Receiving::finish`] it leaves nothing.
pub struct Receiving {
    hold: SnapshotFile,
    file: Arc<dyn File>,
    bytes: u64,
}

impl Receiving {
    /// Adds what came next. Blocks, though only as long as the page cache takes.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.bytes, bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file, durably, and reads it once to compare its hash, so that what was cut short or changed on its way
    /// is refused here, where it can be sent again: for Raft a snapshot that cannot be installed is a broken disk. The
    /// result goes to Raft with [`SnapshotFile::meta`]. Blocks for as long as that takes.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::InvalidData`] or the file's own error when it is not what kelson sends.
    pub fn finish(self) -> io::Result<SnapshotFile> {
        self.file.sync_all()?;
        verify(&*self.hold.0.dir.disk, self.hold.path())?;
        self.hold.meta()?;
        Ok(self.hold)
    }
}

/// The member's snapshot files; clones share them.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    // Guards the way to the directory, which a member in memory makes when it first needs one.
    dir: Mutex<Option<Arc<Dir>>>,
    // Guards which files there are; held for a moment.
    files: Mutex<Files>,
    /// Numbers files that are received.
    received: AtomicU64,
}

#[derive(Default)]
struct Files {
    /// The newest snapshot.
    current: Option<Held>,
    /// Left by an earlier process and read by nobody, oldest first; gone when a snapshot of this one is there.
    found: Vec<PathBuf>,
}

impl Snapshots {
    /// Files of a member that keeps nothing: in a directory that is made when it is needed, and removed with the last
    /// of these clones and of its files.
    pub fn memory_only() -> Self {
        Self::with(None, Vec::new())
    }

    /// The files in `dir`, which is made if need be, and which is nobody else's. Half a file that a killed process left
    /// is removed; nothing else is read yet.
    ///
    /// # Errors
    /// The directory's.
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        disk.create_dir_all(&dir)?;
        let mut found = Vec::new();
        for name in disk.read_dir(&dir)? {
            if name.starts_with(RECEIVING) || name.ends_with(WRITING) {
                disk.remove(&dir.join(name))?;
            } else if name.ends_with(SUFFIX) {
                found.push(dir.join(name));
            }
        }
        found.sort();
        Ok(Self::with(Some(Arc::new(Dir { disk, path: dir, _temporary: None })), found))
    }

    fn with(dir: Option<Arc<Dir>>, found: Vec<PathBuf>) -> Self {
        let files = Files { current: None, found };
        Self(Arc::new(Inner { dir: Mutex::new(dir), files: Mutex::new(files), received: AtomicU64::new(0) }))
    }

    fn dir(&self) -> io::Result<Arc<Dir>> {
        let mut dir = self.0.dir.lock();
        if let Some(dir) = &*dir {
            return Ok(dir.clone());
        }
        let temporary = tempfile::Builder::new().prefix("kelson-").tempdir()?;
        let path = temporary.path().to_owned();
        let made = Arc::new(Dir { disk: Arc::new(RealDisk), path, _temporary: Some(temporary) });
        Ok(dir.insert(made).clone())
    }

    /// How far the log is applied to the newest file that an earlier process left; its records are not read.
    ///
    /// # Errors
    /// When there is a file and it cannot be read, or kelson did not write it.
    pub fn newest_mark(&self) -> io::Result<Option<Mark>> {
        self.newest().map(|path| read_mark(&*self.dir()?.disk, &path)).transpose()
    }

    /// The state of the newest file that an earlier process left, whether or not the checkpoint holds a newer one.
    ///
    /// # Errors
    /// When there is a file and it cannot be read; an older one is not taken instead, for the log may begin behind it.
    pub fn load(&self) -> io::Result<Option<Loaded>> {
        let Some(path) = self.newest() else { return Ok(None) };
        let loaded = load(&*self.dir()?.disk, &path)?;
        self.recognize(&loaded.mark, path)?;
        Ok(Some(loaded))
    }

    /// Takes the newest file that an earlier process left as the current snapshot, knowing it only by its mark; for
    /// members whose checkpoint, at `checkpoint`, is whole. A file ahead of the checkpoint is passed over: it is for
    /// the caller to have seen that the log holds what lies between; the next snapshot replaces the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn recall(&self, checkpoint: &Mark) -> io::Result<()> {
        let Some(path) = self.newest() else { return Ok(()) };
        let mark = read_mark(&*self.dir()?.disk, &path)?;
        if mark.log_id <= checkpoint.log_id {
            self.recognize(&mark, path)?;
        }
        Ok(())
    }

    fn newest(&self) -> Option<PathBuf> {
        self.0.files.lock().found.last().cloned()
    }

    fn recognize(&self, mark: &Mark, path: PathBuf) -> io::Result<()> {
        let dir = self.dir()?;
        let mut files = self.0.files.lock();
        files.found.retain(|found| *found != path);
        let snapshot = SnapshotFile::new(&dir, path, false);
        files.current = Some(Held { meta: meta_of(mark), snapshot });
        Ok(())
    }

    /// The newest snapshot; its file stays as long as the answer lives.
    pub fn current(&self) -> Option<Held> {
        self.0.files.lock().current.clone()
    }

    /// Writes and verifies a file, which becomes the current snapshot unless a newer one did meanwhile; gives back
    /// which is. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, image: &Image) -> io::Result<Held> {
        let dir = self.dir()?;
        let path = dir.named(&image.mark);
        let finished = image.write(&dir.disk, &path).map_err(io::Error::other)?;
        // A file that does not read back must not be the newest one at the next start.
        verify(&*dir.disk, &path).inspect_err(|_| remove(&dir, &path))?;
        tracing::info!(path = %path.display(), bytes = finished.bytes, "snapshot written");
        Ok(self.keep(&dir, meta_of(&image.mark), path))
    }

    /// How large a file that a peer announces may be; `None` where nobody can tell. What is announced is written as it
    /// comes and never held in memory.
    ///
    /// # Errors
    /// The disk's.
    pub fn room_bytes(&self) -> io::Result<Option<u64>> {
        let dir = self.dir()?;
        let free = dir.disk.free_bytes(&dir.path)?;
        Ok(free.map(|free| free.saturating_sub(LEFT_FREE_BYTES_MIN)))
    }

    /// A file in the snapshots' own directory for what a peer sends.
    ///
    /// What the sender sends are the bytes of its file as they are, image and SHA-256 ([`SnapshotFile::open`]), from
    /// the first to the last; the receiver writes them in order and finishes. [`Receiving::finish`] refuses anything
    /// else, and the sender then begins again. A file that was finished goes to Raft, which installs it or drops it; a
    /// dropped one is gone from the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn receiving(&self) -> io::Result<Receiving> {
        let dir = self.dir()?;
        let number = self.0.received.fetch_add(1, Ordering::Relaxed);
        let path = dir.path.join(format!("{RECEIVING}{number}"));
        let file = dir.disk.open(&path, Open::Create)?;
        Ok(Receiving { hold: SnapshotFile::new(&dir, path, true), file, bytes: 0 })
    }

    /// Reads a finished file that Raft says is at `meta`, and makes it the current snapshot, durably, under its final
    /// name. The caller then puts the state in place of the old one. Blocks.
    ///
    /// A file of this member that was received is renamed; one that is the current snapshot already stays; any other
    /// is somebody else's and is copied.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::InvalidData`] when the file is damaged or does not hold the state at `meta`.
    pub fn install(&self, meta: &SnapshotMeta, file: &SnapshotFile) -> io::Result<Loaded> {
        let loaded = load(&*file.0.dir.disk, file.path())?;
        if meta_of(&loaded.mark) != *meta {
            let reason = format!("{}: holds {}, not {meta}", file.path().display(), meta_of(&loaded.mark));
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let dir = self.dir()?;
        let path = dir.named(&loaded.mark);
        if file.path() != path {
            let mine = Arc::ptr_eq(&file.0.dir, &dir) && file.0.goes.load(Ordering::Acquire);
            let file = if mine { file.clone() } else { self.copy(file)? };
            dir.disk.rename(file.path(), &path)?;
            // Under the name it had there is nothing left to remove.
            file.0.goes.store(false, Ordering::Release);
            dir.disk.sync_dir(&dir.path)?;
        }
        self.keep(&dir, meta.clone(), path);
        Ok(loaded)
    }

    fn copy(&self, from: &SnapshotFile) -> io::Result<SnapshotFile> {
        let source = from.open()?;
        let mut to = self.receiving()?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = source.read_at(to.bytes, &mut buffer)?;
            if read == 0 {
                return to.finish();
            }
            to.write_all(&buffer[..read])?;
        }
    }

    /// Makes a durable file the current snapshot unless there is a newer one: a build may end after an install that
    /// began later. What is superseded goes when its last reader does.
    fn keep(&self, dir: &Arc<Dir>, meta: SnapshotMeta, path: PathBuf) -> Held {
        let snapshot = SnapshotFile::new(dir, path, false);
        let (current, superseded, found) = {
            let mut files = self.0.files.lock();
            let found = std::mem::take(&mut files.found);
            match files.current.take() {
                Some(newer) if newer.meta.last_log_id > meta.last_log_id => {
                    files.current = Some(newer.clone());
                    (newer, Some(snapshot), found)
                }
                older => {
                    let current = Held { meta, snapshot };
                    files.current = Some(current.clone());
                    (current, older.map(|older| older.snapshot), found)
                }
            }
        };
        let is_current = |path: &Path| path == current.snapshot.path();
        if let Some(superseded) = superseded.filter(|superseded| !is_current(superseded.path())) {
            superseded.0.goes.store(true, Ordering::Release);
            drop(superseded);
        }
        found.iter().filter(|path| !is_current(path)).for_each(|path| remove(dir, path));
        current
    }

    /// Writes a file for one reader; its disk space is free again when the reader is dropped.
    ///
    /// # Errors
    /// The file's.
    pub fn unnamed(&self, image: &Image) -> io::Result<Unnamed> {
        let temporary = tempfile::Builder::new().prefix("sending-").tempdir_in(&self.dir()?.path)?;
        let path = temporary.path().join("db");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        image.write(&disk, &path).map_err(io::Error::other)?;
        let (bytes, reader) = etcd_file::open_image(&path)?;
        Ok(Unnamed { bytes, reader })
    }
}

impl Dir {
    fn named(&self, mark: &Mark) -> PathBuf {
        self.path.join(format!("{:016x}{SUFFIX}", mark.log_id.map_or(0, |id| id.index)))
    }
}

fn meta_of(mark: &Mark) -> SnapshotMeta {
    SnapshotMeta { last_log_id: mark.log_id, last_membership: mark.membership.clone() }
}
