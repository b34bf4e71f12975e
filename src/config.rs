//! What an operator may choose: [`Config`], and how it is made from flags, the environment or a file.
//!
//! Reading is a pure function of its arguments ([`Config::from_args`]); nothing here listens, opens or starts
//! anything. `main` makes a `Config`, every other module reads it.

mod args;
mod draft;
mod file;
mod flag;
pub mod flags;
pub mod gates;
pub mod help;
pub mod ids;
pub mod logging;
mod number;
pub mod tls;
pub mod url;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use args::{Error, Parsed};
pub use gates::FeatureGates;
pub use tls::{TlsConfig, TlsVersion};
pub use url::{Address, Scheme, Url};

/// The etcd release whose behaviour clients are promised; what `/version` and `Maintenance.Status` report.
pub const ETCD_VERSION: &str = "3.7.3";
/// The etcd minor release that the cluster as a whole speaks.
pub const ETCD_CLUSTER_VERSION: &str = "3.7.0";

/// Used when `--quota-backend-bytes` is 0, as etcd.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

/// All the choices of one member. Fields are named after etcd's flags and mean what they mean there, unless said.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The member's name in `initial_cluster`.
    pub name: String,
    /// Where the member's files are; `None` keeps everything in memory and nothing over a restart.
    pub data_dir: Option<PathBuf>,
    /// Where the Raft log is, when not below `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Start as the only member of a new cluster, with the data that is there.
    pub force_new_cluster: bool,
    /// Answer before the log is on disk. Loses acknowledged writes when the machine stops.
    pub unsafe_no_fsync: bool,

    /// gRPC, and HTTP too unless `listen_client_http_urls` is set.
    pub listen_client_urls: Vec<Url>,
    /// HTTP only; when set, `listen_client_urls` serve gRPC only.
    pub listen_client_http_urls: Vec<Url>,
    /// `/metrics` and the health pages.
    pub listen_metrics_urls: Vec<Url>,
    /// What other members connect to.
    pub listen_peer_urls: Vec<Url>,
    /// What this member tells clients to use.
    pub advertise_client_urls: Vec<Url>,
    /// What this member tells the others to use; also decides its id.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Members by name at the first start of the cluster.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// Whether a first start makes a cluster or joins one.
    pub initial_cluster_state: ClusterState,
    /// Enters the ids, so that clusters made alike are not mistaken for each other.
    pub initial_cluster_token: String,

    /// TLS of `listen_client_urls`, `listen_client_http_urls` and `listen_metrics_urls`, where those say https.
    pub client_tls: TlsConfig,
    /// TLS between members, where their URLs say https.
    pub peer_tls: TlsConfig,
    /// The oldest version of TLS that is spoken.
    pub tls_min_version: TlsVersion,
    /// The newest; `None` is no limit.
    pub tls_max_version: Option<TlsVersion>,
    /// Names out of [`tls::CIPHER_SUITES`]; empty is all. As with etcd, those of TLS 1.3 are always on.
    pub cipher_suites: Vec<&'static str>,
    /// How long a certificate made by `auto_tls` is valid, in years.
    pub self_signed_cert_validity_years: u32,

    /// A leader's heartbeat, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Silence after which a follower stands for election, in milliseconds.
    pub election_timeout_ms: u64,
    /// Ask for votes before raising the term.
    pub pre_vote: bool,
    /// Refuse membership changes that would lose quorum.
    pub strict_reconfig_check: bool,
    /// Most learners in a cluster.
    pub max_learners: usize,
    /// Applied entries between two snapshots.
    pub snapshot_count: u64,
    /// Log entries kept behind a snapshot for slow followers.
    pub snapshot_catchup_entries: u64,

    /// Most bytes that the store may take before it refuses writes; `None` is no limit.
    pub quota_backend_bytes: Option<u64>,
    /// What is compacted without being asked.
    pub auto_compaction: AutoCompaction,
    /// Between two comparisons of all members' hashes; zero is never.
    pub corrupt_check_time: Duration,
    /// Between two comparisons of compaction hashes, when that gate is on.
    pub compact_hash_check_time: Duration,

    /// Most operations in one transaction, in each of its lists.
    pub max_txn_ops: usize,
    /// Most bytes of one request, without gRPC's overhead.
    pub max_request_bytes: usize,
    /// Most streams of one client connection.
    pub max_concurrent_streams: u32,
    /// Between two pings of a silent client; zero is never.
    pub grpc_keepalive_interval: Duration,
    /// How long a client may take to answer a ping before it is closed.
    pub grpc_keepalive_timeout: Duration,
    /// SO_REUSEPORT on listeners.
    pub socket_reuse_port: bool,
    /// SO_REUSEADDR on listeners.
    pub socket_reuse_address: bool,
    /// Between two progress notifications on an idle watch that asked for them.
    pub watch_progress_notify_interval: Duration,
    /// Serve the JSON gateway, once a release has it.
    pub enable_grpc_gateway: bool,
    /// Origins that get CORS headers; empty or `*` is all.
    pub cors: Vec<String>,
    /// Host names that plain HTTP requests may name; empty or `*` is all.
    pub host_whitelist: Vec<String>,

    /// How much is measured.
    pub metrics: MetricsLevel,
    /// A unary request that takes longer is logged.
    pub warning_unary_request_duration: Duration,
    /// An apply that takes longer is logged.
    pub warning_apply_duration: Duration,
    /// What is logged, how and where.
    pub log: Log,
    /// etcd's switches for features.
    pub feature_gates: FeatureGates,

    /// Threads that serve connections; 0 is one for each two cores. Kelson's own.
    pub io_threads: usize,
}

/// Whether a first start makes a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Make the cluster of `initial_cluster`.
    New,
    /// Join the cluster that is there.
    Existing,
}

/// What is compacted without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Nothing.
    Off,
    /// All that is older than this.
    Periodic(Duration),
    /// All but this many revisions.
    Revision(i64),
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsLevel {
    /// Counters and gauges.
    Basic,
    /// Also how long every gRPC method takes.
    Extensive,
}

/// What is logged, how and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// How a line looks; `None` is JSON, or for people when the output is a terminal.
    pub format: Option<LogFormat>,
    /// Where lines go; each gets every line.
    pub outputs: Vec<LogOutput>,
}

/// etcd's log levels. `Panic` and `Fatal` write errors only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Console,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error; etcd's `default` and `stderr`.
    Stderr,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

impl Default for Config {
    /// etcd's defaults: data in `default.etcd`, clients on 127.0.0.1:2379.
    fn default() -> Self {
        let client = || vec![local_url(2379)];
        let peer = || vec![local_url(2380)];
        Self {
            name: "default".into(),
            data_dir: Some("default.etcd".into()),
            wal_dir: None,
            force_new_cluster: false,
            unsafe_no_fsync: false,
            listen_client_urls: client(),
            listen_client_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            listen_peer_urls: peer(),
            advertise_client_urls: client(),
            initial_advertise_peer_urls: peer(),
            initial_cluster: BTreeMap::from([("default".into(), peer())]),
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".into(),
            client_tls: TlsConfig::default(),
            peer_tls: TlsConfig::default(),
            tls_min_version: TlsVersion::Tls12,
            tls_max_version: None,
            cipher_suites: Vec::new(),
            self_signed_cert_validity_years: 1,
            heartbeat_interval_ms: 100,
            election_timeout_ms: 1000,
            pre_vote: true,
            strict_reconfig_check: true,
            max_learners: 1,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            quota_backend_bytes: Some(QUOTA_BYTES_DEFAULT),
            auto_compaction: AutoCompaction::Off,
            corrupt_check_time: Duration::ZERO,
            compact_hash_check_time: Duration::from_secs(60),
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            grpc_keepalive_interval: Duration::from_secs(2 * 60 * 60),
            grpc_keepalive_timeout: Duration::from_secs(20),
            socket_reuse_port: false,
            socket_reuse_address: false,
            watch_progress_notify_interval: Duration::from_secs(10 * 60),
            enable_grpc_gateway: true,
            cors: vec!["*".into()],
            host_whitelist: vec!["*".into()],
            metrics: MetricsLevel::Basic,
            warning_unary_request_duration: Duration::from_millis(300),
            warning_apply_duration: Duration::from_millis(100),
            log: Log { level: LogLevel::Info, format: None, outputs: vec![LogOutput::Stderr] },
            feature_gates: FeatureGates::default(),
            io_threads: 0,
        }
    }
}

impl Config {
    /// A member for tests and for `kelson dev`: in memory only, on a free port of 127.0.0.1, quiet, no peers' port.
    pub fn for_test() -> Self {
        Self {
            data_dir: None,
            listen_client_urls: vec![Url::parse("http://127.0.0.1:0").expect("a literal")],
            listen_peer_urls: Vec::new(),
            io_threads: 1,
            log: Log { level: LogLevel::Error, format: None, outputs: vec![LogOutput::Off] },
            ..Self::default()
        }
    }
}

/// As etcd's defaults are written.
fn local_url(port: u16) -> Url {
    Url::parse(&format!("http://localhost:{port}")).expect("a valid URL by construction")
}
