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
//!
//! An engine that holds nothing yet, or a state that the present one does not continue (a snapshot was installed), is
//! *rebuilt*: first its mark is taken away, then it is brought record by record to what a view holds, then it gets that
//! view's mark. Batches become durable in order, so after a crash in between it either has its old mark with all of the
//! old records, or none and counts as empty; either way the snapshot file, durable before, has what it lacks.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch as channel};

use super::apply::{Mark, Shared};
use crate::mutants::{Mutant, planted};
use crate::proto::Record;
use crate::state::meta::Meta;
use crate::state::{ChangeKind, Revision, Store, View};
use crate::storage::engine::{self, Engine, WriteBatch};

use self::page::Pages;

/// A round is made at least this often while there is much to write …
const INTERVAL: Duration = Duration::from_secs(1);
const MUCH_REVISIONS: i64 = 256;
/// … and otherwise after so many of these, because a round writes at least a leaf of the engine.
const INTERVALS_MAX: u32 = 5;
/// Pause after a failed round, before the engine is opened anew.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Revisions and bytes read from the state at a time; an engine batch holds about this much.
const CHUNK_REVISIONS: usize = 4096;
const CHUNK_BYTES: usize = 4 << 20;
/// Keys visited by one slice of compaction; bounds the time the state is locked.
const COMPACT_KEYS: usize = 512;
/// Keys that a rebuild takes out of the engine at a time.
const STALE_KEYS: usize = 1 << 16;
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
    /// The same for a task.
    #[cfg(feature = "simulation")]
    wake_task: tokio::sync::Notify,
    /// Index that the engine holds durably.
    index: AtomicU64,
    /// Revision that the engine holds durably.
    revision: AtomicI64,
    /// Revision up to which compaction has reclaimed space.
    compacted: channel::Sender<i64>,
    size_on_disk: AtomicU64,
    thread: Mutex<Option<Running>>,
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
            page::read(key, value, &mut records).map_err(|error| engine::Error::Visitor(Box::new(error)))?;
            Ok(ControlFlow::Continue(()))
        })
        .map_err(io::Error::other)?;
    // Records with an entry of their own lie before the page of their neighbours.
    records.sort_by_key(|(revision, ..)| (revision.main, revision.sub));
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
            #[cfg(feature = "simulation")]
            wake_task: tokio::sync::Notify::new(),
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
        let Some(writer) = self.0.writer(shared) else { return };
        *self.0.thread.lock() = Some(start(self.0.clone(), writer));
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
        self.0.ring();
        flushed.await.unwrap_or(false)
    }

    /// Starts a round soon: there is something to compact.
    pub fn hurry(&self) {
        self.0.requests.lock().hurry = true;
        self.0.ring();
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
        self.0.ring();
        let thread = self.0.thread.lock().take();
        if let Some(thread) = thread
            && join(thread).await.is_err()
        {
            tracing::warn!("the checkpoint thread could not be joined");
        }
    }
}

#[cfg(not(feature = "simulation"))]
type Running = std::thread::JoinHandle<()>;
#[cfg(feature = "simulation")]
type Running = tokio::task::JoinHandle<()>;

#[cfg(not(feature = "simulation"))]
fn start(inner: Arc<Inner>, mut writer: Writer) -> Running {
    let body = move || inner.run(&mut writer);
    std::thread::Builder::new().name("checkpoint".into()).spawn(body).expect("a thread can be started")
}

#[cfg(feature = "simulation")]
fn start(inner: Arc<Inner>, mut writer: Writer) -> Running {
    tokio::spawn(async move { inner.run_as_task(&mut writer).await })
}

#[cfg(not(feature = "simulation"))]
async fn join(thread: Running) -> Result<(), tokio::task::JoinError> {
    // That it panicked, its message has said.
    tokio::task::spawn_blocking(move || drop(thread.join())).await
}

#[cfg(feature = "simulation")]
async fn join(task: Running) -> Result<(), tokio::task::JoinError> {
    task.await
}

impl Inner {
    /// What the thread works with; `None` when it was taken before.
    fn writer(&self, shared: Arc<Shared>) -> Option<Writer> {
        let Seat { engine, reopen } = self.seat.lock().take()?;
        let written = self.revision.load(Ordering::Acquire);
        Some(Writer {
            replacements: shared.store.replacements(),
            shared,
            engine,
            reopen,
            written,
            rebuild: written == 0,
            dropped: Vec::new(),
            batch: WriteBatch::default(),
            pages: Pages::default(),
            compacting_since: None,
        })
    }

    fn ring(&self) {
        self.wake.notify_one();
        #[cfg(feature = "simulation")]
        self.wake_task.notify_one();
    }

    #[cfg(not(feature = "simulation"))]
    fn run(&self, writer: &mut Writer) {
        loop {
            let (close, flushed) = self.wait(writer);
            let done = self.turn(writer, flushed);
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

    /// The same as a task.
    #[cfg(feature = "simulation")]
    async fn run_as_task(&self, writer: &mut Writer) {
        loop {
            let (close, flushed) = self.wait_as_task(writer).await;
            let done = self.turn(writer, flushed);
            if close {
                self.compacted.send_replace(i64::MAX);
                return;
            }
            if !done {
                drop(tokio::time::timeout(RETRY_INTERVAL, self.wake_task.notified()).await);
                writer.close(self.revision.load(Ordering::Acquire));
            }
        }
    }

    /// One round, and word of it to whoever waits; whether it succeeded.
    fn turn(&self, writer: &mut Writer, flushed: Vec<oneshot::Sender<bool>>) -> bool {
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
        done
    }

    /// Whether a round is to be made after so many intervals of waiting.
    fn is_due(&self, writer: &Writer, intervals: u32) -> bool {
        writer.behind(self) && (intervals >= INTERVALS_MAX || writer.much_behind(self))
    }

    #[cfg(not(feature = "simulation"))]
    fn wait(&self, writer: &Writer) -> (bool, Vec<oneshot::Sender<bool>>) {
        let mut requests = self.requests.lock();
        let mut intervals = 0;
        loop {
            if let Some(asked) = requests.take() {
                return asked;
            }
            let timed_out = self.wake.wait_for(&mut requests, INTERVAL).timed_out();
            intervals += u32::from(timed_out);
            if timed_out && self.is_due(writer, intervals) {
                requests.hurry = true;
            }
        }
    }

    #[cfg(feature = "simulation")]
    async fn wait_as_task(&self, writer: &mut Writer) -> (bool, Vec<oneshot::Sender<bool>>) {
        let mut intervals = 0;
        loop {
            if let Some(asked) = self.requests.lock().take() {
                return asked;
            }
            let timed_out = tokio::time::timeout(INTERVAL, self.wake_task.notified()).await.is_err();
            intervals += u32::from(timed_out);
            if timed_out && self.is_due(writer, intervals) {
                self.requests.lock().hurry = true;
            }
        }
    }
}

impl Requests {
    /// What is asked for, if anything: whether to end, and who wants to hear of the round.
    fn take(&mut self) -> Option<(bool, Vec<oneshot::Sender<bool>>)> {
        if !self.close && !self.hurry && self.flushed.is_empty() {
            return None;
        }
        self.hurry = false;
        Some((self.close, std::mem::take(&mut self.flushed)))
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
    /// The engine must be brought to the state as a whole, for what it holds is not a beginning of it.
    rebuild: bool,
    /// How often the state had been replaced when the engine last followed it.
    replacements: u64,
    /// Dropped from memory by compaction, still in the engine.
    dropped: Vec<(Revision, bool)>,
    batch: WriteBatch,
    pages: Pages,
    /// When the compaction under way began, which may take several rounds.
    compacting_since: Option<Duration>,
}

impl Writer {
    fn behind(&self, inner: &Inner) -> bool {
        self.shared.applied_index.load(Ordering::Acquire) != inner.index.load(Ordering::Acquire)
            || !self.dropped.is_empty()
            || *inner.compacted.borrow() < self.shared.store.compact_revision()
    }

    fn much_behind(&self, inner: &Inner) -> bool {
        let store = &self.shared.store;
        store.revision() - inner.revision.load(Ordering::Acquire) >= MUCH_REVISIONS
            || !self.dropped.is_empty()
            || *inner.compacted.borrow() < store.compact_revision()
    }

    fn round(&mut self, inner: &Inner) -> Result<(), engine::Error> {
        let (goal, size) = loop {
            let goal = self.goal();
            if self.reopen.is_none() {
                break (goal, 0);
            }
            let started = inner.clock.now();
            if let Some(size) = self.write(&goal)? {
                (inner.observe_flush)(inner.clock.now() - started);
                break (goal, size);
            }
            // Another state was installed meanwhile: what was written belongs to none.
        };
        if self.reopen.is_some() {
            inner.size_on_disk.store(size, Ordering::Relaxed);
        }
        inner.revision.store(goal.meta.revision, Ordering::Release);
        inner.index.store(goal.mark.log_id.map_or(0, |id| id.index), Ordering::Release);
        if *inner.compacted.borrow() < goal.meta.compact_revision {
            self.compact(inner, goal.meta.revision, goal.meta.compact_revision);
        }
        Ok(())
    }

    /// What the state is now, and whether the engine has to be rebuilt for it.
    fn goal(&mut self) -> Goal {
        let mark = self.shared.mark.lock();
        let store = &self.shared.store;
        let replacements = store.replacements();
        self.rebuild |= replacements != self.replacements;
        self.replacements = replacements;
        // An engine that is rebuilt is given what compaction left of the past as well.
        let base = (self.rebuild && self.reopen.is_some()).then(|| store.view());
        Goal { mark: mark.clone(), meta: store.meta(), base }
    }

    /// Brings the engine to a goal, durably; returns the bytes that its files take, or `None` when the state was
    /// replaced before all of the goal was read from it. Then the engine has no new mark.
    fn write(&mut self, goal: &Goal) -> Result<Option<u64>, engine::Error> {
        if self.engine.is_none()
            && let Some(reopen) = &mut self.reopen
        {
            self.engine = Some(reopen()?);
        }
        let Some(engine) = self.engine.as_deref_mut() else { return Err(engine::Error::Failed) };
        self.batch.clear();
        self.pages.clear();
        if let Some(view) = &goal.base {
            rebuild(engine, &mut self.batch, view)?;
            self.written = goal.meta.revision;
            // These are not in the view.
            self.dropped.clear();
        }
        while self.written < goal.meta.revision {
            let batches = self.shared.store.backlog(self.written, CHUNK_REVISIONS, CHUNK_BYTES);
            if self.shared.store.replacements() != self.replacements {
                return Ok(None);
            }
            if batches.is_empty() {
                break;
            }
            for batch in batches.iter().take_while(|batch| batch.revision <= goal.meta.revision) {
                for (change, sub) in batch.changes.iter().zip(0..) {
                    let revision = Revision { main: batch.revision, sub };
                    let record = (revision, change.kind == ChangeKind::Delete, &change.record);
                    self.pages.add(engine, &mut self.batch, record)?;
                }
                self.written = batch.revision;
            }
            if self.pages.bytes() + self.batch.bytes() >= CHUNK_BYTES {
                write_out(engine, &mut self.pages, &mut self.batch)?;
            }
        }
        for &dropped in &self.dropped {
            self.pages.remove(engine, &mut self.batch, dropped)?;
            if self.pages.bytes() + self.batch.bytes() >= CHUNK_BYTES {
                write_out(engine, &mut self.pages, &mut self.batch)?;
            }
        }
        self.pages.put_into(&mut self.batch);
        if !planted(Mutant::MarkApart) {
            self.batch.put(&engine::meta_key(MARK_KEY), &goal.mark.encode());
        }
        self.batch.put(&engine::meta_key(META_KEY), &goal.meta.encode());
        engine.write(&self.batch)?;
        engine.flush()?;
        if planted(Mutant::MarkApart) {
            self.batch.clear();
            self.batch.put(&engine::meta_key(MARK_KEY), &goal.mark.encode());
            engine.write(&self.batch)?;
        }
        engine.relieve()?;
        self.rebuild = false;
        self.dropped.clear();
        engine.size_on_disk().map(Some)
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
        self.rebuild |= durable == 0;
    }
}

/// A state of one instant that the engine is brought to.
struct Goal {
    mark: Mark,
    meta: Meta,
    /// All of its records, when the engine is rebuilt.
    base: Option<View>,
}

/// Brings an engine that may hold anything to the records of a view, and leaves it without a mark. What is there already
/// is not written again: after an install most of it is. The batch is left with what is still to be written.
fn rebuild(engine: &mut dyn Engine, batch: &mut WriteBatch, view: &View) -> Result<(), engine::Error> {
    batch.delete(&engine::meta_key(MARK_KEY));
    batch.delete(&engine::meta_key(META_KEY));
    engine.write(batch)?;
    batch.clear();
    let records = view.records();
    let entries = page::entries(&records);
    let mut is_there = vec![false; entries.len()];
    let mut expected = Vec::new();
    let mut from = engine::REVISIONS_START.to_vec();
    loop {
        let mut last = None;
        engine.scan(&from, engine::REVISIONS_END, &mut |key, value| {
            match entries.binary_search_by(|entry| entry.key().cmp(key)) {
                // What is there but different is overwritten below.
                Ok(place) => {
                    expected.clear();
                    entries[place].value(&records, &mut expected);
                    is_there[place] = expected == value;
                }
                Err(_) => batch.delete(key),
            }
            if batch.len() < STALE_KEYS {
                return Ok(ControlFlow::Continue(()));
            }
            last = Some(key.to_vec());
            Ok(ControlFlow::Break(()))
        })?;
        if !batch.is_empty() {
            engine.write(batch)?;
            batch.clear();
        }
        let Some(last) = last else { break };
        from = last;
    }
    for (entry, _) in entries.iter().zip(is_there).filter(|(_, is_there)| !is_there) {
        expected.clear();
        entry.value(&records, &mut expected);
        batch.put(entry.key(), &expected);
        if batch.bytes() >= CHUNK_BYTES {
            engine.write(batch)?;
            batch.clear();
            engine.relieve()?;
        }
    }
    Ok(())
}

/// Hands the engine what has gathered for it.
fn write_out(engine: &mut dyn Engine, pages: &mut Pages, batch: &mut WriteBatch) -> Result<(), engine::Error> {
    pages.put_into(batch);
    engine.write(batch)?;
    batch.clear();
    Ok(())
}

mod page;
#[cfg(test)]
mod tests;
