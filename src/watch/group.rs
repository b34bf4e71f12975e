//! The watchers of one range, and the recent batches that touched it.
//!
//! A group keeps a batch only until every stream with a watcher here has taken it; what streams take late, the hub's
//! window takes back (see `hub`), and the late ones read history. Locks are taken in the order hub registry, group,
//! inbox, and none is held while a client is served.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;
use slab::Slab;
use tonic::Status;

use super::range_index::KeyRange;
use crate::state::EventBatch;

/// What the metrics show. Only ever added to and subtracted from, so relaxed order is enough.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub watchers: AtomicUsize,
    pub unsynced: AtomicUsize,
    pub pending: AtomicI64,
    pub events_sent: AtomicUsize,
}

/// A batch as one group sees it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub batch: Arc<EventBatch>,
    /// Places of the changes within the range, ascending; `None` means all of them.
    pub matched: Option<Arc<[u32]>>,
    /// What the batch holds in memory.
    pub bytes: usize,
}

/// Where the hub leaves news for one stream. Guards a list that is swapped and a waker; held for nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<News>);

#[derive(Debug, Default)]
struct News {
    /// The stream's numbers of groups with news, each at most once between two takes.
    groups: Vec<usize>,
    /// Set while the stream sleeps; taken by the first news, so that one publish wakes a stream once.
    waker: Option<Waker>,
    end: Option<Status>,
}

impl Inbox {
    fn add(&self, number: usize, wakers: &mut Vec<Waker>) {
        let mut news = self.0.lock();
        news.groups.push(number);
        wakers.extend(news.waker.take());
    }

    /// Makes the stream look again.
    pub fn nudge(&self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.0.lock().waker.take());
    }

    /// Ends the stream with a status; the first one counts.
    pub fn end(&self, status: Status, wakers: &mut Vec<Waker>) {
        let mut news = self.0.lock();
        news.end.get_or_insert(status);
        wakers.extend(news.waker.take());
    }

    /// Moves the numbers of groups with news to `into`.
    ///
    /// # Errors
    /// The status the stream has to end with.
    pub fn take(&self, into: &mut VecDeque<usize>) -> Result<(), Status> {
        let mut news = self.0.lock();
        into.extend(news.groups.drain(..));
        news.end.clone().map_or(Ok(()), Err)
    }

    /// Asks for `waker` to be woken by the next news; false when there are some already.
    pub fn sleep(&self, waker: &Waker) -> bool {
        let mut news = self.0.lock();
        if !news.groups.is_empty() || news.end.is_some() {
            return false;
        }
        match &mut news.waker {
            Some(known) => known.clone_from(waker),
            unset => *unset = Some(waker.clone()),
        }
        true
    }
}

/// All watchers of one range, on whatever stream.
#[derive(Debug)]
pub(super) struct Group {
    pub range: KeyRange,
    counters: Arc<Counters>,
    /// Guards everything below; the writer holds it to append one entry and mark the members, a stream to take entries.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `entries` are all matching batches with `base` < revision ≤ `last`.
    base: i64,
    last: i64,
    entries: VecDeque<Entry>,
    members: Slab<Member>,
    /// How many members have yet to take something; at zero nothing needs to be kept.
    waiting: usize,
}

/// A stream with watchers in the group.
#[derive(Debug)]
struct Member {
    inbox: Arc<Inbox>,
    /// The stream's own number for this group.
    number: usize,
    /// The stream was told of news and has not taken all of them.
    waiting: bool,
}

/// What a stream took from a group.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// All matching batches with `after` < revision ≤ `last`.
    pub entries: Vec<Entry>,
    /// The group kept nothing up to here. Not greater than `after`, which is what the taker has seen already, if more.
    pub base: i64,
    pub after: i64,
    pub last: i64,
    /// Limits cut it short.
    pub more: bool,
}

/// How a cursor stands to what a group keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Some that it needs may be gone.
    Behind,
    /// Nothing is waiting for it.
    Current,
    /// The group holds batches it needs.
    HasNews,
}

impl Group {
    /// A group that misses nothing after `revision`.
    pub fn new(range: KeyRange, revision: i64, counters: Arc<Counters>) -> Self {
        let state =
            State { base: revision, last: revision, entries: VecDeque::new(), members: Slab::new(), waiting: 0 };
        Self { range, counters, state: Mutex::new(state) }
    }

    /// Adds a stream; gives back its place.
    pub fn join(&self, inbox: Arc<Inbox>, number: usize) -> usize {
        self.state.lock().members.insert(Member { inbox, number, waiting: false })
    }

    /// Removes a stream; true when it was the last.
    pub fn leave(&self, place: usize) -> bool {
        let mut state = self.state.lock();
        let member = state.members.remove(place);
        if member.waiting {
            self.done_waiting(&mut state);
        }
        state.members.is_empty()
    }

    /// Adds a batch and tells every stream that does not know of news yet.
    pub fn push(&self, entry: Entry, wakers: &mut Vec<Waker>) {
        let mut state = self.state.lock();
        let revision = entry.batch.revision;
        assert!(revision > state.last, "batch {revision} published after {}", state.last);
        state.last = revision;
        state.entries.push_back(entry);
        self.counters.pending.fetch_add(1, Ordering::Relaxed);
        state.tell_members(wakers);
    }

    /// Forgets everything up to `revision`, for the batches in between never came; everybody has to read history.
    pub fn reset(&self, revision: i64, wakers: &mut Vec<Waker>) {
        let mut state = self.state.lock();
        self.clear(&mut state);
        state.base = revision;
        state.last = revision;
        state.tell_members(wakers);
    }

    /// Drops what is not newer than `revision`, to hold the window's limit.
    pub fn trim(&self, revision: i64) {
        let mut state = self.state.lock();
        while let Some(entry) = state.entries.front()
            && entry.batch.revision <= revision
        {
            state.base = entry.batch.revision;
            state.entries.pop_front();
            self.counters.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes batches newer than `seen` for the stream at `place`, at most about `bytes_max` bytes and `count_max` batches.
    pub fn take(&self, place: usize, seen: i64, count_max: usize, bytes_max: usize) -> Taken {
        let mut state = self.state.lock();
        let mut taken = Taken { base: state.base, after: state.base.max(seen), last: state.last, ..Taken::default() };
        let first = state.entries.partition_point(|entry| entry.batch.revision <= seen);
        let mut bytes = 0;
        for entry in state.entries.range(first..) {
            if taken.entries.len() == count_max || (bytes > 0 && bytes + entry.bytes > bytes_max) {
                taken.more = true;
                taken.last = taken.entries.last().map_or(taken.after, |last| last.batch.revision);
                return taken;
            }
            bytes += entry.bytes;
            taken.entries.push(entry.clone());
        }
        if std::mem::take(&mut state.members[place].waiting) {
            self.done_waiting(&mut state);
        }
        taken
    }

    /// Where a cursor stands that needs everything from `next` on.
    pub fn standing(&self, next: i64) -> Standing {
        let state = self.state.lock();
        if next <= state.base {
            Standing::Behind
        } else if next <= state.last && !state.entries.is_empty() {
            Standing::HasNews
        } else {
            Standing::Current
        }
    }

    fn done_waiting(&self, state: &mut State) {
        state.waiting -= 1;
        if state.waiting == 0 {
            self.clear(state);
            state.base = state.last;
        }
    }

    fn clear(&self, state: &mut State) {
        self.counters.pending.fetch_sub(state.entries.len() as i64, Ordering::Relaxed);
        state.entries.clear();
    }
}

impl State {
    fn tell_members(&mut self, wakers: &mut Vec<Waker>) {
        if self.waiting == self.members.len() {
            return;
        }
        for (_, member) in &mut self.members {
            if !member.waiting {
                member.waiting = true;
                self.waiting += 1;
                member.inbox.add(member.number, wakers);
            }
        }
    }
}
