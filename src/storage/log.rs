//! The Raft log: entries, votes and what voids them, in one ordered stream of records over segment files.
//!
//! Knows no keys, revisions or Raft types: an entry is an index, a term, a kind byte and opaque bytes. The caller
//! (`raft::log_store`) hands requests to a bounded queue; one thread writes all that is queued with as few writes as
//! possible, syncs once, and then calls the completions in order. What was appended can be read at once.
//!
//! The bytes are drawn in `record`, the files in `log/segment`, the rule of recovery stands in `log/recover`.
//!
//! A disk is trusted to write a sector of 512 bytes wholly or not at all, as all of today's say: the page in which the
//! log ends is written again with the next records, and what was acknowledged in it must stay.
//!
//! After a failed write or sync nothing on disk can be trusted, so nothing is tried again: the log answers every
//! request, then and later, with the error, and the owner is to end the process. Opening it again repairs the tail.

mod index;
mod prepare;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use self::index::{Index, Place};
use self::segment::Segment;
use self::writer::Writer;
use super::fs::{Disk, PAGE_BYTES};
use super::record::{self, Kind, Record};
use crate::clock::Clock;

/// Default length of a segment file.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Default budget for the newest entries kept in memory.
pub const TAIL_BYTES_MAX: usize = 32 << 20;
/// Largest payload of an entry; far above any request limit, far below what offsets can address.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// Largest index, and largest term, that is believed: no log gets so far, and what says that one did was not written by
/// one. Whoever counts on from here does not come to the end of the numbers.
pub const INDEX_MAX: u64 = u64::MAX / 2;
/// Default number of purged files kept for reuse.
const SPARES_MAX: usize = 2;
/// Queue limits; an append waits while one is reached.
const QUEUE_BYTES_MAX: usize = 64 << 20;
const QUEUE_REQUESTS_MAX: usize = 1 << 16;
/// Bytes of entries read from disk with one call.
const READ_BYTES_MAX: usize = 1 << 20;
/// After this long without a request the log notes what is durable.
const IDLE_MARK: Duration = Duration::from_millis(50);

/// Called on the log thread when a request is durable, or with the error that ended the log. Must not block and must
/// not call the log.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called on the log thread after each sync, with the time it took.
pub type FsyncObserver = Arc<dyn Fn(Duration) + Send + Sync>;

/// How long the next sync takes, in a simulation.
#[cfg(feature = "simulation")]
pub type SyncLatency = Arc<dyn Fn() -> Duration + Send + Sync>;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the log, without gaps.
    pub index: u64,
    /// The leader's term when it was proposed.
    pub term: u64,
    /// What the payload is; opaque here.
    pub kind: u8,
    /// Opaque bytes, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

/// How a log is kept.
#[derive(Clone)]
pub struct LogOptions {
    /// Length of a segment file; rounded up to whole pages, at least four.
    pub segment_bytes: u64,
    /// Budget for the newest entries kept in memory, in bytes.
    pub tail_bytes_max: usize,
    /// Purged files kept for reuse.
    pub spares_max: usize,
    /// Whether a thread prepares segments ahead, written with zeroes; else they are made when needed.
    pub prepare_ahead: bool,
    /// Do not sync: a power cut loses acknowledged entries (etcd's `--unsafe-no-fsync`).
    pub unsafe_no_fsync: bool,
    /// Refuse a directory without a log instead of starting a new one.
    pub must_exist: bool,
    /// After this long without a request the log writes what it knows to be durable, so that damage to the last
    /// acknowledged batch can be told from a torn tail.
    pub idle_mark: Duration,
    /// Measures syncs.
    pub clock: Clock,
    /// Told how long each sync took.
    pub observe_fsync: Option<FsyncObserver>,
    /// Asked before each sync of requests; without one a sync takes no time.
    #[cfg(feature = "simulation")]
    pub sync_latency: Option<SyncLatency>,
}

impl LogOptions {
    /// For a log on a real disk.
    pub fn new(clock: Clock) -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            tail_bytes_max: TAIL_BYTES_MAX,
            spares_max: SPARES_MAX,
            prepare_ahead: true,
            unsafe_no_fsync: false,
            must_exist: false,
            idle_mark: IDLE_MARK,
            clock,
            observe_fsync: None,
            #[cfg(feature = "simulation")]
            sync_latency: None,
        }
    }

    /// For a log on a [`super::fs::SimDisk`]: one thread, small segments, purged memory given back.
    pub fn in_memory(clock: Clock) -> Self {
        Self {
            segment_bytes: 1 << 20,
            tail_bytes_max: 1 << 20,
            spares_max: 0,
            prepare_ahead: false,
            ..Self::new(clock)
        }
    }

    fn segment_bytes(&self) -> u64 {
        self.segment_bytes.max(4 * PAGE_BYTES as u64).next_multiple_of(PAGE_BYTES as u64)
    }
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Index of the oldest entry, or that the next one must have if there is none.
    pub first_index: u64,
    /// Index and term of the newest entry, if there is one.
    pub last: Option<(u64, u64)>,
    /// What the last purge was called with.
    pub purged: Option<Bytes>,
    /// The last vote saved.
    pub vote: Option<Bytes>,
    /// The last hint of what is committed that was written; may be older than the last one saved.
    pub committed: Option<Bytes>,
}

/// Sizes of a log, for metrics and for deciding when to purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSizes {
    /// Entries not purged.
    pub entries: u64,
    /// Bytes of their payloads.
    pub entry_bytes: u64,
    /// Memory that the newest entries take.
    pub tail_bytes: u64,
    /// Segment files in use; files prepared or kept for reuse are not counted.
    pub segments: u64,
    /// Bytes of these files.
    pub disk_bytes: u64,
    /// Bytes written since the log was opened.
    pub written_bytes: u64,
    /// Syncs since the log was opened.
    pub fsyncs: u64,
}

/// Why the log refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The disk's answer.
        source: io::Error,
    },
    /// Bytes that were acknowledged are not there, or not as they were written.
    #[error(
        "log file {file} is damaged at byte {offset}: {reason}. This member can no longer keep what it promised. \
         In a cluster: remove the member, empty its data directory and add it again. \
         A single member: restore its last snapshot into a new data directory with `kelson snapshot restore`",
        file = .file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The first bad byte known.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// Another version wrote the log.
    #[error(
        "log file {file} has format {found}, this version reads {}: start the version that wrote it",
        record::FORMAT,
        file = .file.display()
    )]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A log must be there, and none is.
    #[error(
        "there is no log in {dir}, but the data directory says that there was one: \
         check --wal-dir, or that the file system is mounted",
        dir = .dir.display()
    )]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// The entries asked for are purged.
    #[error("entries before {first} are purged")]
    Purged {
        /// Index of the oldest entry there is.
        first: u64,
    },
    /// The log failed earlier.
    #[error("the log has failed and takes no more: {0}")]
    Failed(String),
}

/// For `map_err`: names what was tried.
fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// A running log; clones are the same log. Dropping the last one writes what is queued, and ends the thread.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// `None` in a simulation, where the log is a task and ends with its runtime.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the callers and the log thread share.
struct Shared {
    /// Guards the queue and the memory of the log together, so that the order of requests is that of their effects.
    /// Held for moments: never while the disk works.
    state: Mutex<State>,
    /// The log thread waits here for requests.
    work: Condvar,
    /// And here when it is a task.
    #[cfg(feature = "simulation")]
    work_task: tokio::sync::Notify,
    /// Callers wait here for room in the queue.
    room: Condvar,
    written_bytes: AtomicU64,
    fsyncs: AtomicU64,
}

impl Shared {
    /// Wakes the log.
    fn ring(&self) {
        self.work.notify_one();
        #[cfg(feature = "simulation")]
        self.work_task.notify_one();
    }
}

struct State {
    queue: Vec<Queued>,
    queued_bytes: usize,
    /// The newest hint not yet written.
    committed_unwritten: Option<Bytes>,
    /// The log thread waits without a time limit, so that a hint must wake it.
    parked: bool,
    closing: bool,
    /// Why the log takes no more.
    failed: Option<String>,
    index: Index,
    segments: BTreeMap<u32, Arc<Segment>>,
    purged: Option<Bytes>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
}

struct Queued {
    request: Request,
    done: Done,
}

enum Request {
    /// Entries, and the number of truncations before them.
    Append(Vec<LogEntry>, u32),
    Vote(Bytes),
    /// Entries from this index on are void.
    Truncate(u64),
    /// Entries up to this index are not needed.
    Purge(u64, Bytes),
}

impl Request {
    fn bytes(&self) -> usize {
        let bytes = |entries: &[LogEntry]| entries.iter().map(|entry| record::record_bytes(entry.payload.len())).sum();
        if let Self::Append(entries, _) = self { bytes(entries) } else { 0 }
    }
}

impl Log {
    /// Opens the log in an existing directory, or starts one there; everything recovered is durable on return.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: LogOptions) -> Result<(Self, Recovered), Error> {
        let found = match recover::recover(&*disk, dir, &options)? {
            Some(found) => found,
            None if options.must_exist => return Err(Error::Missing { dir: dir.to_owned() }),
            None => {
                writer::create(&*disk, dir, &options).map_err(at("create a log in", dir))?;
                recover::recover(&*disk, dir, &options)?.ok_or_else(|| Error::Missing { dir: dir.to_owned() })?
            }
        };
        let recovered = Recovered {
            first_index: found.index.first(),
            last: found.index.last(),
            purged: found.tail.stream.purged.as_ref().map(|(_, id)| id.clone()),
            vote: found.tail.stream.vote.clone(),
            committed: found.tail.stream.committed.clone(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: Vec::new(),
                queued_bytes: 0,
                committed_unwritten: None,
                parked: false,
                closing: false,
                failed: None,
                index: found.index,
                segments: found.segments,
                purged: recovered.purged.clone(),
                vote: recovered.vote.clone(),
                committed: recovered.committed.clone(),
            }),
            work: Condvar::new(),
            #[cfg(feature = "simulation")]
            work_task: tokio::sync::Notify::new(),
            room: Condvar::new(),
            written_bytes: AtomicU64::new(0),
            fsyncs: AtomicU64::new(0),
        });
        let writer = Writer::new(disk, found.tail, shared.clone(), options).map_err(at("start threads for", dir))?;
        let thread = Mutex::new(start(writer).map_err(at("start a thread for", dir))?);
        Ok((Self(Arc::new(Handle { shared, thread })), recovered))
    }

    /// Appends entries, which must follow the last one without a gap, and can be read when this returns. Waits while
    /// the queue is full.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        for entry in &entries {
            assert!(entry.payload.len() <= PAYLOAD_BYTES_MAX, "entry {} is too large", entry.index);
        }
        self.submit(done, |state| {
            for entry in &entries {
                state.index.append(entry.clone());
            }
            Request::Append(entries, state.index.cut())
        });
    }

    /// Saves the vote; ordered with the entries.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.submit(done, |state| {
            state.vote = Some(vote.clone());
            Request::Vote(vote)
        });
    }

    /// Notes how far the log is committed. Not durable by itself: it is written with the next request, or when the
    /// log has been idle for a while.
    pub fn save_committed(&self, committed: Bytes) {
        let mut state = self.0.shared.state.lock();
        state.committed = Some(committed.clone());
        state.committed_unwritten = Some(committed);
        if state.parked {
            self.0.shared.ring();
        }
    }

    /// Removes the entries behind `index`, or all if it is `None`.
    pub fn truncate_after(&self, index: Option<u64>, done: Done) {
        let from = index.map_or(0, |index| index + 1);
        self.submit(done, |state| {
            let purged = state.index.first();
            assert!(from >= purged || index.is_none(), "truncate after {index:?}, but {purged} is the first");
            state.index.truncate_from(from.max(purged));
            Request::Truncate(from.max(purged))
        });
    }

    /// Forgets the entries up to `index`; `purged` is the owner's id of that entry, given back at the next opening.
    /// If `index` is past the last entry, the log is empty and goes on behind it. Whole files behind `index` are
    /// freed once the purge is durable.
    pub fn purge(&self, index: u64, purged: Bytes, done: Done) {
        self.submit(done, |state| {
            state.index.purge_before(index + 1);
            state.purged = Some(purged.clone());
            Request::Purge(index, purged)
        });
    }

    /// Entries of `start .. end` that there are, at most `bytes_max` bytes of payload but at least one.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<LogEntry>, Error> {
        let (places, in_memory, segments) = {
            let state = self.0.shared.state.lock();
            state.check_readable(start)?;
            let (places, in_memory) = state.index.select(start, end, bytes_max);
            let numbers = places.iter().map(|place| place.position.segment());
            let segments: BTreeMap<_, _> =
                numbers.filter_map(|number| Some((number, state.segments.get(&number)?.clone()))).collect();
            (places, in_memory, segments)
        };
        if places.is_empty() {
            return Ok(in_memory);
        }
        let mut entries = Vec::with_capacity(places.len() + in_memory.len());
        let read = read_places(&places, &segments, &mut entries);
        // A purge may have given the file away meanwhile; that is no damage.
        self.0.shared.state.lock().check_readable(start)?;
        read?;
        entries.extend(in_memory);
        Ok(entries)
    }

    /// Why the log takes no more, if it has failed; the owner must stop then. A log that was idle fails unasked, and no
    /// completion reports that.
    pub fn failure(&self) -> Option<String> {
        self.0.shared.state.lock().failed.clone()
    }

    /// What [`Log::open`] would find if all requests were durable.
    pub fn state(&self) -> Recovered {
        let state = self.0.shared.state.lock();
        Recovered {
            first_index: state.index.first(),
            last: state.index.last(),
            purged: state.purged.clone(),
            vote: state.vote.clone(),
            committed: state.committed.clone(),
        }
    }

    /// Bytes of payload of the entries behind `index`.
    pub fn bytes_behind(&self, index: u64) -> u64 {
        self.0.shared.state.lock().index.bytes_behind(index)
    }

    /// The least index behind which the entries have no more than `bytes` of payload.
    pub fn least_with_behind(&self, bytes: u64) -> u64 {
        self.0.shared.state.lock().index.least_with_behind(bytes)
    }

    /// How large the log is.
    pub fn sizes(&self) -> LogSizes {
        let shared = &self.0.shared;
        let state = shared.state.lock();
        let (entry_bytes, tail_bytes) = state.index.bytes();
        LogSizes {
            entries: state.index.next() - state.index.first(),
            entry_bytes,
            tail_bytes: tail_bytes as u64,
            segments: state.segments.len() as u64,
            disk_bytes: state.segments.values().map(|segment| segment.bytes).sum(),
            written_bytes: shared.written_bytes.load(Ordering::Relaxed),
            fsyncs: shared.fsyncs.load(Ordering::Relaxed),
        }
    }

    /// Changes the memory and queues the request, in one step; or answers at once if the log has failed.
    fn submit(&self, done: Done, change: impl FnOnce(&mut State) -> Request) {
        let shared = &self.0.shared;
        let mut state = shared.state.lock();
        while state.failed.is_none() && state.is_full() {
            shared.room.wait(&mut state);
        }
        if let Some(failed) = state.failed.clone() {
            drop(state);
            return done(Err(io::Error::other(Error::Failed(failed))));
        }
        let request = change(&mut state);
        state.queued_bytes += request.bytes();
        state.queue.push(Queued { request, done });
        if state.queue.len() == 1 {
            shared.ring();
        }
    }
}

/// Sets the log to work.
#[cfg(not(feature = "simulation"))]
fn start(writer: Writer) -> io::Result<Option<JoinHandle<()>>> {
    std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run()).map(Some)
}

#[cfg(feature = "simulation")]
fn start(writer: Writer) -> io::Result<Option<JoinHandle<()>>> {
    tokio::spawn(writer.run_as_task());
    Ok(None)
}

impl State {
    fn is_full(&self) -> bool {
        self.queued_bytes >= QUEUE_BYTES_MAX || self.queue.len() >= QUEUE_REQUESTS_MAX
    }

    fn check_readable(&self, start: u64) -> Result<(), Error> {
        if let Some(failed) = &self.failed {
            return Err(Error::Failed(failed.clone()));
        }
        let first = self.index.first();
        if start < first { Err(Error::Purged { first }) } else { Ok(()) }
    }
}

/// Reads entries from disk, several with one call where they stand together.
fn read_places(
    places: &[Place],
    segments: &BTreeMap<u32, Arc<Segment>>,
    entries: &mut Vec<LogEntry>,
) -> Result<(), Error> {
    let end_of = |place: &Place| place.position.offset() as usize + record::record_bytes(place.payload_bytes as usize);
    let mut rest = places;
    while let Some(first) = rest.first() {
        let start = first.position.offset() as usize;
        let together = rest.iter().take_while(|place| {
            place.position.segment() == first.position.segment()
                && (place.index == first.index || end_of(place) - start <= READ_BYTES_MAX)
        });
        let (run, later) = rest.split_at(together.count());
        rest = later;
        let segment = &segments[&first.position.segment()];
        let mut bytes = vec![0; end_of(&run[run.len() - 1]) - start];
        let read = segment.file.read_at(start as u64, &mut bytes).map_err(at("read", &segment.path))?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        for place in run {
            entries.push(decode_place(place, segment, &bytes, start)?);
        }
    }
    Ok(())
}

fn decode_place(place: &Place, segment: &Segment, bytes: &Bytes, start: usize) -> Result<LogEntry, Error> {
    let offset = place.position.offset() as usize - start;
    let decoded = bytes.get(offset..).and_then(|bytes| Record::decode(bytes, segment.epoch));
    match decoded {
        Some((entry, _)) if entry.kind == Kind::Entry && (entry.index, entry.term) == (place.index, place.term) => {
            let payload = bytes.slice_ref(entry.payload);
            Ok(LogEntry { index: entry.index, term: entry.term, kind: entry.tag, payload })
        }
        _ => {
            let reason = format!("entry {} is not there as it was written", place.index);
            Err(recover::damaged(&segment.path, u64::from(place.position.offset()), reason))
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.ring();
        let Some(thread) = self.thread.get_mut().take() else { return };
        // A completion may have held the last handle; a thread cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the log thread panicked");
        }
    }
}
