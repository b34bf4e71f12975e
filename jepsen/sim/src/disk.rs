//! A member's disk: kelson's own disk in memory, every operation of which is an event, and the store of its checkpoint.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kelson::storage::engine::{Engine, Error, Visitor, WriteBatch};
use kelson::storage::fs::{Disk, File, Kind, Lock, Open, SimDisk};
use kelson::storage::memory::MemoryEngine;
use parking_lot::Mutex;

use crate::trace::Trace;

/// See the module.
#[derive(Clone)]
pub struct TracedDisk {
    /// The disk itself, for faults and power cuts.
    pub inner: SimDisk,
    node: u32,
    trace: Arc<Trace>,
    /// Writes and syncs that failed.
    failed: Arc<AtomicU64>,
    /// Writes and syncs of the log that failed since the process began.
    log_failures: Arc<AtomicU64>,
}

impl TracedDisk {
    /// An empty disk.
    pub fn new(node: u32, trace: Arc<Trace>) -> Self {
        Self { inner: SimDisk::new(), node, trace, failed: Arc::default(), log_failures: Arc::default() }
    }

    /// Writes and syncs that failed so far.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Writes and syncs of the log that failed since [`TracedDisk::begin_life`].
    pub fn log_failures(&self) -> u64 {
        self.log_failures.load(Ordering::Relaxed)
    }

    /// A process begins.
    pub fn begin_life(&self) {
        self.log_failures.store(0, Ordering::Relaxed);
    }

    fn count_failure<T>(&self, result: &io::Result<T>) {
        let failed = result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    fn note<T>(&self, what: &str, path: &Path, result: &io::Result<T>) {
        self.count_failure(result);
        self.trace.note(format_args!("{} {what} {} {}", self.node, path.display(), result.is_ok()));
    }
}

impl Disk for TracedDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let file = self.inner.open(path, how);
        if how != Open::Read {
            self.note("open", path, &file);
        }
        let is_log = path.components().any(|part| part.as_os_str() == "log");
        Ok(Arc::new(TracedFile { inner: file?, disk: self.clone(), is_log }))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.inner.kind(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.read_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let result = self.inner.create_dir(path);
        self.note("mkdir", path, &result);
        result
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let result = self.inner.rename(from, to);
        self.note("rename", to, &result);
        result
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let result = self.inner.remove(path);
        self.note("remove", path, &result);
        result
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let result = self.inner.sync_dir(path);
        self.note("sync-dir", path, &result);
        result
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.inner.lock(path)
    }
}

struct TracedFile {
    inner: Arc<dyn File>,
    disk: TracedDisk,
    is_log: bool,
}

impl TracedFile {
    fn count_failure<T>(&self, result: &io::Result<T>) {
        self.disk.count_failure(result);
        if self.is_log && result.is_err() {
            self.disk.log_failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl File for TracedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let result = self.inner.write_at(offset, bytes);
        self.count_failure(&result);
        let sum = crc32c::crc32c(bytes);
        let (node, len) = (self.disk.node, bytes.len());
        self.disk.trace.note(format_args!("{node} write {offset} {len} {sum:08x} {}", result.is_ok()));
        result
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let result = self.inner.preallocate(len);
        self.count_failure(&result);
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.inner.sync_data();
        self.count_failure(&result);
        self.disk.trace.note(format_args!("{} sync {}", self.disk.node, result.is_ok()));
        result
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

/// The checkpoint's store, which outlives the member; clones are the same. sled has threads and files of its own and
/// cannot be simulated; what it must do is this engine's contract.
#[derive(Clone, Default)]
pub struct SharedEngine(Arc<Mutex<MemoryEngine>>);

impl SharedEngine {
    /// Forgets what was not flushed.
    pub fn crash(&self) {
        self.0.lock().crash();
    }
}

impl Engine for SharedEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.0.lock().get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visitor<'_>) -> Result<(), Error> {
        self.0.lock().scan(from, to, visit)
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), Error> {
        self.0.lock().write(batch)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.0.lock().flush()
    }

    fn size_on_disk(&self) -> Result<u64, Error> {
        self.0.lock().size_on_disk()
    }
}
