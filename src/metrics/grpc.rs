//! Calls by method and code, as go-grpc-prometheus counts them for etcd.
//!
//! Every method of `proto/` and of gRPC's health service stands at zero for every code from the start: a rate cannot
//! see an error that makes its own series. A method's counters are looked up once, when its service is built.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use prost::Message;
use tonic::Code;

use super::Maker;

/// gRPC's codes by number, as Go names them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// gRPC's health service, which is not in `proto/`: (method, answers with a stream).
const HEALTH: [(&str, bool); 3] = [("Check", false), ("List", false), ("Watch", true)];
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";

/// Counters of all methods.
pub struct Grpc {
    /// By path, `/etcdserverpb.KV/Put`.
    methods: HashMap<String, Arc<GrpcMethod>>,
}

/// Counters of one method. Counting is one atomic addition each.
pub struct GrpcMethod {
    /// `/etcdserverpb.KV/Put`.
    pub path: String,
    /// Calls that began.
    pub started: IntCounter,
    /// Messages that came in; for a unary call the request.
    pub received: IntCounter,
    /// Messages that went out; for a unary call the answer, not an error.
    pub sent: IntCounter,
    handled: [IntCounter; CODES.len()],
    /// How long calls take, with `--metrics=extensive`.
    seconds: Option<Histogram>,
}

impl GrpcMethod {
    /// Counts a call that ended with `code` after `duration`.
    pub fn handled(&self, code: Code, duration: Duration) {
        self.handled[code as usize].inc();
        if let Some(seconds) = &self.seconds {
            seconds.observe(duration.as_secs_f64());
        }
    }
}

impl Grpc {
    /// Makes the counters of every method; `timed` also measures how long calls take.
    pub(super) fn new(maker: &Maker, timed: bool) -> Self {
        const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
        let started = maker.counters("grpc_server_started_total", "Calls that began.", &LABELS);
        let received = maker.counters("grpc_server_msg_received_total", "Messages received.", &LABELS);
        let sent = maker.counters("grpc_server_msg_sent_total", "Messages sent.", &LABELS);
        let [kind, service, method] = LABELS;
        let handled = maker.counters(
            "grpc_server_handled_total",
            "Calls that ended, well or not.",
            &[kind, service, method, "grpc_code"],
        );
        let seconds = timed.then(|| {
            let buckets = prometheus::DEFAULT_BUCKETS.to_vec();
            let help = "How long calls take, in seconds.";
            let options = prometheus::HistogramOpts::new("grpc_server_handling_seconds", help).buckets(buckets);
            maker.register(prometheus::HistogramVec::new(options, &LABELS))
        });
        let counters = |kind: &str, service: &str, method: &str| {
            let labels = [kind, service, method];
            GrpcMethod {
                path: format!("/{service}/{method}"),
                started: started.with_label_values(&labels),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                handled: CODES.map(|code| handled.with_label_values(&[kind, service, method, code])),
                seconds: seconds.as_ref().map(|seconds| seconds.with_label_values(&labels)),
            }
        };
        let methods = methods()
            .into_iter()
            .map(|(service, method, kind)| {
                (format!("/{service}/{method}"), Arc::new(counters(kind, &service, &method)))
            })
            .collect();
        Self { methods }
    }

    /// The counters of the method at `path`, such as `/etcdserverpb.KV/Put`; `None` for a method that is not served.
    pub fn method(&self, path: &str) -> Option<&Arc<GrpcMethod>> {
        self.methods.get(path)
    }
}

/// All methods as (service, method, type).
fn methods() -> Vec<(String, String, &'static str)> {
    let files = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTORS).expect("build.rs encoded the set");
    let mut methods = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| {
                (name.clone(), method.name().to_owned(), kind(method.client_streaming(), method.server_streaming()))
            }));
        }
    }
    let health = HEALTH.map(|(method, stream)| (HEALTH_SERVICE.to_owned(), method.to_owned(), kind(false, stream)));
    methods.extend(health);
    methods
}

fn kind(client_streams: bool, server_streams: bool) -> &'static str {
    match (client_streams, server_streams) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    }
}
