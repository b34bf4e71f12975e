//! The log thread: takes what is queued, writes it with as few calls as possible, syncs once, reports in order.

#[cfg(feature = "simulation")]
mod task;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::prepare::Preparer;
use super::recover::Tail;
use super::segment::{self, FIRST_OFFSET, Maker, Segment};
use super::{Error, LogOptions, Queued, Request, Shared};
use crate::mutants::{Mutant, planted};
use crate::storage::fs::{Disk, File, PAGE_BYTES, Pages};
use crate::storage::record::{Kind, Position, Record, SegmentHeader, StreamState, record_bytes};

/// The buffer is written out when it has this many bytes, so that it stays small whatever is queued.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// A buffer grown past this by a large entry is given back.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// The next segment is asked for when this part of the current one is used.
const PREPARE_AT_ONE_IN: u64 = 4;

/// Starts a log in an empty directory; durable on return.
pub(super) fn create(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> io::Result<()> {
    // Only reserved, so that a first start does not wait for zeroes to be written.
    let header = SegmentHeader { segment: 1, epoch: 1, bytes: options.segment_bytes() };
    let payload = StreamState::default().encode();
    Maker { disk, dir, header }.reserve(Some(&Record::plain(Kind::Start, &payload))).map(|_| ())
}

fn past_cache(disk: &dyn Disk, segment: &Segment, options: &LogOptions) -> Option<Arc<dyn File>> {
    // Without syncs nobody waits for the disk.
    if options.unsafe_no_fsync { None } else { segment::open_pages(disk, &segment.path) }
}

/// What the log thread does next.
enum Work {
    Requests,
    /// Nothing came for a while.
    Idle,
    Close,
}

/// An entry encoded but not yet known to the readers' index as written.
struct Placed {
    index: u64,
    cut: u32,
    position: Position,
}

/// Owned by the log thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: LogOptions,
    disk: Arc<dyn Disk>,
    preparer: Preparer,
    segment: Arc<Segment>,
    /// The segment's file past the cache; `None` where the disk cannot, or when nobody wants to wait for it.
    past_cache: Option<Arc<dyn File>>,
    /// Encoded, not yet written; its first byte belongs at `written`.
    buffer: Vec<u8>,
    /// What was written to the page that `written` lies in, up to there; or nothing, when that must be read first.
    lead: Vec<u8>,
    pages: Pages,
    /// End of what was written to the segment.
    written: u32,
    /// Everything before was synced. `stated ≤ durable ≤ end`.
    durable: Position,
    /// The highest `durable` that a record states.
    stated: Position,
    /// End of the last record that is not a mark.
    content_end: Position,
    /// As of the last record encoded; ahead of it, the callers' state may hold more.
    stream: StreamState,
    /// Of each segment in use, the index that its first entry has or would have.
    starts: VecDeque<(u32, u64)>,
    placed: Vec<Placed>,
    /// The requests being written; its memory is reused.
    batch: Vec<Queued>,
    /// The hint taken with them. Written behind them, so that the entries it is about are on disk if it is.
    committed: Option<Bytes>,
}

impl Writer {
    pub fn new(disk: Arc<dyn Disk>, tail: Tail, shared: Arc<Shared>, options: LogOptions) -> io::Result<Self> {
        let preparer = Preparer::start(disk.clone(), tail.stock, options.prepare_ahead)?;
        let past_cache = past_cache(&*disk, &tail.segment, &options);
        Ok(Self {
            shared,
            options,
            disk,
            preparer,
            segment: tail.segment,
            past_cache,
            buffer: Vec::new(),
            lead: Vec::new(),
            pages: Pages::default(),
            written: tail.end.offset(),
            durable: tail.end,
            stated: tail.stated,
            content_end: tail.content_end,
            stream: tail.stream,
            starts: tail.starts,
            placed: Vec::new(),
            batch: Vec::new(),
            committed: None,
        })
    }

    /// Runs until the last handle is dropped or the disk fails.
    #[cfg(not(feature = "simulation"))]
    pub fn run(mut self) {
        self.retire();
        loop {
            let work = self.wait();
            let result = match work {
                Work::Requests => self.write_requests(),
                Work::Idle => self.mark().and_then(|()| self.write_out()),
                Work::Close => self.close(),
            };
            match result {
                Ok(()) => self.complete(),
                Err(error) => return self.fail(&error),
            }
            if matches!(work, Work::Close) {
                return;
            }
        }
    }

    /// Sleeps until there is work, without spinning.
    #[cfg(not(feature = "simulation"))]
    fn wait(&mut self) -> Work {
        let mut state = self.shared.state.lock();
        loop {
            if !state.queue.is_empty() {
                std::mem::swap(&mut state.queue, &mut self.batch);
                self.committed = state.committed_unwritten.take();
                state.queued_bytes = 0;
                self.shared.room.notify_all();
                return Work::Requests;
            }
            if state.closing {
                self.committed = state.committed_unwritten.take();
                return Work::Close;
            }
            if self.wants_mark() || state.committed_unwritten.is_some() {
                let waited = self.shared.work.wait_for(&mut state, self.options.idle_mark);
                if waited.timed_out() && state.queue.is_empty() && !state.closing {
                    self.committed = state.committed_unwritten.take();
                    return Work::Idle;
                }
            } else {
                state.parked = true;
                self.shared.work.wait(&mut state);
                state.parked = false;
            }
        }
    }

    /// Whether a mark would tell recovery more than the records do.
    fn wants_mark(&self) -> bool {
        self.stated < self.durable && self.stated < self.content_end
    }

    #[cfg(not(feature = "simulation"))]
    fn write_requests(&mut self) -> io::Result<()> {
        let purges = self.put_requests()?;
        self.settle(purges)
    }

    /// Writes the batch; says whether it purges.
    fn put_requests(&mut self) -> io::Result<bool> {
        let batch = std::mem::take(&mut self.batch);
        let purged = self.stream.purged.as_ref().map(|(index, _)| *index);
        let encoded = batch.iter().try_for_each(|queued| self.put_request(&queued.request));
        self.batch = batch;
        encoded?;
        self.put_committed()?;
        self.write_out()?;
        Ok(self.stream.purged.as_ref().map(|(index, _)| *index) != purged)
    }

    /// Makes what was written durable and shows it.
    fn settle(&mut self, purges: bool) -> io::Result<()> {
        // Files are given away on the strength of the purge record, so that one is synced whatever the options say.
        if purges || !self.options.unsafe_no_fsync {
            self.sync()?;
        }
        self.publish();
        if purges {
            self.retire();
        }
        if u64::from(self.written) > self.segment.bytes / PREPARE_AT_ONE_IN {
            self.preparer.request(self.segment.number + 1);
        }
        Ok(())
    }

    fn put_request(&mut self, request: &Request) -> io::Result<()> {
        match request {
            Request::Append(entries, cut) => {
                for entry in entries {
                    let payload = &entry.payload;
                    let record =
                        Record { kind: Kind::Entry, tag: entry.kind, index: entry.index, term: entry.term, payload };
                    let position = self.put(&record)?;
                    self.stream.next_index = entry.index + 1;
                    self.placed.push(Placed { index: entry.index, cut: *cut, position });
                }
            }
            Request::Vote(vote) => {
                self.put(&Record::plain(Kind::Vote, vote))?;
                self.stream.vote = Some(vote.clone());
            }
            Request::Truncate(from) => {
                if *from < self.stream.next_index {
                    if !planted(Mutant::TruncationNotKept) {
                        self.put(&Record { index: *from, ..Record::plain(Kind::Truncate, &[]) })?;
                    }
                    self.stream.next_index = *from;
                }
            }
            Request::Purge(index, id) => {
                self.put(&Record { index: *index, ..Record::plain(Kind::Purge, id) })?;
                self.stream.next_index = self.stream.next_index.max(index + 1);
                self.stream.purged = Some((*index, id.clone()));
            }
        }
        Ok(())
    }

    fn put_committed(&mut self) -> io::Result<()> {
        let Some(committed) = self.committed.take() else { return Ok(()) };
        self.put(&Record::plain(Kind::Committed, &committed))?;
        self.stream.committed = Some(committed);
        Ok(())
    }

    /// Writes down what is durable, and the newest hint.
    fn mark(&mut self) -> io::Result<()> {
        self.put_committed()?;
        if self.wants_mark() {
            self.put(&Record::plain(Kind::Mark, &[]))?;
        }
        Ok(())
    }

    /// The last words: everything durable, and a record that says so.
    fn close(&mut self) -> io::Result<()> {
        if self.durable < self.content_end {
            self.sync()?;
        }
        self.mark()?;
        if self.durable < self.end() {
            self.write_out()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Where the next record goes.
    fn end(&self) -> Position {
        Position::new(self.segment.number, self.written + self.buffer.len() as u32)
    }

    /// Encodes a record, in the next segment if it does not fit in this one.
    fn put(&mut self, record: &Record<'_>) -> io::Result<Position> {
        if u64::from(self.end().offset()) + record.bytes() as u64 > self.segment.bytes {
            self.roll(record.bytes())?;
        } else if self.buffer.len() >= WRITE_BYTES_MAX {
            self.write_out()?;
        }
        let position = self.end();
        record.encode(self.segment.epoch, self.durable, &mut self.buffer);
        self.stated = self.durable;
        if record.kind != Kind::Mark {
            self.content_end = self.end();
        }
        Ok(position)
    }

    /// Goes on in the next segment, which will have room for a record of `record_bytes_min` bytes.
    ///
    /// The old segment is always synced first: so a bad record in any but the last one is damage, never a torn tail.
    fn roll(&mut self, record_bytes_min: usize) -> io::Result<()> {
        self.write_out()?;
        self.sync()?;
        self.stream.previous_end = self.end();
        let payload = self.stream.encode();
        let bytes_min = FIRST_OFFSET as usize + record_bytes(payload.len()) + record_bytes_min;
        let number = self.segment.number.checked_add(1).expect("2^32 segments last longer than any disk");
        self.segment = Arc::new(self.preparer.take(number, bytes_min as u64)?);
        self.past_cache = past_cache(&*self.disk, &self.segment, &self.options);
        self.shared.state.lock().segments.insert(number, self.segment.clone());
        self.starts.push_back((number, self.stream.next_index));
        self.written = FIRST_OFFSET;
        self.lead.clear();
        let start = Record { index: self.stream.next_index, ..Record::plain(Kind::Start, &payload) };
        start.encode(self.segment.epoch, self.durable, &mut self.buffer);
        self.stated = self.durable;
        self.content_end = self.end();
        Ok(())
    }

    /// Writes the buffer.
    fn write_out(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = self.buffer.len();
        match self.past_cache.clone() {
            Some(file) => match self.write_pages(&*file) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    tracing::debug!(%error, file = %self.segment.path.display(), "the log is written through the cache");
                    self.past_cache = None;
                    self.write_padded()?;
                }
                written => written?,
            },
            None => self.write_padded()?,
        }
        self.written += bytes as u32;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Past the cache, in whole pages: the first one again with what it had. Whatever part of a write a power cut leaves
    /// behind, these bytes stay as they were.
    fn write_pages(&mut self, file: &dyn File) -> io::Result<()> {
        let lead = self.written as usize % PAGE_BYTES;
        let start = u64::from(self.written) - lead as u64;
        if self.lead.len() != lead {
            self.lead.resize(lead, 0);
            if self.segment.file.read_at(start, &mut self.lead)? != lead {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let pages = self.pages.of(&[&self.lead, &self.buffer]);
        file.write_at(start, pages)?;
        self.shared.written_bytes.fetch_add(pages.len() as u64, Ordering::Relaxed);
        let end = lead + self.buffer.len();
        self.lead.clear();
        self.lead.extend_from_slice(&pages[end / PAGE_BYTES * PAGE_BYTES..end]);
        self.pages.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Through the cache, padded with zeroes to a whole page: else a page that is not in the cache would first be read.
    fn write_padded(&mut self) -> io::Result<()> {
        let end = self.written as usize + self.buffer.len();
        self.buffer.resize(end.next_multiple_of(PAGE_BYTES) - self.written as usize, 0);
        self.segment.file.write_at(u64::from(self.written), &self.buffer)?;
        self.shared.written_bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Syncs what was written to the current segment.
    fn sync(&mut self) -> io::Result<()> {
        let clock = &self.options.clock;
        let started = self.options.observe_fsync.as_ref().map(|observe| (observe, clock.now()));
        if !planted(Mutant::NoLogSync) {
            let synced = self.segment.file.sync_data();
            if !planted(Mutant::SyncErrorIgnored) {
                synced?;
            }
        }
        if let Some((observe, started)) = started {
            observe(clock.now().saturating_sub(started));
        }
        self.shared.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.durable = Position::new(self.segment.number, self.written);
        Ok(())
    }

    /// Tells the readers' index where the entries stand.
    fn publish(&mut self) {
        let mut state = self.shared.state.lock();
        for placed in self.placed.drain(..) {
            state.index.written(placed.index, placed.cut, placed.position);
        }
        state.index.evict();
    }

    /// Gives away the segments before the newest one that starts within what is purged.
    fn retire(&mut self) {
        let needed_from = self.stream.purged.as_ref().map_or(0, |(index, _)| index + 1);
        let keep = self.starts.iter().rposition(|(_, next_index)| *next_index <= needed_from).unwrap_or(0);
        if keep == 0 {
            return;
        }
        let mut state = self.shared.state.lock();
        let retired = self.starts.drain(..keep).filter_map(|(number, _)| state.segments.remove(&number));
        let paths = retired.map(|segment| segment.path.clone()).collect();
        drop(state);
        self.preparer.retire(paths);
    }

    fn complete(&mut self) {
        for queued in self.batch.drain(..) {
            (queued.done)(Ok(()));
        }
    }

    /// Takes nothing more, and tells everybody who waits.
    fn fail(&mut self, error: &io::Error) {
        let what = format!("{}: {error}", self.segment.path.display());
        tracing::error!(file = %self.segment.path.display(), %error, "the log has failed and takes no more");
        let queued = {
            let mut state = self.shared.state.lock();
            state.failed = Some(what.clone());
            std::mem::take(&mut state.queue)
        };
        self.shared.room.notify_all();
        for queued in self.batch.drain(..).chain(queued) {
            (queued.done)(Err(io::Error::new(error.kind(), Error::Failed(what.clone()))));
        }
    }
}

impl Drop for Writer {
    /// A thread that died of a broken invariant must not leave callers waiting for it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(&io::Error::other("the log thread panicked"));
        }
    }
}
