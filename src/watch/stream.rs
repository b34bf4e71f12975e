//! One gRPC watch stream: requests in, responses out, made only when they are asked for.
//!
//! tonic polls it when HTTP/2 flow control has room, so a client that does not read costs what one slice holds, and no
//! task of its own is needed. Each poll makes one response. The work takes turns: requests, news at the tip,
//! catching up; progress is told when the tip is idle.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::time::Sleep;
use tonic::Status;

use super::catch_up::{self, CatchUp};
use super::group::Inbox;
use super::hub::Hub;
use super::range_index::KeyRange;
use super::tip::{self, Tip};
use super::watch_set::WatchSet;
use super::watcher::{Progress, Watcher};
use crate::mutants::{Mutant, planted};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::Event;

/// The id in the refusal of a watch, and in the answer to a progress request.
const NO_WATCH: i64 = -1;

/// Steps of delivering between two looks at the client's requests, when there is no end of news.
const STEPS_BETWEEN_REQUESTS: u32 = 16;

/// Work of one poll before other streams of the thread get their turn; one unit is about ten nanoseconds.
const WORK_PER_POLL: usize = 20_000;

/// Requests are read together while fewer responses wait, so that watches opened together read the history together.
const READY_MAX: usize = 64;

/// Work of a step that looks at no changes, and of taking a request.
const WORK_PER_STEP: usize = 10;

/// Progress requests that are answered one by one; more that come before the first answer share the last.
const PROGRESS_REQUESTS_MAX: u32 = 1024;

/// A watch stream, as `rpc` hands it to tonic; made by [`Hub::stream`]. Dropping it ends its watches.
///
/// Its requests may end (the client has no more to ask) without ending it. It yields at most one error, as the last.
pub struct WatchStream<S> {
    /// `None` when the client closed its side.
    inbound: Option<S>,
    side: ServerSide,
}

/// All of a stream but the type of its requests.
struct ServerSide {
    hub: Arc<Hub>,
    /// The stream's number with the hub.
    number: usize,
    inbox: Arc<Inbox>,
    set: WatchSet,
    tip: Tip,
    catch_up: CatchUp,
    /// Whose turn it is when both have work.
    catch_up_next: bool,
    /// Made and not asked for yet: what one request or one batch of fragments came to.
    ready: VecDeque<pb::WatchResponse>,
    /// The greatest revision in a header so far; progress is not told below it.
    header_max: i64,
    asked: Option<ProgressAsked>,
    /// What the hub was asked to nudge this stream at.
    awaits: Option<i64>,
    ticker: Option<Pin<Box<Sleep>>>,
    /// Watchers to be told of progress since the last tick.
    ticked: VecDeque<i64>,
    steps: u32,
    finished: bool,
    /// Counted here first, for the hub's counter is shared by all threads.
    events_sent: usize,
}

/// Progress requests without an answer.
#[derive(Clone, Copy, Debug)]
struct ProgressAsked {
    requests: u32,
    /// The state's revision when the last one came; the answer is at least that.
    at_least: i64,
}

impl<S> fmt::Debug for WatchStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").field("number", &self.side.number).finish_non_exhaustive()
    }
}

impl<S> WatchStream<S> {
    pub(super) fn new(hub: Arc<Hub>, number: usize, inbox: Arc<Inbox>, inbound: S) -> Self {
        let side = ServerSide {
            set: WatchSet::new(hub.clone()),
            hub,
            number,
            inbox,
            tip: Tip::default(),
            catch_up: CatchUp::default(),
            catch_up_next: false,
            ready: VecDeque::new(),
            header_max: 0,
            asked: None,
            awaits: None,
            ticker: None,
            ticked: VecDeque::new(),
            steps: 0,
            finished: false,
            events_sent: 0,
        };
        Self { inbound: Some(inbound), side }
    }

    /// Does what the end of a progress interval does.
    #[cfg(test)]
    pub(super) fn tick(&mut self) {
        self.side.tick();
    }

    /// Decides whose turn it is, as no order of turns may matter to what a client is told.
    #[cfg(test)]
    pub(super) fn set_turn(&mut self, catch_up_next: bool) {
        self.side.catch_up_next = catch_up_next;
    }

    /// Watchers in line for the history, stale ones too.
    #[cfg(test)]
    pub(super) fn catching_up(&self) -> usize {
        self.side.catch_up.len()
    }
}

impl<S> Stream for WatchStream<S>
where
    S: Stream<Item = Result<pb::WatchRequest, Status>> + Unpin,
{
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { inbound, side } = self.get_mut();
        if side.finished {
            return Poll::Ready(None);
        }
        let mut work = 0;
        loop {
            if let Some(response) = side.ready.pop_front() {
                return Poll::Ready(Some(Ok(response)));
            }
            if work >= WORK_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let cost = match side.deliver() {
                Ok(cost) => cost,
                Err(status) => return side.finish(status),
            };
            work += cost;
            let mut idle = cost == 0;
            side.steps += 1;
            if !idle && side.steps < STEPS_BETWEEN_REQUESTS {
                continue;
            }
            side.steps = 0;
            while let Some(requests) = inbound
                && side.ready.len() < READY_MAX
                && work < WORK_PER_POLL
            {
                match Pin::new(requests).poll_next(cx) {
                    Poll::Ready(Some(Ok(request))) => side.handle(request),
                    Poll::Ready(Some(Err(status))) => return side.finish(status),
                    Poll::Ready(None) => *inbound = None,
                    Poll::Pending => break,
                }
                idle = false;
                work += WORK_PER_STEP;
            }
            let ticked = side.poll_ticker(cx);
            if idle && !ticked && side.sleep(cx) {
                return Poll::Pending;
            }
        }
    }
}

impl ServerSide {
    fn finish<T>(&mut self, status: Status) -> Poll<Option<Result<T, Status>>> {
        self.finished = true;
        Poll::Ready(Some(Err(status)))
    }

    /// Does one step of what is owed to the client; gives back its cost, 0 when nothing is owed now.
    ///
    /// # Errors
    /// The status the stream has to end with.
    fn deliver(&mut self) -> Result<usize, Status> {
        if std::mem::take(&mut self.catch_up_next) {
            let cost = self.step_catch_up();
            if cost > 0 {
                return Ok(cost);
            }
        }
        self.catch_up_next = !self.set.is_synced();
        match self.tip.step(&self.hub, &self.inbox, &mut self.set, &mut self.catch_up)? {
            tip::Step::Idle(covered) => {
                if self.tell_progress(covered) {
                    return Ok(WORK_PER_STEP);
                }
                self.catch_up_next = false;
                Ok(self.step_catch_up())
            }
            tip::Step::Moved => Ok(WORK_PER_STEP),
            tip::Step::Events { at, events, revision } => {
                self.send(at, events, revision);
                Ok(WORK_PER_STEP)
            }
        }
    }

    fn step_catch_up(&mut self) -> usize {
        match self.catch_up.step(&self.hub, &mut self.set, &mut self.tip.todo) {
            catch_up::Step::Idle => 0,
            catch_up::Step::Moved(changes) => WORK_PER_STEP + changes,
            catch_up::Step::Events { at, events, revision, changes } => {
                self.send(at, events, revision);
                WORK_PER_STEP + changes
            }
            catch_up::Step::Compacted { id, mark } => {
                self.set.end(id);
                self.ready.push_back(self.compacted(id, mark.0));
                WORK_PER_STEP
            }
        }
    }

    fn send(&mut self, (number, place): (usize, usize), events: Vec<Event>, revision: i64) {
        let header = self.header(revision);
        self.events_sent += events.len();
        let watcher = &mut self.set.subscriptions[number].watchers[place];
        if watcher.progress == Progress::Due {
            watcher.progress = Progress::Skipped;
        }
        let ready = &mut self.ready;
        let last =
            watcher.respond(header, events, self.hub.options.fragment_bytes, |response| ready.push_back(response));
        ready.push_back(last);
    }

    /// The header of a response. Revisions in a stream's headers never go back: `revision`, or one named before.
    fn header(&mut self, revision: i64) -> pb::ResponseHeader {
        self.header_max = self.header_max.max(revision);
        (self.hub.header)(self.header_max)
    }

    fn handle(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(&request),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress(),
            // Something a later version of the API may know.
            None => {}
        }
    }

    fn create(&mut self, request: &pb::WatchCreateRequest) {
        if request.start_revision < 0 {
            return self.refuse("etcdserver: mvcc: required revision has been compacted");
        }
        let Ok(range) = KeyRange::new(&request.key, &request.range_end) else {
            return self.refuse("mvcc: watcher range is empty");
        };
        if self.set.ids() >= self.hub.options.watchers_per_stream_max {
            return self.refuse("etcdserver: too many watchers on the stream");
        }
        let Ok(id) = self.set.choose_id(request.watch_id) else {
            return self.refuse("mvcc: duplicate watch ID provided on the WatchStream");
        };
        let mark = self.hub.history.compact_revision();
        if request.start_revision != 0 && request.start_revision < mark {
            self.set.end(id);
            let header = self.header_now();
            self.ready.push_back(created(header, id));
            self.ready.push_back(self.compacted(id, mark));
            return;
        }
        let history = self.hub.history.clone();
        let mut revision = 0;
        let watcher = self.set.insert(&range, &self.inbox, |serial| {
            revision = history.revision();
            Watcher::new(request, id, serial, revision)
        });
        if !watcher.synced {
            self.catch_up.push(id, watcher.serial);
            self.catch_up.shed(&self.set);
        }
        if request.progress_notify && self.ticker.is_none() {
            self.ticker = Some(self.next_tick());
        }
        let header = self.header(revision);
        self.ready.push_back(created(header, id));
    }

    fn cancel(&mut self, id: i64) {
        if self.set.cancel(id) {
            let header = Some(self.header_now());
            self.ready.push_back(pb::WatchResponse { header, watch_id: id, canceled: true, ..Default::default() });
        }
    }

    /// Refuses a watch, in the shape that etcd gives all refusals.
    fn refuse(&mut self, reason: &str) {
        let header = self.header_now();
        let cancel_reason = reason.to_owned();
        self.ready.push_back(pb::WatchResponse { canceled: true, cancel_reason, ..created(header, NO_WATCH) });
    }

    fn header_now(&mut self) -> pb::ResponseHeader {
        self.header(self.hub.history.revision())
    }

    /// Tells of a watch whose history is gone; etcd leaves the header's revision 0 and gives no reason.
    fn compacted(&self, id: i64, mark: i64) -> pb::WatchResponse {
        pb::WatchResponse {
            header: Some((self.hub.header)(0)),
            watch_id: id,
            canceled: true,
            compact_revision: mark,
            ..Default::default()
        }
    }

    fn ask_progress(&mut self) {
        if self.set.is_empty() {
            return;
        }
        let requests = self.asked.map_or(0, |asked| asked.requests);
        let at_least = self.hub.history.revision();
        self.asked = Some(ProgressAsked { requests: (requests + 1).min(PROGRESS_REQUESTS_MAX), at_least });
    }

    /// Tells of progress that was asked for or is due, when every synced watcher has all up to `covered`. True when a
    /// response was made, or something was given up.
    fn tell_progress(&mut self, covered: i64) -> bool {
        if covered < self.header_max {
            return false;
        }
        while let Some(id) = self.ticked.pop_front() {
            let told = |watcher: &&Watcher| {
                watcher.progress == Progress::Due && watcher.synced && watcher.progress_from <= covered
            };
            if self.set.get(id).is_some_and(|watcher| told(&watcher)) {
                self.push_progress(id, covered);
                return true;
            }
        }
        let Some(asked) = &mut self.asked else { return false };
        if self.set.is_empty() {
            self.asked = None;
            return true;
        }
        let answerable = (self.set.is_synced() || planted(Mutant::EarlyProgress))
            && covered >= asked.at_least
            && self.set.iter().all(|watcher| watcher.progress_from <= covered);
        if !answerable {
            // Those who ask again while they wait are content with one answer.
            asked.requests = 1;
            return false;
        }
        asked.requests -= 1;
        if asked.requests == 0 {
            self.asked = None;
        }
        self.push_progress(NO_WATCH, covered);
        true
    }

    fn push_progress(&mut self, watch_id: i64, covered: i64) {
        let header = Some(self.header(covered));
        self.ready.push_back(pb::WatchResponse { header, watch_id, ..Default::default() });
    }

    /// Looks whether a progress interval is over; true when it was.
    fn poll_ticker(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(ticker) = &mut self.ticker else { return false };
        if ticker.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.tick();
        self.ticker = self.set.iter().any(|watcher| watcher.progress != Progress::Never).then(|| self.next_tick());
        true
    }

    /// One progress interval is over.
    fn tick(&mut self) {
        self.ticked.clear();
        for watcher in self.set.iter_mut() {
            match watcher.progress {
                Progress::Never => {}
                Progress::Due => self.ticked.push_back(watcher.id),
                Progress::Skipped => watcher.progress = Progress::Due,
            }
        }
    }

    /// The end of the next progress interval. Streams are spread over a tenth of it, by their numbers.
    fn next_tick(&self) -> Pin<Box<Sleep>> {
        let interval = self.hub.options.progress_interval;
        let spread = (self.number as u32).wrapping_mul(0x9e37_79b9) >> 16;
        let extra = Duration::from_nanos((interval / 10).as_nanos() as u64 / (1 << 16) * u64::from(spread));
        Box::pin(tokio::time::sleep(interval + extra))
    }

    /// Arranges to be polled when there is news; false when there is some already.
    fn sleep(&mut self, cx: &mut Context<'_>) -> bool {
        let events_sent = std::mem::take(&mut self.events_sent);
        if events_sent > 0 {
            self.hub.counters.events_sent.fetch_add(events_sent, Ordering::Relaxed);
        }
        if !self.inbox.sleep(cx.waker()) {
            return false;
        }
        // Progress that is due may wait for a revision that brings no events to this stream.
        let awaited = self.awaited();
        if awaited != self.awaits
            && let Some(revision) = awaited
        {
            let before = self.awaits.replace(revision);
            return self.hub.await_revision(revision, self.number, before);
        }
        true
    }

    fn awaited(&self) -> Option<i64> {
        if self.ticked.is_empty() && self.asked.is_none() {
            return None;
        }
        let asked =
            self.asked.map(|asked| self.set.iter().map(|watcher| watcher.progress_from).fold(asked.at_least, i64::max));
        let ticked = (!self.ticked.is_empty()).then_some(self.header_max);
        let awaited = asked.into_iter().chain(ticked).max()?.max(self.header_max);
        (awaited > self.hub.published()).then_some(awaited)
    }
}

impl Drop for ServerSide {
    fn drop(&mut self) {
        self.hub.counters.events_sent.fetch_add(self.events_sent, Ordering::Relaxed);
        self.hub.remove_stream(self.number, self.awaits);
    }
}

fn created(header: pb::ResponseHeader, watch_id: i64) -> pb::WatchResponse {
    pb::WatchResponse { header: Some(header), watch_id, created: true, ..Default::default() }
}
