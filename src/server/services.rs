//! The services put together over one node: which gRPC service answers which path, counted by method and code, and
//! the tasks that run beside them.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use http_body::Frame;
use hyper::body::Incoming;
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_health::pb::health_server::HealthServer;

use super::dispatch::{Answer, Pages, Services, service_name, unknown_service};
use super::stopwatch::Stopwatch;
use super::unary::{self, Asked};
use super::{leaderless, pages};
use crate::clock::Clock;
use crate::compactor::Compactor;
use crate::config::Config;
use crate::corrupt;
use crate::http;
use crate::lessor::Lessor;
use crate::metrics::{GrpcMethod, Metrics};
use crate::proto::etcdserverpb as pb;
use crate::proto::peer::peer_server;
use crate::raft::peers::MESSAGE_BYTES_MAX;
use crate::raft::{self, Node};
use crate::rpc::maintenance::snapshot::{Copy, SnapshotSource};
use crate::rpc::{self, Limits};
use crate::watch::Hub;

/// The services and their tasks.
pub struct Assembly {
    grpc: Arc<Grpc>,
    peer: Arc<PeerServices>,
    client_pages: Arc<http::Pages>,
    metrics_pages: Arc<http::Pages>,
    peer_pages: Arc<http::Pages>,
    serving: channel::Sender<bool>,
    // Guards the handles until they are stopped.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What other members ask.
struct PeerServices(peer_server::PeerServer<rpc::peer::Peer>);

impl Services for PeerServices {
    fn call(&self, request: Request<Incoming>) -> Answer {
        match service_name(request.uri().path()) {
            "kelson_peer.Peer" => serve(&self.0, request, None),
            _ => Box::pin(std::future::ready(unknown_service(request.uri().path()))),
        }
    }
}

struct Grpc {
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    stopwatch: Arc<Stopwatch>,
    /// Whether there has been no leader for so long that streams that need one end.
    leader_lost: channel::Receiver<bool>,
    kv: pb::kv_server::KvServer<rpc::kv::Kv>,
    /// The same service, for calls of the usual shape.
    kv_itself: Arc<rpc::kv::Kv>,
    message_bytes_max: usize,
    watch: pb::watch_server::WatchServer<rpc::watch::WatchService>,
    lease: pb::lease_server::LeaseServer<rpc::lease::Lease>,
    cluster: pb::cluster_server::ClusterServer<rpc::cluster::Cluster>,
    maintenance: pb::maintenance_server::MaintenanceServer<rpc::maintenance::Maintenance>,
    health: HealthServer<rpc::health::Health>,
    reflection: Box<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>,
}

impl Assembly {
    /// Makes the services of a running node and starts the tasks beside them on `raft`'s runtime.
    pub fn new(
        config: &Arc<Config>,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        node: &Arc<Node>,
        hub: &Arc<Hub>,
        lessor: &Arc<Lessor>,
        raft: &Handle,
    ) -> Self {
        let limits = Limits::from(&**config);
        let message_bytes_max = limits.message_bytes_max();
        let quota = Arc::new(rpc::quota::Quota::new(node.clone(), limits.quota_bytes));
        let (serving, served) = channel::channel(true);
        let (lost, leader_lost) = channel::channel(false);
        let kv = Arc::new(rpc::kv::Kv::new(node.clone(), quota.clone(), limits));
        let lease = rpc::lease::Lease::new(node.clone(), lessor.clone(), quota);
        let maintenance = rpc::maintenance::Maintenance::new(node.clone(), limits, snapshot_source(node));
        macro_rules! sized {
            ($server:expr) => {
                $server.max_decoding_message_size(message_bytes_max).max_encoding_message_size(usize::MAX)
            };
        }
        let grpc = Grpc {
            node: node.clone(),
            metrics: metrics.clone(),
            stopwatch: Arc::new(Stopwatch::new(clock.clone(), config.warning_unary_request_duration)),
            leader_lost,
            kv: sized!(pb::kv_server::KvServer::from_arc(kv.clone())),
            kv_itself: kv,
            message_bytes_max,
            watch: sized!(pb::watch_server::WatchServer::new(rpc::watch::WatchService::new(hub.clone()))),
            lease: sized!(pb::lease_server::LeaseServer::new(lease)),
            cluster: sized!(pb::cluster_server::ClusterServer::new(rpc::cluster::Cluster::new(node.clone()))),
            maintenance: sized!(pb::maintenance_server::MaintenanceServer::new(maintenance)),
            health: HealthServer::new(rpc::health::Health::new(served)),
            reflection: reflection(),
        };
        let expiry = {
            let (lessor, node, grace) = (lessor.clone(), node.clone(), node.leader_deadline());
            raft.spawn(async move { match lessor.run(&node, grace).await {} })
        };
        let mut tasks = vec![expiry, raft.spawn(leaderless::follow(node.clone(), hub.clone(), lost))];
        if let Some(compactor) = Compactor::new(config.auto_compaction, clock.now()) {
            let (node, clock) = (node.clone(), clock.clone());
            tasks.push(raft.spawn(async move { match compactor.run(&node, &clock).await {} }));
        }
        if !config.corrupt_check_time.is_zero() {
            let (node, interval) = (node.clone(), config.corrupt_check_time);
            tasks.push(raft.spawn(async move { match corrupt::run_periodic(&node, interval).await {} }));
        }
        if config.feature_gates.is_on("CompactHashCheck") {
            let (node, interval) = (node.clone(), config.compact_hash_check_time);
            tasks.push(raft.spawn(async move { match corrupt::run_compaction(&node, interval).await {} }));
        }
        pages::mirror(metrics, node, hub);
        let probe = Arc::new(pages::NodeProbe(node.clone()));
        let peer = peer_server::PeerServer::new(rpc::peer::Peer::new(node.clone(), lessor.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self {
            peer: Arc::new(PeerServices(peer)),
            grpc: Arc::new(grpc),
            client_pages: Arc::new(http::Pages::for_clients(config, probe.clone(), metrics.clone())),
            metrics_pages: Arc::new(http::Pages::for_metrics(probe.clone(), metrics.clone())),
            peer_pages: Arc::new(http::Pages::for_peers(probe, metrics.clone())),
            serving,
            tasks: Mutex::new(tasks),
        }
    }

    /// The gRPC services.
    pub fn services(&self) -> Arc<dyn Services> {
        self.grpc.clone()
    }

    /// The service for other members.
    pub fn peer_services(&self) -> Arc<dyn Services> {
        self.peer.clone()
    }

    /// The HTTP pages on the clients' ports.
    pub fn client_pages(&self) -> Arc<dyn Pages> {
        Arc::new(self.client_pages.clone())
    }

    /// The HTTP pages on `--listen-metrics-urls`.
    pub fn metrics_pages(&self) -> Arc<dyn Pages> {
        Arc::new(self.metrics_pages.clone())
    }

    /// The HTTP pages on `--listen-peer-urls`.
    pub fn peer_pages(&self) -> Arc<dyn Pages> {
        Arc::new(self.peer_pages.clone())
    }

    /// Reports not serving from now on and ends the tasks.
    pub fn stop(&self) {
        self.serving.send_replace(false);
        for task in std::mem::take(&mut *self.tasks.lock()) {
            task.abort();
        }
    }
}

/// What `Maintenance.Snapshot` sends: the state written to a file of no name, which goes with its last reader.
fn snapshot_source(node: &Arc<Node>) -> SnapshotSource {
    let node = node.clone();
    Arc::new(move || {
        let file = node.snapshot_file().map_err(|error| error.to_string())?;
        let started = node.meter().clock.now();
        let reader = Timed { reader: file.reader, started, node: node.clone() };
        Ok(Copy { bytes: file.bytes, reader: Box::new(reader) })
    })
}

/// A copy being sent; its end is counted, whether all of it was taken or not, as etcd does.
struct Timed {
    reader: Box<dyn io::Read + Send>,
    started: Duration,
    node: Arc<Node>,
}

impl io::Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let meter = self.node.meter();
        meter.metrics.disk.backend_snapshot_seconds.observe(meter.since(self.started).as_secs_f64());
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Services for Grpc {
    fn call(&self, request: Request<Incoming>) -> Answer {
        let call = match self.begin(&request) {
            Ok(call) => call,
            Err(refusal) => return Box::pin(std::future::ready(tonic::Status::from(refusal).into_http())),
        };
        match service_name(request.uri().path()) {
            "etcdserverpb.KV" => self.call_kv(request, call),
            "etcdserverpb.Watch" => serve(&self.watch, request, call),
            "etcdserverpb.Lease" => serve(&self.lease, request, call),
            "etcdserverpb.Cluster" => serve(&self.cluster, request, call),
            "etcdserverpb.Maintenance" => serve(&self.maintenance, request, call),
            "grpc.health.v1.Health" => serve(&self.health, request, call),
            "grpc.reflection.v1.ServerReflection" => (self.reflection)(request),
            _ => Box::pin(std::future::ready(unknown_service(request.uri().path()))),
        }
    }
}

impl Grpc {
    fn call_kv(&self, request: Request<Incoming>, call: Option<Call>) -> Answer {
        let kv = self.kv_itself.clone();
        match request.uri().path() {
            "/etcdserverpb.KV/Range" => self.unary(request, call, async move |asked| kv.range(asked).await),
            "/etcdserverpb.KV/Put" => self.unary(request, call, async move |asked| kv.put(asked).await),
            "/etcdserverpb.KV/Txn" => self.unary(request, call, async move |asked| kv.txn(asked).await),
            _ => serve(&self.kv, request, call),
        }
    }

    /// Answers a call of the usual shape by `handle`, any other through tonic.
    fn unary<Q, A, F, R>(&self, request: Request<Incoming>, call: Option<Call>, handle: F) -> Answer
    where
        Q: Message + Default + 'static,
        A: Message,
        F: FnOnce(Q) -> R + Send + 'static,
        R: Future<Output = Result<A, rpc::Error>> + Send,
    {
        let (bytes_max, mut service) = (self.message_bytes_max, self.kv.clone());
        Box::pin(async move {
            let response = match unary::read(request, bytes_max).await {
                Asked::Message(asked) => unary::answer(handle(asked).await.map_err(tonic::Status::from)),
                Asked::Other(request) => {
                    let Ok(response) = service.call(*request).await;
                    response
                }
            };
            note_end(response, call)
        })
    }

    /// Counts a call to a method that is known.
    fn begin(&self, request: &Request<Incoming>) -> Result<Option<Call>, rpc::Error> {
        let path = request.uri().path();
        let Some(method) = self.metrics.grpc.method(path) else { return Ok(None) };
        if self.node.is_learner() && !LEARNERS.contains(&path) {
            return Err(rpc::Error::Learner);
        }
        let streams = STREAMS.contains(&path);
        let version = rpc::check::client_api_version(request.headers())?;
        self.metrics.server.client_requests.count(version, streams);
        let needs_leader = rpc::check::requires_leader(request.headers());
        if needs_leader && self.node.leadership().leader.is_none() {
            return Err(raft::Error::NoLeader.into());
        }
        // The hub ends watches by itself, between two answers.
        let leader_lost = (needs_leader && streams && path != WATCH).then(|| self.leader_lost.clone());
        method.started.inc();
        let (method, stopwatch) = (method.clone(), self.stopwatch.clone());
        Ok(Some(Call { method, started: stopwatch.clock.now(), stopwatch, streams, leader_lost }))
    }
}

/// What a member without a vote answers: its own health, copies of its data, and reads that do not ask the leader (`rpc::kv`
/// looks at those).
const LEARNERS: [&str; 5] = [
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.KV/Range",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// The methods that answer with a stream, whose code comes last.
const STREAMS: [&str; 5] = [
    WATCH,
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/grpc.health.v1.Health/Watch",
];

/// A call being counted.
struct Call {
    method: Arc<GrpcMethod>,
    stopwatch: Arc<Stopwatch>,
    started: Duration,
    streams: bool,
    /// What the answer's stream ends by, if the client needs a leader.
    leader_lost: Option<channel::Receiver<bool>>,
}

impl Call {
    fn end(&self, code: Code) {
        let now = self.stopwatch.clock.now();
        let took = now.saturating_sub(self.started);
        self.method.handled(code, took);
        if !self.streams && took > self.stopwatch.expected {
            self.stopwatch.tell(&self.method.path, code, took, now);
        }
    }
}

fn serve<S>(service: &S, request: Request<Incoming>, call: Option<Call>) -> Answer
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    let answer = service.clone().call(request);
    Box::pin(async move {
        let Ok(response) = answer.await;
        note_end(response, call)
    })
}

/// Counts the end of a unary call, or has that of a stream counted when it comes.
fn note_end(mut response: Response<Body>, call: Option<Call>) -> Response<Body> {
    rpc::size_limit::reword_head(response.headers_mut());
    let Some(mut call) = call else { return response };
    let code = response.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    if call.streams && code.is_none() {
        let leader_lost = call.leader_lost.take().map(until_lost);
        return response.map(|body| Body::new(Counted { body, call: Some(call), leader_lost }));
    }
    // A unary answer has its code in the head when it is a refusal; else it is well.
    call.method.received.inc();
    if code.is_none() {
        call.method.sent.inc();
    }
    call.end(code.unwrap_or(Code::Ok));
    response
}

fn reflection() -> Box<dyn Fn(Request<Incoming>) -> Answer + Send + Sync> {
    let service = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::proto::DESCRIPTORS)
        .build_v1()
        .expect("build.rs encoded the descriptors");
    Box::new(move |request| serve(&service, request, None))
}

fn code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}

/// Returns when there has been no leader for too long.
fn until_lost(mut leader_lost: channel::Receiver<bool>) -> Lost {
    Box::pin(async move {
        if leader_lost.wait_for(|&lost| lost).await.is_err() {
            // The member stops, which ends streams in other words.
            std::future::pending::<()>().await;
        }
    })
}

type Lost = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The trailers of a stream that ends for want of a leader.
fn no_leader() -> HeaderMap {
    let (head, _) = tonic::Status::from(rpc::Error::from(raft::Error::NoLeader)).into_http::<Body>().into_parts();
    let mut trailers = head.headers;
    trailers.remove(::http::header::CONTENT_TYPE);
    trailers
}

/// The body of an answer; counts its end, by the trailers' code or as cancelled when the client went away, and ends it
/// itself when the client needs a leader and there is none any more.
struct Counted {
    body: Body,
    call: Option<Call>,
    leader_lost: Option<Lost>,
}

impl Counted {
    fn end(&mut self, trailers: &HeaderMap) {
        if let Some(call) = self.call.take() {
            let code = code(trailers);
            if code == Code::Ok {
                call.method.sent.inc();
            }
            call.end(code);
        }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if let Some(lost) = &mut self.leader_lost
            && lost.as_mut().poll(cx).is_ready()
        {
            (self.leader_lost, self.body) = (None, Body::empty());
            let trailers = no_leader();
            self.end(&trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.end(trailers);
            self.leader_lost = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.end(Code::Cancelled);
        }
    }
}
