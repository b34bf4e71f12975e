//! openraft's log storage over [`storage::log`](crate::storage::log): translates entries, votes and log ids, nothing
//! else. Appending returns at once; the log thread reports when the bytes are on disk.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::types::{Entry, LogId, Membership, Payload, Proposal, TypeConfig, Vote, log_id};
use crate::mutants::{Mutant, planted};
use crate::storage::log::{Done, Log, LogEntry, Recovered};

/// What an entry holds; on disk, never reuse a number.
const KIND_BLANK: u8 = 0;
const KIND_PROPOSAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Bytes that one read may return; the first entry is returned whatever its size.
const READ_BYTES_MAX: usize = 8 << 20;

/// The log as openraft sees it. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    log: Arc<Log>,
    // Guards four small values that openraft reads from its tasks and writes from one; never held across an await.
    shared: Arc<Mutex<Shared>>,
    #[cfg(feature = "simulation")]
    observer: Option<Arc<dyn super::observe::Observer>>,
}

struct Shared {
    vote: Option<Vote>,
    committed: Option<LogId>,
    last: Option<LogId>,
    purged: Option<LogId>,
}

impl LogStore {
    /// Wraps an opened log.
    ///
    /// # Errors
    /// When the vote, commit mark or purge mark in it cannot be read.
    pub fn new(log: Arc<Log>, recovered: &Recovered) -> io::Result<Self> {
        let purged: Option<LogId> = decode::<Option<LogId>>("purge mark", recovered.purged.as_ref())?.flatten();
        let shared = Shared {
            vote: decode("vote", recovered.vote.as_ref())?,
            committed: decode("commit mark", recovered.committed.as_ref())?,
            last: recovered.last.map(|(index, term)| log_id(term, index)).max(purged),
            purged,
        };
        Ok(Self {
            log,
            shared: Arc::new(Mutex::new(shared)),
            #[cfg(feature = "simulation")]
            observer: None,
        })
    }

    /// Tells somebody of every append.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn observed_by(self, observer: Option<Arc<dyn super::observe::Observer>>) -> Self {
        Self { observer, ..self }
    }

    /// Index of the last entry; 0 when there is none.
    pub fn last_index(&self) -> u64 {
        self.shared.lock().last.map_or(0, |last| last.index)
    }

    /// The newest vote this member has given or seen: never older than any vote that it has let a peer know of.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.lock().vote
    }

    /// Last purged log id.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.lock().purged
    }

    async fn durable(&self, start: impl FnOnce(Box<dyn FnOnce(io::Result<()>) + Send>)) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        start(Box::new(move |result| {
            // The receiver is gone only when the whole member is.
            drop(done.send(result));
        }));
        outcome.await.map_err(|_| io::Error::other("the log thread has ended"))?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.lock().vote)
    }
}

impl LogStore {
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        // openraft may ask from before the log's beginning; it checks the index of the first entry that it gets.
        let start = start.max(self.log.state().first_index);
        let entries = self.log.read(start, end, bytes_max).map_err(io::Error::other)?;
        entries.into_iter().map(from_log).collect()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let shared = self.shared.lock();
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: shared.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = encode(vote)?;
        // Before it is durable: a peer that asks for it in between must not be told an older one, for openraft sends the
        // vote on its way when this returns.
        self.shared.lock().vote = Some(*vote);
        if planted(Mutant::VoteNotKept) {
            return Ok(());
        }
        self.durable(|done| self.log.save_vote(bytes, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(encode(&committed)?);
            self.shared.lock().committed = Some(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // The mark rides behind the entries it speaks of, but a torn tail may have cut those; then it speaks of less.
        let shared = self.shared.lock();
        Ok(shared.committed.min(shared.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(to_log).collect::<io::Result<Vec<_>>>()?;
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let before = self.shared.lock().last.replace(log_id(last.term, last.index));
            if before.is_none() && first.index > 0 {
                // openraft begins a log at 0, its conformance suite at 1: what lies before was never there.
                let never_there = encode(&None::<LogId>)?;
                self.log.purge(first.index - 1, never_there, Box::new(|_| ()));
            }
        }
        #[cfg(feature = "simulation")]
        if let Some(observer) = &self.observer {
            observer.appended(&entries);
        }
        if planted(Mutant::AckBeforeSync) {
            self.log.append(entries, Box::new(|_| ()));
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let index = last_log_id.map(|last| last.index);
        self.durable(|done| self.log.truncate_after(index, done)).await?;
        let mut shared = self.shared.lock();
        shared.last = shared.last.min(last_log_id).max(shared.purged);
        Ok(())
    }

    async fn purge(&mut self, purged: LogId) -> Result<(), io::Error> {
        let bytes = encode(&purged)?;
        self.durable(|done| self.log.purge(purged.index, bytes, done)).await?;
        let mut shared = self.shared.lock();
        shared.purged = shared.purged.max(Some(purged));
        shared.last = shared.last.max(Some(purged));
        drop(shared);
        tracing::info!(up_to = purged.index, "log purged");
        Ok(())
    }
}

/// Lets an empty log begin behind `applied`, the last entry of a restored state: everything up to it counts as purged,
/// so that the log is never taken for a new one, and the vote is of its term, so that elections go on from there. Durable
/// on return; blocks.
///
/// # Errors
/// The disk's.
pub fn begin_behind(log: &Log, member_id: u64, applied: LogId) -> io::Result<()> {
    let vote = encode(&Vote::new(applied.leader_id.term, member_id))?;
    wait_for(|done| log.save_vote(vote, done))?;
    let purged = encode(&applied)?;
    wait_for(|done| log.purge(applied.index, purged, done))
}

fn wait_for(start: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, outcome) = sync_channel(1);
    // The receiver waits below, so that nothing is lost.
    start(Box::new(move |result| drop(sender.send(result))));
    outcome.recv().map_err(|_| io::Error::other("the log thread has ended"))?
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

pub(super) fn to_log(entry: Entry) -> io::Result<LogEntry> {
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(proposal) => (KIND_PROPOSAL, proposal.bytes().clone()),
        EntryPayload::Membership(membership) => (KIND_MEMBERSHIP, encode(&membership)?),
    };
    Ok(LogEntry { index: entry.log_id.index, term: entry.log_id.leader_id.term, kind, payload })
}

pub(super) fn from_log(entry: LogEntry) -> io::Result<Entry> {
    let payload: Payload = match entry.kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_PROPOSAL => EntryPayload::Normal(
            Proposal::from_bytes(entry.payload)
                .ok_or_else(|| invalid(format!("log entry {}: proposal is truncated", entry.index)))?,
        ),
        KIND_MEMBERSHIP => {
            let membership: Membership = serde_json::from_slice(&entry.payload)
                .map_err(|error| invalid(format!("log entry {}: membership: {error}", entry.index)))?;
            EntryPayload::Membership(membership)
        }
        kind => return Err(invalid(format!("log entry {}: unknown kind {kind}", entry.index))),
    };
    Ok(Entry { log_id: log_id(entry.term, entry.index), payload })
}

fn encode(value: &impl serde::Serialize) -> io::Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(io::Error::other)
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: Option<&Bytes>) -> io::Result<Option<T>> {
    bytes
        .map(|bytes| serde_json::from_slice(bytes).map_err(|error| invalid(format!("{what} in the log: {error}"))))
        .transpose()
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
