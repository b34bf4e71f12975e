//! The checkpoint behind the log: a background thread that writes every revision to the engine once, in order, and
//! drops what compaction has passed.
//!
//! Never on a request's path. What the engine holds is the state at a *mark* (last applied entry, revision, leases,
//! alarms, members), written in the same atomic batch as the last revision of that mark; revisions behind the mark
//! may be there already and are ignored by [`load`], for replaying the log writes the same ones again.
//!
//! Order of a round: capture mark and meta of one instant, write the backlog of revisions, the deletions of what
//! compaction dropped in *earlier* rounds, and the mark; flush; only then drop what lies behind the compaction mark that
//! is now durable. So the engine never misses a record that its own durable mark does not know to be compacted.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch as channel};

use super::apply::{Mark, Shared};
use crate::proto::Record;
use crate::state::meta::Meta;
use crate::state::{ChangeKind, Revision, Store, View};
use crate::storage::engine::{self, Engine, RevisionKey, WriteBatch};

/// A round is made at least this often while there is something to write.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed round, before the engine is opened anew.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Revisions and bytes read from the state at a time; an engine batch holds about this much.
const CHUNK_REVISIONS: usize = 4096;
const CHUNK_BYTES: usize = 4 << 20;
/// Keys visited by one slice of compaction; bounds the time the state is locked.
const COMPACT_KEYS: usize = 512;
/// Slices of one round: what they drop is held in memory until it is deleted from the engine.
const COMPACT_SLICES_MAX: usize = 2048;

const MARK_KEY: &str = "mark";
const META_KEY: &str = "state";

/// Opens the engine again after it failed.
pub type Reopen = Box<dyn FnMut() -> Result<Box<dyn Engine>, engine::Error> + Send>;

/// The thread and what others ask of it. Clones share it.
#[derive(Clone)]
pub struct Checkpoint(Arc<Inner>);

struct Inner {
    // Guards requests to the thread; held for a moment.
    requests: Mutex<Requests>,
    wake: Condvar,
    /// Index that the engine holds durably.
    index: AtomicU64,
    /// Revision that the engine holds durably.
    revision: AtomicI64,
    /// Revision up to which compaction has reclaimed space.
    compacted: channel::Sender<i64>,
    size_on_disk: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Taken by the thread when it starts.
    seat: Mutex<Option<Seat>>,
    observe_flush: Box<dyn Fn(Duration) + Send + Sync>,
    clock: crate::clock::Clock,
}

/// The engine and the way to it; without a way this is a member in memory.
struct Seat {
    engine: Option<Box<dyn Engine>>,
    reopen: Option<Reopen>,
}

#[derive(Default)]
struct Requests {
    hurry: bool,
    close: bool,
    flushed: Vec<oneshot::Sender<bool>>,
}

/// What [`load`] found in an engine.
pub struct Loaded {
    /// The state at the mark.
    pub store: Store,
    /// How far the log was applied to it.
    pub mark: Mark,
}

/// Rebuilds the state from an engine; `None` when it is empty.
///
/// # Errors
/// When what it holds is not a state; the caller sets the engine aside and rebuilds from snapshot and log.
pub fn load(engine: &dyn Engine) -> io::Result<Option<Loaded>> {
    let Some(mark) = engine.get(&engine::meta_key(MARK_KEY)).map_err(io::Error::other)? else { return Ok(None) };
    let mark = Mark::decode(&mark)?;
    let meta = engine
        .get(&engine::meta_key(META_KEY))
        .map_err(io::Error::other)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "checkpoint has a mark but no state"))?;
    let meta = Meta::decode(&meta).map_err(io::Error::other)?;
    let mut records: Vec<(Revision, bool, Record)> = Vec::new();
    engine
        .scan(engine::REVISIONS_START, engine::REVISIONS_END, &mut |key, value| {
            let key = RevisionKey::decode(key)
                .ok_or_else(|| engine::Error::Visitor("a key in the checkpoint is no revision".into()))?;
            let record = Record::from_bytes(value).map_err(|error| engine::Error::Visitor(Box::new(error)))?;
            records.push((Revision { main: key.main, sub: key.sub }, key.tombstone, record));
            Ok(ControlFlow::Continue(()))
        })
        .map_err(io::Error::other)?;
    let store = Store::restore(meta, records.into_iter().map(Ok::<_, io::Error>)).map_err(io::Error::other)?;
    Ok(Some(Loaded { store, mark }))
}

impl Checkpoint {
    /// A checkpoint on `engine`; `None` lets the thread open it first, so that a new member need not wait for that.
    /// `mark` is what the engine holds durably; `None` when that is nothing, whatever the state holds already. The
    /// thread starts with [`Checkpoint::attach`].
    pub fn new(
        engine: Option<Box<dyn Engine>>,
        reopen: Reopen,
        mark: Option<&Mark>,
        store: &Store,
        clock: crate::clock::Clock,
        observe_flush: Box<dyn Fn(Duration) + Send + Sync>,
    ) -> Self {
        let index = mark.and_then(|mark| mark.log_id).map_or(0, |id| id.index);
        let revision = if mark.is_some() { store.revision() } else { 0 };
        Self::with(Seat { engine, reopen: Some(reopen) }, index, revision, clock, observe_flush)
    }

    /// No engine: the thread does compaction alone.
    pub fn memory_only(store: &Store, clock: crate::clock::Clock) -> Self {
        Self::with(Seat { engine: None, reopen: None }, 0, store.revision(), clock, Box::new(|_| ()))
    }

    fn with(
        seat: Seat,
        index: u64,
        revision: i64,
        clock: crate::clock::Clock,
        observe_flush: Box<dyn Fn(Duration) + Send + Sync>,
    ) -> Self {
        Self(Arc::new(Inner {
            requests: Mutex::default(),
            wake: Condvar::new(),
            index: AtomicU64::new(index),
            revision: AtomicI64::new(revision),
            compacted: channel::channel(0).0,
            size_on_disk: AtomicU64::new(0),
            thread: Mutex::new(None),
            seat: Mutex::new(Some(seat)),
            observe_flush,
            clock,
        }))
    }

    /// Starts the thread over the state that apply writes.
    pub fn attach(&self, shared: Arc<Shared>) {
        let Some(Seat { engine, reopen }) = self.0.seat.lock().take() else { return };
        let inner = self.0.clone();
        let body = move || {
            let mut writer = Writer {
                shared,
                engine,
                reopen,
                written: inner.revision.load(Ordering::Acquire),
                dropped: Vec::new(),
                batch: WriteBatch::default(),
                compacting_since: None,
            };
            inner.run(&mut writer);
        };
        let thread =
            std::thread::Builder::new().name("checkpoint".into()).spawn(body).expect("a thread can be started");
        *self.0.thread.lock() = Some(thread);
    }

    /// Index of the last entry that the engine holds durably.
    pub fn index(&self) -> u64 {
        self.0.index.load(Ordering::Acquire)
    }

    /// Bytes of the engine's files at the last round.
    pub fn size_on_disk(&self) -> u64 {
        self.0.size_on_disk.load(Ordering::Relaxed)
    }

    /// Waits for a round that began after this call; `false` when it failed or the thread has ended.
    pub async fn flush(&self) -> bool {
        let (done, flushed) = oneshot::channel();
        {
            let mut requests = self.0.requests.lock();
            if requests.close {
                return false;
            }
            requests.flushed.push(done);
        }
        self.0.wake.notify_one();
        flushed.await.unwrap_or(false)
    }

    /// Starts a round soon: there is something to compact.
    pub fn hurry(&self) {
        self.0.requests.lock().hurry = true;
        self.0.wake.notify_one();
    }

    /// Returns `true` once the space behind compaction `revision` is reclaimed, `false` when the thread ended before.
    pub async fn compaction_done(&self, revision: i64) -> bool {
        let mut compacted = self.0.compacted.subscribe();
        self.hurry();
        // The thread says at its end that it reached the largest revision there is.
        compacted.wait_for(|&reached| reached >= revision).await.is_ok_and(|reached| *reached != i64::MAX)
    }

    /// A last round, then the end of the thread.
    pub async fn close(&self) {
        self.0.requests.lock().close = true;
        self.0.wake.notify_one();
        let thread = self.0.thread.lock().take();
        if let Some(thread) = thread
            && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
        {
            tracing::warn!("the checkpoint thread could not be joined");
        }
    }
}

impl Inner {
    fn run(&self, writer: &mut Writer) {
        loop {
            let (close, flushed) = self.wait(writer);
            let done = match writer.round(self) {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(%error, "checkpoint round failed; the log keeps everything until one succeeds");
                    false
                }
            };
            for waiting in flushed {
                if waiting.send(done).is_err() {
                    tracing::debug!("whoever asked for a checkpoint has gone");
                }
            }
            if close {
                self.compacted.send_replace(i64::MAX);
                return;
            }
            if !done {
                let mut requests = self.requests.lock();
                self.wake.wait_for(&mut requests, RETRY_INTERVAL);
                drop(requests);
                writer.close(self.revision.load(Ordering::Acquire));
            }
        }
    }

    fn wait(&self, writer: &Writer) -> (bool, Vec<oneshot::Sender<bool>>) {
        let mut requests = self.requests.lock();
        loop {
            if requests.close || requests.hurry || !requests.flushed.is_empty() {
                break;
            }
            let timed_out = self.wake.wait_for(&mut requests, INTERVAL).timed_out();
            if timed_out && writer.behind(self) {
                break;
            }
        }
        requests.hurry = false;
        (requests.close, std::mem::take(&mut requests.flushed))
    }
}

/// The thread's own: the engine and what it still has to do.
struct Writer {
    shared: Arc<Shared>,
    /// `None` in memory, before the first round of a new member, and after a failure.
    engine: Option<Box<dyn Engine>>,
    /// `None` in memory: there is no engine by choice, and nothing is lost by that.
    reopen: Option<Reopen>,
    /// Last revision written to the engine, durable or not.
    written: i64,
    /// Dropped from memory by compaction, still in the engine.
    dropped: Vec<(Revision, bool)>,
    batch: WriteBatch,
    /// When the compaction under way began, which may take several rounds.
    compacting_since: Option<Duration>,
}

impl Writer {
    fn behind(&self, inner: &Inner) -> bool {
        self.shared.applied_index.load(Ordering::Acquire) != inner.index.load(Ordering::Acquire)
            || !self.dropped.is_empty()
            || *inner.compacted.borrow() < self.shared.store.compact_revision()
    }

    fn round(&mut self, inner: &Inner) -> Result<(), engine::Error> {
        let (mark, meta, base) = {
            let mark = self.shared.mark.lock();
            // An engine that holds nothing yet is given what compaction left of the past as well.
            let base = (self.written == 0 && self.reopen.is_some()).then(|| self.shared.store.view());
            (mark.clone(), self.shared.store.meta(), base)
        };
        let revision = meta.revision;
        let compact_revision = meta.compact_revision;
        if self.reopen.is_some() {
            let started = inner.clock.now();
            inner.size_on_disk.store(self.write(&mark, &meta, base)?, Ordering::Relaxed);
            (inner.observe_flush)(inner.clock.now() - started);
        }
        inner.revision.store(revision, Ordering::Release);
        inner.index.store(mark.log_id.map_or(0, |id| id.index), Ordering::Release);
        if *inner.compacted.borrow() < compact_revision {
            self.compact(inner, revision, compact_revision);
        }
        Ok(())
    }

    /// Brings the engine to a mark, durably; returns the bytes that its files take.
    fn write(&mut self, mark: &Mark, meta: &Meta, base: Option<View>) -> Result<u64, engine::Error> {
        if self.engine.is_none()
            && let Some(reopen) = &mut self.reopen
        {
            self.engine = Some(reopen()?);
        }
        let Some(engine) = self.engine.as_mut() else { return Err(engine::Error::Failed) };
        self.batch.clear();
        if let Some(view) = base {
            for (revision, tombstone, record) in view.records() {
                let key = RevisionKey { main: revision.main, sub: revision.sub, tombstone };
                self.batch.put(&key.encode(), record.as_bytes());
                if self.batch.bytes() >= CHUNK_BYTES {
                    engine.write(&self.batch)?;
                    self.batch.clear();
                }
            }
            self.written = meta.revision;
        }
        while self.written < meta.revision {
            let batches = self.shared.store.backlog(self.written, CHUNK_REVISIONS, CHUNK_BYTES);
            if batches.is_empty() {
                break;
            }
            for batch in batches.iter().take_while(|batch| batch.revision <= meta.revision) {
                for (change, sub) in batch.changes.iter().zip(0..) {
                    let tombstone = change.kind == ChangeKind::Delete;
                    let key = RevisionKey { main: batch.revision, sub, tombstone };
                    self.batch.put(&key.encode(), change.record.as_bytes());
                }
                self.written = batch.revision;
            }
            if self.batch.bytes() >= CHUNK_BYTES {
                engine.write(&self.batch)?;
                self.batch.clear();
            }
        }
        for &(revision, tombstone) in &self.dropped {
            self.batch.delete(&RevisionKey { main: revision.main, sub: revision.sub, tombstone }.encode());
        }
        self.batch.put(&engine::meta_key(MARK_KEY), &mark.encode());
        self.batch.put(&engine::meta_key(META_KEY), &meta.encode());
        engine.write(&self.batch)?;
        engine.flush()?;
        engine.relieve()?;
        self.dropped.clear();
        engine.size_on_disk()
    }

    fn compact(&mut self, inner: &Inner, written: i64, compact_revision: i64) {
        let meter = &self.shared.meter;
        let began = *self.compacting_since.get_or_insert_with(|| meter.clock.now());
        for _ in 0..COMPACT_SLICES_MAX {
            let started = meter.clock.now();
            let slice = self.shared.store.compact_slice(written, COMPACT_KEYS);
            meter.compaction_slice(started, slice.dropped.len());
            if self.reopen.is_some() {
                self.dropped.extend(slice.dropped);
            }
            if slice.done {
                meter.compaction(began);
                self.compacting_since = None;
                inner.compacted.send_replace(compact_revision);
                return;
            }
        }
    }

    /// Closes the engine after a failure; the next round opens it again and goes on behind what is known to be durable
    /// in it. Memory still has everything newer, for compaction drops nothing that is not.
    fn close(&mut self, durable: i64) {
        drop(self.engine.take());
        self.written = durable;
    }
}
