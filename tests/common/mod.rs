//! A member to test over real gRPC, and the clients to do it with.
//!
//! With `KELSON_TEST_ETCD=PATH` the same tests run against that etcd binary instead, which shows that what they expect
//! is etcd's behaviour; where ours differs on purpose a test asks [`Member::is_etcd`].
#![allow(dead_code, reason = "each test file uses its part")]

pub mod members;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use kelson::proto::{etcdserverpb as pb, mvccpb};
use kelson::{Config, Server};
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::request_op::Request;
use pb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

/// Longer than anything here takes on a busy machine; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running member.
pub struct Member {
    pub endpoint: String,
    channel: Channel,
    running: Running,
}

enum Running {
    Kelson(Server),
    Etcd(Etcd),
}

struct Etcd {
    process: Child,
    _data: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().expect("the process is ours");
        self.process.wait().expect("the process is ours");
    }
}

impl Member {
    /// A fresh member in memory, or etcd.
    pub async fn start() -> Self {
        match std::env::var_os("KELSON_TEST_ETCD") {
            Some(binary) => Self::start_etcd(Path::new(&binary)).await,
            None => Self::start_with(Config::for_test()).await,
        }
    }

    /// Ours with these settings.
    pub async fn start_with(config: Config) -> Self {
        let server = Server::start(config).await.expect("a member starts");
        let endpoint = server.client_endpoint();
        let channel = connect(&endpoint).await;
        Self { endpoint, channel, running: Running::Kelson(server) }
    }

    async fn start_etcd(binary: &Path) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let [client, peer] = free_ports().map(|port| format!("http://127.0.0.1:{port}"));
        let process = Command::new(binary)
            .args(["--log-level", "error", "--data-dir"])
            .arg(data.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let running = Running::Etcd(Etcd { process, _data: data });
        let channel = connect(&client).await;
        Self { endpoint: client, channel, running }
    }

    pub fn is_etcd(&self) -> bool {
        matches!(self.running, Running::Etcd(_))
    }

    /// Stops ours gracefully.
    pub async fn shutdown(self) {
        self.server().shutdown().await;
    }

    /// Ends ours as a killed process ends.
    pub fn kill(self) {
        self.server().kill();
    }

    fn server(self) -> Server {
        match self.running {
            Running::Kelson(server) => server,
            Running::Etcd(_) => panic!("only for ours"),
        }
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone())
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Writes a key; the revision after it.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        let answer = self.kv().put(put(key, value)).await.expect("a put").into_inner();
        answer.header.expect("a header").revision
    }

    /// Reads a range.
    pub async fn range(&self, request: pb::RangeRequest) -> pb::RangeResponse {
        self.kv().range(request).await.expect("a range").into_inner()
    }

    /// A key's value.
    pub async fn get(&self, key: &str) -> Option<String> {
        let answer = self.range(range(key, "")).await;
        answer.kvs.first().map(|kv| text(kv.value()))
    }

    /// Keys of a range as text.
    pub async fn keys(&self, key: &str, range_end: &str) -> Vec<String> {
        keys(&self.range(range(key, range_end)).await)
    }

    pub async fn revision(&self) -> i64 {
        self.range(range("x", "")).await.header.expect("a header").revision
    }
}

async fn connect(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("a URL");
    let connected = async {
        loop {
            if let Ok(channel) = endpoint.connect().await
                && MaintenanceClient::new(channel.clone()).status(pb::StatusRequest {}).await.is_ok()
            {
                return channel;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("the member answers")
}

fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

pub fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn range(key: &str, range_end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), range_end: bytes(range_end), ..Default::default() }
}

pub fn delete(key: &str, range_end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

pub fn put_op(key: &str, value: &str) -> pb::RequestOp {
    op(Request::RequestPut(put(key, value)))
}

pub fn get_op(key: &str) -> pb::RequestOp {
    op(Request::RequestRange(range(key, "")))
}

pub fn delete_op(key: &str, range_end: &str) -> pb::RequestOp {
    op(Request::RequestDeleteRange(delete(key, range_end)))
}

pub fn txn_op(txn: pb::TxnRequest) -> pb::RequestOp {
    op(Request::RequestTxn(txn))
}

pub fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// A transaction without compares.
pub fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

/// `MOD(key) == revision`, Kubernetes' compare.
pub fn unchanged_since(key: &str, revision: i64) -> pb::Compare {
    pb::Compare {
        key: bytes(key),
        target: pb::compare::CompareTarget::Mod.into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the tests write text")
}

pub fn keys(answer: &pb::RangeResponse) -> Vec<String> {
    answer.kvs.iter().map(|kv| text(kv.key())).collect()
}

/// `PUT key=value` or `DELETE key`, and the revision.
pub fn event(event: &mvccpb::Event) -> (String, i64) {
    let kv = event.kv.as_ref().expect("an event has a key");
    let line = match event.r#type() {
        mvccpb::event::EventType::Put => format!("PUT {}={}", text(kv.key()), text(kv.value())),
        mvccpb::event::EventType::Delete => format!("DELETE {}", text(kv.key())),
    };
    (line, kv.mod_revision())
}

/// A stream of requests and answers. etcd sends the head of its answer only with the first message, so that waiting for
/// it must not hold up the first request: a task of its own waits.
pub struct Duplex<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: mpsc::Receiver<Result<A, Status>>,
}

impl<Q: Send + 'static, A: Send + 'static> Duplex<Q, A> {
    pub fn open<F>(call: impl FnOnce(ReceiverStream<Q>) -> F) -> Self
    where
        F: Future<Output = Result<Response<Streaming<A>>, Status>> + Send + 'static,
    {
        let (requests, sent) = mpsc::channel(16);
        let (forward, answers) = mpsc::channel(16);
        let call = call(ReceiverStream::new(sent));
        tokio::spawn(async move {
            let mut streaming = match call.await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(forward.send(Err(status)).await),
            };
            while let Some(answer) = streaming.message().await.transpose() {
                if forward.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Self { requests, answers }
    }

    pub async fn send(&self, request: Q) {
        self.requests.send(request).await.expect("the stream is open");
    }

    /// The next answer, `None` at the stream's end.
    pub async fn next(&mut self) -> Option<Result<A, Status>> {
        tokio::time::timeout(PATIENCE, self.answers.recv()).await.expect("an answer in time")
    }

    /// Ends the client's half; the answers that still come.
    pub async fn finish(self) -> Vec<Result<A, Status>> {
        let Self { requests, mut answers } = self;
        drop(requests);
        let mut rest = Vec::new();
        while let Some(answer) = tokio::time::timeout(PATIENCE, answers.recv()).await.expect("an end in time") {
            rest.push(answer);
        }
        rest
    }
}

/// Code and text of a refusal.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("a refusal");
    (status.code(), status.message().to_owned())
}

/// What `refusal` should give.
pub fn refused(code: Code, text: &str) -> (Code, String) {
    (code, text.to_owned())
}

/// Waits until something has come about.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never came about: {what}"));
}
