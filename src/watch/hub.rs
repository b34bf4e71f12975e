//! The meeting place of the writer and all watch streams.
//!
//! One lock (the registry) guards who watches what; the writer holds it while it hands out one log entry's batches,
//! streams only to add and remove watchers. Delivering to clients never takes it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Waker;

use futures_util::Stream;
use parking_lot::Mutex;
use slab::Slab;
use tonic::Status;

use super::group::{Counters, Entry, Group, Inbox};
use super::range_index::{KeyRange, RangeIndex};
use super::{History, Options, WatchStream};
use crate::proto::etcdserverpb as pb;
use crate::state::EventBatch;

/// Makes a response header of a revision.
type HeaderOf = dyn Fn(i64) -> pb::ResponseHeader + Send + Sync;

/// How many groups a closing stream leaves before it lets the writer have the registry again.
const LEAVE_AT_ONCE: usize = 64;

/// What a request of a stream may change about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamOptions {
    /// The client sent `hasleader: true`: the stream ends when the member has no leader.
    pub require_leader: bool,
}

/// All watches of a member. Shared as `Arc<Hub>`; every method may be called from any thread.
pub struct Hub {
    pub(super) history: Arc<dyn History>,
    pub(super) header: Box<HeaderOf>,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    /// Every batch up to here is in the groups. Written under the registry's lock, after the groups and inboxes were,
    /// so that a stream that reads it and then finds its inbox empty has missed nothing up to it.
    published: AtomicI64,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    index: RangeIndex,
    groups: Slab<Watched>,
    window: Window,
    streams: Slab<Registered>,
    /// Streams to nudge when the published revision gets to a number, though no event may come for them.
    awaiting: BTreeMap<(i64, usize), Arc<Inbox>>,
    /// Ends every new stream once the hub is closed.
    closed: Option<Status>,
    leader_lost: bool,
    /// Groups hit by the batch at hand; empty in between.
    hit: Vec<usize>,
}

#[derive(Debug)]
struct Registered {
    inbox: Arc<Inbox>,
    require_leader: bool,
}

#[derive(Debug)]
struct Watched {
    group: Arc<Group>,
    /// Places of the changes of the batch at hand that lie in the group's range; empty in between.
    places: Vec<u32>,
}

/// The most recent batches that anybody watched, by weight: groups keep nothing older. It bounds what stuck streams can
/// hold in memory, whatever the number of groups and streams.
#[derive(Debug, Default)]
struct Window {
    /// (revision, bytes, number of its groups), oldest first.
    batches: VecDeque<(i64, usize, usize)>,
    /// The groups of those batches, in the same order.
    groups: VecDeque<usize>,
    bytes: usize,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("published", &self.published)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub over a state; `header` fills in ids and term.
    pub fn new(
        history: Arc<dyn History>,
        header: impl Fn(i64) -> pb::ResponseHeader + Send + Sync + 'static,
        options: Options,
    ) -> Self {
        let published = AtomicI64::new(history.revision());
        let counters = Arc::default();
        Self { history, header: Box::new(header), options, counters, published, registry: Mutex::default() }
    }

    /// Hands out what one log entry changed. `revision` is the state's revision after it; when it is ahead of what the
    /// batches lead to (a snapshot was installed), watchers read the difference from the history.
    ///
    /// Called by the writer alone, in order, after the state shows the changes and before anybody is answered. Batches
    /// handed out before are skipped.
    pub fn publish(&self, batches: &[Arc<EventBatch>], revision: i64) {
        let mut wakers = Vec::new();
        let mut registry = self.registry.lock();
        let mut at = self.published.load(Ordering::Relaxed);
        for batch in batches {
            if batch.revision <= at {
                continue;
            }
            if batch.revision > at + 1 {
                registry.reset(batch.revision - 1, &mut wakers);
            }
            registry.push(batch, self.options.window_bytes_max, &mut wakers);
            at = batch.revision;
        }
        if revision > at {
            registry.reset(revision, &mut wakers);
            at = revision;
        }
        self.published.store(at, Ordering::Release);
        registry.nudge_awaiting(at, &mut wakers);
        drop(registry);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Serves one gRPC stream; `inbound` are the client's requests. The stream must be polled inside a tokio runtime.
    pub fn stream<S>(self: &Arc<Self>, inbound: S, options: StreamOptions) -> WatchStream<S>
    where
        S: Stream<Item = Result<pb::WatchRequest, Status>> + Unpin,
    {
        let inbox = Arc::new(Inbox::default());
        let mut registry = self.registry.lock();
        let mut wakers = Vec::new();
        if let Some(status) = registry.closed.clone() {
            inbox.end(status, &mut wakers);
        } else if options.require_leader && registry.leader_lost {
            inbox.end(no_leader(), &mut wakers);
        }
        let number =
            registry.streams.insert(Registered { inbox: inbox.clone(), require_leader: options.require_leader });
        drop(registry);
        WatchStream::new(self.clone(), number, inbox, inbound)
    }

    /// Ends every stream, and each one made later, with `status`.
    pub fn close(&self, status: Status) {
        let mut wakers = Vec::new();
        let mut registry = self.registry.lock();
        for (_, stream) in &registry.streams {
            stream.inbox.end(status.clone(), &mut wakers);
        }
        registry.closed = Some(status);
        drop(registry);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the streams that asked for a leader, and refuses such streams until [`Hub::leader_found`].
    pub fn leader_lost(&self) {
        let mut wakers = Vec::new();
        let mut registry = self.registry.lock();
        for (_, stream) in &registry.streams {
            if stream.require_leader {
                stream.inbox.end(no_leader(), &mut wakers);
            }
        }
        registry.leader_lost = true;
        drop(registry);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The member knows a leader again.
    pub fn leader_found(&self) {
        self.registry.lock().leader_lost = false;
    }

    /// Everything up to this revision was handed out.
    pub fn published(&self) -> i64 {
        self.published.load(Ordering::Acquire)
    }

    /// Open watch streams.
    pub fn streams(&self) -> usize {
        self.registry.lock().streams.len()
    }

    /// Watchers on all streams.
    pub fn watchers(&self) -> usize {
        self.counters.watchers.load(Ordering::Relaxed)
    }

    /// Watchers that are reading history.
    pub fn unsynced_watchers(&self) -> usize {
        self.counters.unsynced.load(Ordering::Relaxed)
    }

    /// Batches that groups keep for streams that have not taken them yet.
    pub fn pending_batches(&self) -> usize {
        usize::try_from(self.counters.pending.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Events sent since the hub was made.
    pub fn events_sent(&self) -> usize {
        self.counters.events_sent.load(Ordering::Relaxed)
    }

    /// Enters a stream's first watcher of a range; gives back the group and the stream's place in it.
    pub(super) fn join(&self, range: &KeyRange, inbox: &Arc<Inbox>, number: usize) -> (Arc<Group>, usize) {
        let mut registry = self.registry.lock();
        let group = match registry.index.get(range) {
            Some(at) => registry.groups[at].group.clone(),
            None => {
                let published = self.published.load(Ordering::Relaxed);
                let group = Arc::new(Group::new(range.clone(), published, self.counters.clone()));
                let at = registry.groups.insert(Watched { group: group.clone(), places: Vec::new() });
                registry.index.insert(range, at);
                group
            }
        };
        let place = group.join(inbox.clone(), number);
        (group, place)
    }

    /// Takes a stream out of groups, given with its places in them; a group that nobody is left in goes.
    pub(super) fn leave(&self, places: impl IntoIterator<Item = (Arc<Group>, usize)>) {
        let mut places = places.into_iter().peekable();
        while places.peek().is_some() {
            let mut registry = self.registry.lock();
            for (group, place) in places.by_ref().take(LEAVE_AT_ONCE) {
                if group.leave(place)
                    && let Some(at) = registry.index.get(&group.range)
                {
                    registry.index.remove(&group.range);
                    registry.groups.remove(at);
                }
            }
        }
    }

    /// Forgets a stream that was dropped.
    pub(super) fn remove_stream(&self, number: usize, awaits: Option<i64>) {
        let mut registry = self.registry.lock();
        registry.streams.remove(number);
        if let Some(revision) = awaits {
            registry.awaiting.remove(&(revision, number));
        }
    }

    /// Has a stream nudged when `revision` is published, in place of what it awaited before; false when it is already.
    pub(super) fn await_revision(&self, revision: i64, number: usize, before: Option<i64>) -> bool {
        let mut registry = self.registry.lock();
        if let Some(before) = before {
            registry.awaiting.remove(&(before, number));
        }
        if self.published.load(Ordering::Relaxed) >= revision {
            return false;
        }
        let inbox = registry.streams[number].inbox.clone();
        registry.awaiting.insert((revision, number), inbox);
        true
    }
}

impl Registry {
    fn push(&mut self, batch: &Arc<EventBatch>, window_bytes_max: usize, wakers: &mut Vec<Waker>) {
        if self.index.is_empty() {
            return;
        }
        let Self { index, groups, hit, window, .. } = self;
        for (place, change) in (0..).zip(&batch.changes) {
            index.matches(change.record.key(), |at| {
                let places = &mut groups[at].places;
                if places.is_empty() {
                    hit.push(at);
                }
                places.push(place);
            });
        }
        if hit.is_empty() {
            return;
        }
        let bytes = bytes_of(batch);
        let mut matched_bytes = 0;
        for &at in &*hit {
            let Watched { group, places } = &mut groups[at];
            let matched = (places.len() < batch.changes.len()).then(|| Arc::from(&places[..]));
            matched_bytes += size_of::<Entry>() + if matched.is_some() { size_of_val(&places[..]) } else { 0 };
            places.clear();
            group.push(Entry { batch: batch.clone(), matched, bytes }, wakers);
        }
        window.push(batch.revision, bytes + matched_bytes, hit);
        hit.clear();
        while window.bytes > window_bytes_max {
            window.pop(|at, revision| {
                if let Some(watched) = groups.get(at) {
                    watched.group.trim(revision);
                }
            });
        }
    }

    fn reset(&mut self, revision: i64, wakers: &mut Vec<Waker>) {
        for (_, watched) in &self.groups {
            watched.group.reset(revision, wakers);
        }
        self.window = Window::default();
    }

    fn nudge_awaiting(&mut self, revision: i64, wakers: &mut Vec<Waker>) {
        while let Some(first) = self.awaiting.first_entry()
            && first.key().0 <= revision
        {
            first.remove().nudge(wakers);
        }
    }
}

impl Window {
    fn push(&mut self, revision: i64, bytes: usize, groups: &[usize]) {
        self.batches.push_back((revision, bytes, groups.len()));
        self.groups.extend(groups);
        self.bytes += bytes;
    }

    /// Drops the oldest batch, telling its groups.
    fn pop(&mut self, mut trim: impl FnMut(usize, i64)) {
        let (revision, bytes, groups) = self.batches.pop_front().expect("bytes are those of its batches");
        self.bytes -= bytes;
        // A group that went meanwhile may have left its number to another, which has to forget that much no more than
        // any: what it drops is read from the history.
        self.groups.drain(..groups).for_each(|at| trim(at, revision));
    }
}

/// What a batch holds in memory, roughly.
fn bytes_of(batch: &EventBatch) -> usize {
    let records = batch.changes.iter().map(|change| {
        let previous = change.previous.as_ref().map_or(0, |record| record.as_bytes().len());
        size_of_val(change) + change.record.as_bytes().len() + previous
    });
    size_of::<EventBatch>() + records.sum::<usize>()
}

fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}
