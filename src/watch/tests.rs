//! Streams against a history held in a map, polled by hand.

mod contract;
mod install;
mod property;
mod threads;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{CompactedAt, History, Hub, Options, StreamOptions, WatchStream};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::{Put, Record};
use crate::state::{Change, ChangeKind, EventBatch};

/// A history in a map, which can be told to forget or to lie.
#[derive(Debug, Default)]
struct Shelf(Mutex<Books>);

#[derive(Debug)]
struct Books {
    batches: BTreeMap<i64, Arc<EventBatch>>,
    records: BTreeMap<Vec<u8>, Record>,
    revision: i64,
    mark: i64,
    /// Batches in one answer at most, whatever is asked for.
    answer_max: usize,
    /// Leaves out the batches of revisions that this divides; 0 = none. For the proof that tests notice.
    loses_every: i64,
    reads: usize,
}

impl Default for Books {
    fn default() -> Self {
        Self {
            batches: BTreeMap::new(),
            records: BTreeMap::new(),
            revision: 1,
            mark: 0,
            answer_max: usize::MAX,
            loses_every: 0,
            reads: 0,
        }
    }
}

/// An operation of one revision: a key, and the value to put or `None` to delete.
type Op<'a> = (&'a str, Option<&'a str>);

impl Shelf {
    /// Applies operations as one revision; `None` when they change nothing.
    fn apply(&self, ops: &[Op<'_>]) -> Option<Arc<EventBatch>> {
        let mut books = self.0.lock();
        let revision = books.revision + 1;
        let mut changes = Vec::new();
        for &(key, value) in ops {
            let key = key.as_bytes();
            let previous = books.records.get(key).cloned();
            let (kind, record) = match value {
                Some(value) => {
                    let (create_revision, version) =
                        previous.as_ref().map_or((revision, 1), |p| (p.create_revision(), p.version() + 1));
                    let value = value.as_bytes();
                    let record =
                        Record::put(Put { key, value, create_revision, mod_revision: revision, version, lease: 0 });
                    books.records.insert(key.to_vec(), record.clone());
                    (ChangeKind::Put, record)
                }
                None if previous.is_none() => continue,
                None => {
                    books.records.remove(key);
                    (ChangeKind::Delete, Record::tombstone(key, revision))
                }
            };
            changes.push(Change { kind, record, previous });
        }
        if changes.is_empty() {
            return None;
        }
        let batch = Arc::new(EventBatch { revision, changes });
        books.batches.insert(revision, batch.clone());
        books.revision = revision;
        Some(batch)
    }

    fn compact(&self, mark: i64) {
        let mut books = self.0.lock();
        books.mark = mark;
        books.batches = books.batches.split_off(&mark);
    }

    fn reads(&self) -> usize {
        self.0.lock().reads
    }
}

impl History for Shelf {
    fn revision(&self) -> i64 {
        self.0.lock().revision
    }

    fn compact_revision(&self) -> i64 {
        self.0.lock().mark
    }

    fn history(
        &self,
        after: i64,
        up_to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<EventBatch>>, CompactedAt> {
        let mut books = self.0.lock();
        books.reads += 1;
        if after + 1 < books.mark {
            return Err(CompactedAt(books.mark));
        }
        let mut bytes = 0;
        let batches = books.batches.range(after + 1..=up_to).map(|(_, batch)| batch);
        let kept = batches.filter(|batch| books.loses_every == 0 || batch.revision % books.loses_every != 0);
        let within = kept.take(revisions_max.min(books.answer_max)).take_while(|batch| {
            let fits = bytes == 0 || bytes < bytes_max;
            bytes += batch.changes.iter().map(|change| change.record.as_bytes().len()).sum::<usize>();
            fits
        });
        Ok(within.cloned().collect())
    }
}

fn header(revision: i64) -> pb::ResponseHeader {
    pb::ResponseHeader { cluster_id: 7, member_id: 8, revision, raft_term: 2 }
}

fn hub(options: Options) -> (Arc<Shelf>, Arc<Hub>) {
    let shelf = Arc::new(Shelf::default());
    let hub = Arc::new(Hub::new(shelf.clone(), header, options));
    (shelf, hub)
}

/// Applies operations as one revision and publishes it, as the raft thread does.
fn write(shelf: &Shelf, hub: &Hub, ops: &[Op<'_>]) -> i64 {
    let batch = shelf.apply(ops).expect("the operations change something");
    hub.publish(std::slice::from_ref(&batch), batch.revision);
    batch.revision
}

#[derive(Debug, Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A client of one stream.
struct Client {
    stream: WatchStream<ReceiverStream<Result<pb::WatchRequest, Status>>>,
    requests: Option<mpsc::Sender<Result<pb::WatchRequest, Status>>>,
    alarm: Arc<Alarm>,
}

impl Client {
    fn new(hub: &Arc<Hub>) -> Self {
        Self::with(hub, StreamOptions::default())
    }

    fn with(hub: &Arc<Hub>, options: StreamOptions) -> Self {
        let (requests, inbound) = mpsc::channel(4096);
        let stream = hub.stream(ReceiverStream::new(inbound), options);
        Self { stream, requests: Some(requests), alarm: Arc::default() }
    }

    fn send(&self, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.as_ref().unwrap().try_send(Ok(request)).unwrap();
    }

    fn watch(&self, request: pb::WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(request));
    }

    fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
    }

    fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    }

    fn poll(&mut self) -> Poll<Option<Result<pb::WatchResponse, Status>>> {
        let waker = Waker::from(self.alarm.clone());
        loop {
            self.alarm.0.store(false, Ordering::SeqCst);
            let poll = Pin::new(&mut self.stream).poll_next(&mut Context::from_waker(&waker));
            // A stream that gave up its turn woke itself.
            if poll.is_ready() || !self.woken() {
                return poll;
            }
        }
    }

    fn woken(&self) -> bool {
        self.alarm.0.load(Ordering::SeqCst)
    }

    /// The next response, which has to be there.
    fn next(&mut self) -> pb::WatchResponse {
        match self.poll() {
            Poll::Ready(Some(Ok(response))) => response,
            other => panic!("no response but {other:?}"),
        }
    }

    /// All responses that are there.
    fn drain(&mut self) -> Vec<pb::WatchResponse> {
        let mut responses = Vec::new();
        while let Poll::Ready(Some(Ok(response))) = self.poll() {
            responses.push(response);
        }
        responses
    }

    fn end(&mut self) -> Status {
        match self.poll() {
            Poll::Ready(Some(Err(status))) => {
                assert!(matches!(self.poll(), Poll::Ready(None)), "nothing follows an error");
                status
            }
            other => panic!("not ended but {other:?}"),
        }
    }
}

fn key(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

fn range(key: &str, range_end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { range_end: range_end.to_owned().into(), ..self::key(key) }
}

/// Everything on and after a revision.
fn from(start_revision: i64, request: pb::WatchCreateRequest) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { start_revision, ..request }
}
