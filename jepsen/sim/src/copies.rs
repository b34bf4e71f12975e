//! Requests between members that are handled a second time, later: what TCP never does, and what Raft and kelson's own
//! protocol must stand all the same.
//!
//! It lies between a member's listener and its peer service, and so deals in messages, not in bytes. While a window is open,
//! chance picks some of the unary requests that a slot receives. The copy of one waits in the slot, also when the process
//! ends meanwhile, and comes to whoever serves there when it is due: behind younger messages, the request's own answer,
//! elections, restarts and changes of the membership. Its answer is thrown away.
//!
//! Streams are left alone: answers on that of entries belong to requests by their order alone, so that one more would be
//! taken for the next one's; entries come twice when a stream breaks and is sent again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use jepsen::rng::Rng;
use kelson::proto::peer::ProposeRequest;
use kelson::proto::peer::peer_server::PeerServer;
use kelson::rpc::peer::Peer;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Method, Request, Uri, header::HeaderMap};

use crate::plan::{Mutant, Plan};
use crate::trace::Trace;

/// How much later a copy is handled, at most.
const LATER_MS_MAX: u64 = 3_000;
/// Copies that may wait in a slot; no more are made then.
const WAITING_MAX: usize = 1 << 12;
/// Calls whose requests are streams.
const STREAMS: [&str; 2] = ["/kelson_peer.Peer/Append", "/kelson_peer.Peer/Snapshot"];
const PROPOSE: &str = "/kelson_peer.Peer/Propose";
/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The copies of one slot.
pub struct Copies {
    slot: usize,
    trace: Arc<Trace>,
    mutant: Option<Mutant>,
    // Guards all of it; taken once a request.
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    rng: Rng,
    /// The part of all requests that is copied; `None` while no window is open.
    share: Option<f64>,
    /// By window, the copies that were acted upon.
    handled: Vec<u64>,
    /// By the time when they are due and their number.
    waiting: BTreeMap<(Duration, u64), Waiting>,
    made: u64,
}

struct Waiting {
    window: usize,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Copies {
    /// None yet.
    pub fn new(slot: usize, plan: &Plan, trace: Arc<Trace>) -> Arc<Self> {
        let rng = Rng::new(plan.seed).fork(2000 + slot as u64);
        let inner = Inner { rng, share: None, handled: Vec::new(), waiting: BTreeMap::new(), made: 0 };
        Arc::new(Self { slot, trace, mutant: plan.mutant, inner: Mutex::new(inner), changed: Notify::new() })
    }

    /// From now on this part of the requests is copied.
    pub fn open(&self, share: f64) {
        let mut inner = self.inner.lock();
        inner.share = Some(share);
        inner.handled.push(0);
    }

    /// No more copies are made. Those that wait are still handled.
    pub fn close(&self) {
        self.inner.lock().share = None;
    }

    /// Windows of which at least one copy was acted upon, and all such copies.
    pub fn handled(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.handled.iter().filter(|&&copies| copies > 0).count() as u64, inner.handled.iter().sum())
    }

    /// Lets a request through, and may keep a copy of it.
    pub async fn pass(&self, request: Request<Body>) -> Request<Body> {
        let Some((window, later)) = self.draw(request.uri().path()) else { return request };
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            // Whoever sent it is gone, and the service finds that there is no message.
            return Request::from_parts(head, Body::empty());
        };
        let body = body.to_bytes();
        let waiting = Waiting { window, uri: head.uri.clone(), headers: head.headers.clone(), body: body.clone() };
        let due = self.trace.now() + later;
        {
            let mut inner = self.inner.lock();
            inner.made += 1;
            let number = inner.made;
            inner.waiting.insert((due, number), waiting);
        }
        self.changed.notify_one();
        Request::from_parts(head, Body::new(Full::new(body)))
    }

    /// Whether there is to be a copy: of which window, and how much later.
    fn draw(&self, path: &str) -> Option<(usize, Duration)> {
        let mut inner = self.inner.lock();
        let share = inner.share.filter(|_| !STREAMS.contains(&path) && inner.waiting.len() < WAITING_MAX)?;
        let later = Duration::from_millis(inner.rng.below(LATER_MS_MAX));
        inner.rng.chance(share).then(|| (inner.handled.len() - 1, later))
    }

    /// Gives the service what is due, for as long as the process runs.
    pub async fn run(self: Arc<Self>, service: PeerServer<Peer>) -> Infallible {
        loop {
            let now = self.trace.now();
            let next = self.inner.lock().waiting.first_key_value().map(|((due, _), _)| *due);
            match next {
                Some(due) if due <= now => self.handle_first(service.clone()),
                Some(due) => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(due - now) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    fn handle_first(self: &Arc<Self>, mut service: PeerServer<Peer>) {
        let Some(((_, number), copy)) = self.inner.lock().waiting.pop_first() else { return };
        let Waiting { window, uri, headers, body } = copy;
        let path = uri.path().to_owned();
        self.trace.note(format_args!("{} handles copy {number}, of {path}", self.slot));
        let is_unknown = self.mutant == Some(Mutant::BatchTwice) && path == PROPOSE;
        let body = if is_unknown { of_another_process(&body) } else { body };
        let mut request = Request::new(Body::new(Full::new(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let copies = self.clone();
        // Handlers wait, for a quorum for example, and other copies do not wait for them.
        tokio::spawn(async move {
            let Ok(answer) = service.call(request).await;
            // An error's status is in the head of the answer, a success' behind the message.
            let refusal = answer.headers().get("grpc-status");
            copies.trace.note(format_args!("{} has handled copy {number}: {refusal:?}", copies.slot));
            if refusal.is_none() {
                copies.inner.lock().handled[window] += 1;
            }
        });
    }
}

/// A forwarded batch that apply cannot know again: its origin, with which a proposal begins, is another one.
fn of_another_process(body: &Bytes) -> Bytes {
    let mut request = ProposeRequest::decode(&body[PREFIX_BYTES..]).expect("a member sent it");
    let mut proposal = BytesMut::from(&request.proposal[..]);
    proposal[0] ^= 1;
    request.proposal = proposal.freeze();
    let mut again = BytesMut::from(&body[..1]);
    again.put_u32(request.encoded_len() as u32);
    request.encode(&mut again).expect("the buffer grows");
    again.freeze()
}
