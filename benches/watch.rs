//! What an event costs the server: from `Hub::publish` to encoded responses, and the same over gRPC on loopback.
//!
//! `cargo bench --bench watch`. Prints nanoseconds of CPU per delivery.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use kelson::clock::Clock;
use kelson::proto::etcdserverpb as pb;
use kelson::proto::etcdserverpb::watch_client::WatchClient;
use kelson::proto::etcdserverpb::watch_request::RequestUnion;
use kelson::proto::etcdserverpb::watch_server::WatchServer;
use kelson::proto::{Put, Record};
use kelson::rpc::watch::WatchService;
use kelson::state::{Change, ChangeKind, EventBatch};
use kelson::watch::{CompactedAt, History, Hub, Options, StreamOptions};
use prost::Message;
use tonic::Status;

/// A state whose history nobody needs.
#[derive(Default)]
struct Tip(AtomicI64);

impl History for Tip {
    fn revision(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn compact_revision(&self) -> i64 {
        0
    }

    fn history(&self, _: i64, _: i64, _: usize, _: usize) -> Result<Vec<Arc<EventBatch>>, CompactedAt> {
        Ok(Vec::new())
    }
}

fn header(revision: i64) -> pb::ResponseHeader {
    pb::ResponseHeader { cluster_id: 0xcdf8_181e_3277_8ddb, member_id: 0x8e9e_05c5_2164_694d, revision, raft_term: 2 }
}

struct Writer {
    tip: Arc<Tip>,
    hub: Arc<Hub>,
    value: Vec<u8>,
}

impl Writer {
    fn new(value_bytes: usize) -> Self {
        let tip = Arc::new(Tip::default());
        let hub = Arc::new(Hub::new(tip.clone(), header, Options::default()));
        Self { tip, hub, value: vec![b'x'; value_bytes] }
    }

    fn write(&self, key: &[u8]) {
        let mod_revision = self.tip.0.load(Ordering::Relaxed) + 1;
        let put = Put { key, value: &self.value, create_revision: mod_revision, mod_revision, version: 1, lease: 0 };
        let change = Change { kind: ChangeKind::Put, record: Record::put(put), previous: None };
        let batch = Arc::new(EventBatch { revision: mod_revision, changes: vec![change] });
        self.tip.0.store(mod_revision, Ordering::Relaxed);
        self.hub.publish(&[batch], mod_revision);
    }
}

fn create(key: impl Into<Bytes>, range_end: &'static str) -> pb::WatchRequest {
    let request = pb::WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) }
}

/// Polls a stream dry as tonic's encoder does; gives back how many responses there were.
fn drain(stream: &mut (impl Stream<Item = Result<pb::WatchResponse, Status>> + Unpin), out: &mut BytesMut) -> usize {
    let mut context = Context::from_waker(Waker::noop());
    let mut responses = 0;
    while let Poll::Ready(response) = Pin::new(&mut *stream).poll_next(&mut context) {
        let response = response.expect("open").expect("no error");
        let len = response.encoded_len();
        out.reserve(5 + len);
        out.put_u8(0);
        out.put_u32(len as u32);
        response.encode_raw(out);
        if out.len() >= 32 << 10 {
            out.clear();
        }
        responses += 1;
    }
    responses
}

fn fan_out(clock: &Clock, streams: usize, watchers: usize, value_bytes: usize) {
    const WRITES: usize = 2000;
    let writer = Writer::new(value_bytes);
    let mut out = BytesMut::with_capacity(64 << 10);
    let mut open: Vec<_> = (0..streams)
        .map(|_| {
            let requests = (0..watchers).map(|_| Ok(create("/registry/pods/", "/registry/pods0"))).collect::<Vec<_>>();
            writer.hub.stream(stream::iter(requests).chain(stream::pending()), StreamOptions::default())
        })
        .collect();
    open.iter_mut().for_each(|stream| assert_eq!(drain(stream, &mut out), watchers));
    let mut publish = Vec::with_capacity(WRITES);
    let started = thread_cpu();
    for _ in 0..WRITES {
        let before = clock.now();
        writer.write(b"/registry/pods/default/web-0");
        publish.push((clock.now() - before).as_nanos());
        let delivered: usize = open.iter_mut().map(|stream| drain(stream, &mut out)).sum();
        assert_eq!(delivered, streams * watchers);
    }
    let nanos = thread_cpu() - started;
    publish.sort_unstable();
    println!(
        "in memory: {streams:5} streams x {watchers:4} watchers, {value_bytes:4} B: {:5} ns a delivery, write p50 {:6} ns",
        nanos / (WRITES * streams * watchers) as u64,
        publish[WRITES / 2],
    );
}

fn publish_with_watched_keys(keys: usize, ranges: bool) {
    const WRITES: usize = 200_000;
    let writer = Writer::new(256);
    let key = |n: usize| format!("/registry/pods/default/web-{n:06}");
    let requests: Vec<_> = (0..keys).map(|n| Ok(create(key(n), if ranges { "/registry/pods0" } else { "" }))).collect();
    let mut out = BytesMut::new();
    let mut stream = writer.hub.stream(stream::iter(requests).chain(stream::pending()), StreamOptions::default());
    drain(&mut stream, &mut out);
    let started = thread_cpu();
    for _ in 0..WRITES {
        writer.write(b"/registry/pods/a");
    }
    let nanos = thread_cpu() - started;
    let what = if ranges { "ranges" } else { "keys" };
    println!("write beside {keys:6} watched {what}: {:5} ns", nanos / WRITES as u64);
}

/// CPU time of the calling thread, nanoseconds.
fn thread_cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}

/// One server thread, as an io thread of the member, which also writes; clients on another.
fn over_grpc(connections: usize, streams: usize, watchers: usize, value_bytes: usize) {
    const WRITES: usize = 300;
    let writer = Writer::new(value_bytes);
    let hub = writer.hub.clone();
    let (ports, port) = std::sync::mpsc::sync_channel(1);
    let (ready, go) = tokio::sync::mpsc::channel::<()>(1);
    let server = std::thread::spawn(move || serve(writer, ports, go, WRITES));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let address = format!("http://127.0.0.1:{}", port.recv().expect("port"));
    let endpoint = tonic::transport::Endpoint::from_shared(address).expect("address");
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let client = endpoint.connect().await.map(WatchClient::new).expect("connect");
            for _ in 0..streams {
                let requests: Vec<_> = (0..watchers).map(|_| create("/registry/pods/", "/registry/pods0")).collect();
                let mut client = client.clone();
                tasks.push(tokio::spawn(async move {
                    let requests = stream::iter(requests).chain(stream::pending());
                    let mut responses = client.watch(requests).await.expect("watch").into_inner();
                    let mut events = 0;
                    while events < WRITES * watchers {
                        events += responses.message().await.expect("response").expect("open").events.len();
                    }
                }));
            }
        }
        while hub.watchers() < connections * streams * watchers {
            tokio::task::yield_now().await;
        }
        ready.send(()).await.expect("server");
        for task in tasks {
            task.await.expect("client");
        }
    });
    drop((runtime, ready));
    let nanos = server.join().expect("server");
    println!(
        "over gRPC: {connections:4} connections x {streams:3} streams x {watchers:3} watchers, {value_bytes:4} B: {:5} ns of server CPU a delivery",
        nanos / (WRITES * connections * streams * watchers) as u64
    );
}

fn serve(
    writer: Writer,
    ports: std::sync::mpsc::SyncSender<u16>,
    mut go: tokio::sync::mpsc::Receiver<()>,
    writes: usize,
) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        ports.send(listener.local_addr().expect("address").port()).expect("client");
        let service = TowerToHyperService::new(WatchServer::new(WatchService::new(writer.hub.clone())));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).expect("nodelay");
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(socket), service.clone()));
            }
        });
        go.recv().await.expect("clients");
        let before = thread_cpu();
        for _ in 0..writes {
            writer.write(b"/registry/pods/default/web-0");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        // The clients hang up when they have all.
        while go.recv().await.is_some() {}
        thread_cpu() - before
    })
}

fn main() {
    let clock = Clock::system();
    for value_bytes in [256, 1024] {
        fan_out(&clock, 10, 100, value_bytes);
        fan_out(&clock, 1000, 1, value_bytes);
    }
    for keys in [0, 1, 10_000] {
        publish_with_watched_keys(keys, false);
    }
    publish_with_watched_keys(10_000, true);
    over_grpc(1, 10, 100, 256);
    over_grpc(1, 100, 1, 1024);
    over_grpc(10, 1, 100, 1024);
    over_grpc(100, 1, 1, 1024);
}
