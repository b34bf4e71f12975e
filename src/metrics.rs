//! What a member counts, under the names, labels and buckets of etcd 3.7, so that its dashboards and alerts keep
//! working.
//!
//! One [`Metrics`] belongs to one server; there is no global registry, so several servers may share a process. Whoever
//! does the work counts it; figures that mirror other state are filled in by the server's refresh when somebody reads
//! them. Metrics of bbolt, of Go's runtime and of etcd's proxies are left out, since nothing here would move them.

mod grpc;
pub mod peers;
mod process;
mod requests;

use std::sync::OnceLock;

use parking_lot::Mutex;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use grpc::{Grpc, GrpcMethod};
pub use peers::Peers;
pub use requests::{ClientRequests, Op, Timings};

use crate::config::{Config, ETCD_CLUSTER_VERSION, ETCD_VERSION, MetricsLevel};
use process::Process;

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    /// Raft, requests and the member itself.
    pub server: Server,
    /// Keys, revisions and watches.
    pub mvcc: Mvcc,
    /// The log, the checkpoint and snapshots.
    pub disk: Disk,
    /// Leases.
    pub lease: Lease,
    /// Bytes to and from clients.
    pub network: Network,
    /// What goes to and comes from other members.
    pub peers: Peers,
    /// Health pages.
    pub health: Health,
    /// Calls by method and code.
    pub grpc: Grpc,
    process: Process,
    refresh: OnceLock<Refresh>,
    // Guards the figures that mirror other state against a second reader, who would add a difference twice.
    rendering: Mutex<()>,
}

type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// Raft, requests and the member itself.
#[expect(missing_docs, reason = "the help text of each says it, below")]
pub struct Server {
    pub has_leader: IntGauge,
    pub is_leader: IntGauge,
    pub is_learner: IntGauge,
    pub leader_changes_seen: IntCounter,
    pub heartbeat_send_failures: IntCounter,
    pub learner_promote_successes: IntCounter,
    /// By `Reason`, etcd's text of the refusal.
    pub learner_promote_failures: IntCounterVec,
    pub proposals_committed: IntGauge,
    pub proposals_applied: IntGauge,
    pub proposals_pending: IntGauge,
    pub proposals_failed: IntCounter,
    pub read_indexes_failed: IntCounter,
    pub slow_read_indexes: IntCounter,
    pub slow_apply: IntCounter,
    pub snapshot_apply_in_progress: IntGauge,
    pub quota_backend_bytes: IntGauge,
    pub auth_revision: IntGauge,
    /// By `op`, `success` and `version` (`v3`).
    pub apply_duration_seconds: Timings,
    /// By `success` and `type`.
    pub request_duration_seconds: Timings,
    /// By `success`.
    pub range_duration_seconds: Timings,
    /// By `client_api_version` and `type` (`unary` or `stream`).
    pub client_requests: ClientRequests,
    id: IntGaugeVec,
}

/// Keys, revisions and watches.
#[expect(missing_docs, reason = "the help text of each says it, below")]
pub struct Mvcc {
    pub put: IntCounter,
    pub delete: IntCounter,
    pub range: IntCounter,
    pub txn: IntCounter,
    pub keys: IntGauge,
    pub current_revision: IntGauge,
    pub compact_revision: IntGauge,
    pub total_put_bytes: IntGauge,
    pub db_total_bytes: IntGauge,
    pub db_in_use_bytes: IntGauge,
    pub db_open_read_transactions: IntGauge,
    pub db_compaction_keys: IntCounter,
    pub db_compaction_last: IntGauge,
    pub db_compaction_pause_milliseconds: Histogram,
    pub db_compaction_total_milliseconds: Histogram,
    pub index_compaction_pause_milliseconds: Histogram,
    pub hash_seconds: Histogram,
    pub hash_rev_seconds: Histogram,
    pub events: IntCounter,
    pub pending_events: IntGauge,
    pub watchers: IntGauge,
    pub watch_streams: IntGauge,
    pub slow_watchers: IntGauge,
}

/// The log, the checkpoint and snapshots.
#[expect(missing_docs, reason = "the help text of each says it, below")]
pub struct Disk {
    pub wal_fsync_seconds: Histogram,
    pub wal_write_seconds: Histogram,
    pub wal_write_bytes: IntGauge,
    /// The checkpoint's flush has the place of bbolt's commit.
    pub backend_commit_seconds: Histogram,
    pub backend_snapshot_seconds: Histogram,
    pub backend_defrag_seconds: Histogram,
    pub defrag_inflight: IntGauge,
    pub snap_fsync_seconds: Histogram,
    pub snap_db_fsync_seconds: Histogram,
    pub snap_db_save_seconds: Histogram,
    pub snap_save_seconds: Histogram,
    pub snap_save_marshalling_seconds: Histogram,
}

/// Leases.
#[expect(missing_docs, reason = "the help text of each says it, below")]
pub struct Lease {
    pub granted: IntCounter,
    pub renewed: IntCounter,
    pub revoked: IntCounter,
    pub expired: IntCounter,
    pub ttl_seconds: Histogram,
}

/// Bytes to and from clients.
#[expect(missing_docs, reason = "the help text of each says it, below")]
pub struct Network {
    pub client_received_bytes: IntCounter,
    pub client_sent_bytes: IntCounter,
}

/// Health pages.
#[expect(missing_docs, reason = "the help text of each says it, below")]
pub struct Health {
    pub success: IntCounter,
    pub failures: IntCounter,
    /// By `name` and `type` (`livez` or `readyz`); 1 is well.
    pub check: GaugeVec,
    /// By `name`, `status` (`success` or `error`) and `type`.
    pub checks: IntCounterVec,
}

impl Metrics {
    /// Metrics of a member with these choices, all at zero.
    pub fn new(config: &Config) -> Self {
        let maker = Maker(Registry::new());
        let metrics = Self {
            server: Server::new(&maker),
            mvcc: Mvcc::new(&maker),
            disk: Disk::new(&maker),
            lease: Lease::new(&maker),
            network: Network::new(&maker),
            peers: Peers::new(&maker),
            health: Health::new(&maker),
            grpc: Grpc::new(&maker, config.metrics == MetricsLevel::Extensive),
            process: Process::new(&maker),
            refresh: OnceLock::new(),
            rendering: Mutex::default(),
            registry: maker.0.clone(),
        };
        let quota = config.quota_backend_bytes.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        metrics.server.quota_backend_bytes.set(quota);
        metrics.describe(&maker, config);
        metrics
    }

    /// Gives the function that fills in what mirrors other state, before each rendering. The first one stays.
    pub fn set_refresh(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.refresh.get_or_init(|| Box::new(refresh));
    }

    /// Names the member, once its id is known.
    pub fn set_member_id(&self, id: u64) {
        self.server.id.reset();
        self.server.id.with_label_values(&[&format!("{id:x}")]).set(1);
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let _one_at_a_time = self.rendering.lock();
        if let Some(refresh) = self.refresh.get() {
            refresh(self);
        }
        self.process.refresh();
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("a registry's families are complete")
    }

    /// Facts that do not change: versions and gates.
    fn describe(&self, maker: &Maker, config: &Config) {
        let version =
            maker.gauges("etcd_server_version", "Which etcd release this member acts as.", &["server_version"]);
        version.with_label_values(&[ETCD_VERSION]).set(1);
        let cluster =
            maker.gauges("etcd_cluster_version", "Which etcd release the cluster acts as.", &["cluster_version"]);
        let minor = ETCD_CLUSTER_VERSION.rsplit_once('.').map_or(ETCD_CLUSTER_VERSION, |(minor, _)| minor);
        cluster.with_label_values(&[minor]).set(1);
        let own = maker.gauges("kelson_build_info", "Which kelson this is.", &["version"]);
        own.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let gates = maker.gauges("etcd_server_feature_enabled", "Whether a feature gate is on.", &["name", "stage"]);
        for (gate, on) in config.feature_gates.iter() {
            gates.with_label_values(&[gate.name, gate.stage.name()]).set(i64::from(on));
        }
    }
}

impl Server {
    fn new(maker: &Maker) -> Self {
        Self {
            has_leader: maker.gauge("etcd_server_has_leader", "Whether the member knows a leader."),
            is_leader: maker.gauge("etcd_server_is_leader", "Whether the member is the leader."),
            is_learner: maker.gauge("etcd_server_is_learner", "Whether the member is a learner."),
            leader_changes_seen: maker.counter("etcd_server_leader_changes_seen_total", "Changes of leader."),
            heartbeat_send_failures: maker
                .counter("etcd_server_heartbeat_send_failures_total", "Heartbeats that no member answered in time."),
            learner_promote_successes: maker
                .counter("etcd_server_learner_promote_successes", "Learners that became voters."),
            learner_promote_failures: maker.counters(
                "etcd_server_learner_promote_failures",
                "Learners that did not become voters, by the refusal.",
                &["Reason"],
            ),
            proposals_committed: maker
                .gauge("etcd_server_proposals_committed_total", "Index of the last committed log entry."),
            proposals_applied: maker
                .gauge("etcd_server_proposals_applied_total", "Index of the last applied log entry."),
            proposals_pending: maker.gauge("etcd_server_proposals_pending", "Proposals that are not committed yet."),
            proposals_failed: maker.counter("etcd_server_proposals_failed_total", "Proposals that failed."),
            read_indexes_failed: maker
                .counter("etcd_server_read_indexes_failed_total", "Linearizable reads without a read index."),
            slow_read_indexes: maker
                .counter("etcd_server_slow_read_indexes_total", "Read indexes that came late or not at all."),
            slow_apply: maker
                .counter("etcd_server_slow_apply_total", "Applies that took longer than --warning-apply-duration."),
            snapshot_apply_in_progress: maker
                .gauge("etcd_server_snapshot_apply_in_progress_total", "Whether a snapshot is being installed."),
            quota_backend_bytes: maker
                .gauge("etcd_server_quota_backend_bytes", "Most bytes that the store may take; 0 is no limit."),
            auth_revision: maker.gauge("etcd_debugging_auth_revision", "Revision of users and roles."),
            apply_duration_seconds: Timings::applies(maker),
            request_duration_seconds: Timings::requests(maker),
            range_duration_seconds: Timings::ranges(maker),
            client_requests: ClientRequests::new(maker),
            id: maker.gauges("etcd_server_id", "The member's id in hexadecimal.", &["server_id"]),
        }
    }
}

impl Mvcc {
    fn new(maker: &Maker) -> Self {
        Self {
            put: maker.counter("etcd_mvcc_put_total", "Puts applied."),
            delete: maker.counter("etcd_mvcc_delete_total", "Range deletions applied."),
            range: maker.counter("etcd_mvcc_range_total", "Ranges answered."),
            txn: maker.counter("etcd_mvcc_txn_total", "Transactions of more than one operation."),
            keys: maker.gauge("etcd_debugging_mvcc_keys_total", "Keys."),
            current_revision: maker.gauge("etcd_debugging_mvcc_current_revision", "Newest revision."),
            compact_revision: maker.gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction."),
            total_put_bytes: maker
                .gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values that were put."),
            db_total_bytes: maker.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes that the store takes."),
            db_in_use_bytes: maker.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes that the store needs."),
            db_open_read_transactions: maker.gauge("etcd_mvcc_db_open_read_transactions", "Open read transactions."),
            db_compaction_keys: maker
                .counter("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions dropped by compactions."),
            db_compaction_last: maker
                .gauge("etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction; 0 is none yet."),
            db_compaction_pause_milliseconds: maker.histogram(
                "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                "How long one slice of a compaction takes.",
                Buckets(1.0, 2.0, 13),
            ),
            db_compaction_total_milliseconds: maker.histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "How long a whole compaction takes.",
                Buckets(100.0, 2.0, 14),
            ),
            index_compaction_pause_milliseconds: maker.histogram(
                "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
                "How long the index is held by a compaction.",
                Buckets(0.5, 2.0, 14),
            ),
            hash_seconds: maker.histogram(
                "etcd_mvcc_hash_duration_seconds",
                "How long a hash of everything takes.",
                Buckets(0.01, 2.0, 15),
            ),
            hash_rev_seconds: maker.histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "How long a hash at a revision takes.",
                Buckets(0.01, 2.0, 15),
            ),
            events: maker.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
            pending_events: maker.gauge("etcd_debugging_mvcc_pending_events_total", "Events not sent yet."),
            watchers: maker.gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            watch_streams: maker.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams."),
            slow_watchers: maker.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind."),
        }
    }
}

impl Disk {
    fn new(maker: &Maker) -> Self {
        let latency = |name, help| maker.histogram(name, help, Buckets::LATENCY);
        Self {
            wal_fsync_seconds: latency("etcd_disk_wal_fsync_duration_seconds", "How long the log's fsync takes."),
            wal_write_seconds: latency("etcd_disk_wal_write_duration_seconds", "How long a write to the log takes."),
            wal_write_bytes: maker.gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log."),
            backend_commit_seconds: latency(
                "etcd_disk_backend_commit_duration_seconds",
                "How long a flush of the checkpoint takes.",
            ),
            backend_snapshot_seconds: maker.histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "How long sending a snapshot to a client takes.",
                Buckets(0.01, 2.0, 17),
            ),
            backend_defrag_seconds: maker.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "How long a defragmentation takes.",
                Buckets(0.1, 2.0, 13),
            ),
            defrag_inflight: maker.gauge("etcd_disk_defrag_inflight", "Whether a defragmentation runs."),
            snap_fsync_seconds: latency("etcd_snap_fsync_duration_seconds", "How long a snapshot's fsync takes."),
            snap_db_fsync_seconds: latency(
                "etcd_snap_db_fsync_duration_seconds",
                "How long the fsync of a received snapshot takes.",
            ),
            snap_db_save_seconds: maker.histogram(
                "etcd_snap_db_save_total_duration_seconds",
                "How long saving a received snapshot takes.",
                Buckets(0.1, 2.0, 10),
            ),
            snap_save_seconds: latency(
                "etcd_debugging_snap_save_total_duration_seconds",
                "How long saving a snapshot takes.",
            ),
            snap_save_marshalling_seconds: latency(
                "etcd_debugging_snap_save_marshalling_duration_seconds",
                "How long encoding a snapshot takes.",
            ),
        }
    }
}

impl Lease {
    fn new(maker: &Maker) -> Self {
        Self {
            granted: maker.counter("etcd_debugging_lease_granted_total", "Leases granted."),
            renewed: maker.counter("etcd_debugging_lease_renewed_total", "Leases renewed by the leader."),
            revoked: maker.counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
            expired: maker.counter("etcd_debugging_server_lease_expired_total", "Leases that ran out."),
            ttl_seconds: maker.histogram(
                "etcd_debugging_lease_ttl_total",
                "TTLs of granted leases, in seconds.",
                Buckets(1.0, 2.0, 24),
            ),
        }
    }
}

impl Network {
    fn new(maker: &Maker) -> Self {
        Self {
            client_received_bytes: maker
                .counter("etcd_network_client_grpc_received_bytes_total", "Bytes received from gRPC clients."),
            client_sent_bytes: maker
                .counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to gRPC clients."),
        }
    }
}

impl Health {
    fn new(maker: &Maker) -> Self {
        Self {
            success: maker.counter("etcd_server_health_success", "Requests for /health that found the member well."),
            failures: maker.counter("etcd_server_health_failures", "Requests for /health that did not."),
            check: maker.float_gauges("etcd_server_healthcheck", "Result of each check; 1 is well.", &["type", "name"]),
            checks: maker.counters(
                "etcd_server_healthchecks_total",
                "Checks by their result.",
                &["type", "name", "status"],
            ),
        }
    }
}

/// Exponential buckets: first, factor, count.
#[derive(Clone, Copy)]
struct Buckets(f64, f64, usize);

impl Buckets {
    /// 1 ms to 8.2 s.
    const LATENCY: Self = Self(0.001, 2.0, 14);

    fn list(self) -> Vec<f64> {
        std::iter::successors(Some(self.0), |bound| Some(bound * self.1)).take(self.2).collect()
    }
}

/// Makes metrics and registers them. Names are literals of this module, so each is valid and registered once.
struct Maker(Registry);

impl Maker {
    fn register<M: prometheus::core::Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("names and labels of this module are valid");
        self.0.register(Box::new(metric.clone())).expect("this module registers each name once");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Buckets) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.list())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: Buckets) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.list()), labels))
    }
}

#[cfg(test)]
mod tests;
