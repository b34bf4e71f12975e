//! `/metrics` of a running member: the series that etcd's alerts and dashboards read are there, and move with what
//! they count.

mod common;

use std::collections::BTreeMap;

use common::members::*;
use common::*;
use kelson::config::ClusterState;
use kelson::proto::etcdserverpb as pb;
use kelson::{Config, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

/// A scrape: values by series, `name{label="value",…}`.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(member: &Member) -> Self {
        Self::at(&member.endpoint).await
    }

    async fn at(endpoint: &str) -> Self {
        let address = endpoint.strip_prefix("http://").unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let samples = answer.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(samples.filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?))).collect())
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no series {series}"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.keys().any(|series| series.split('{').next() == Some(name))
    }
}

/// etcd-mixin and kube-prometheus, but for what is about peers, and what operators look at besides.
const NEEDED: [&str; 47] = [
    "etcd_cluster_version",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_defrag_inflight",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_server_apply_duration_seconds_bucket",
    "etcd_server_client_requests_total",
    "etcd_server_has_leader",
    "etcd_server_health_failures",
    "etcd_server_health_success",
    "etcd_server_id",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_range_duration_seconds_bucket",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_request_duration_seconds_bucket",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_version",
    "grpc_server_handled_total",
    "grpc_server_started_total",
    "os_fd_limit",
    "os_fd_used",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

async fn on_disk() -> (tempfile::TempDir, Member) {
    let dir = tempfile::tempdir().unwrap();
    let member = Member::start_with(Config { data_dir: Some(dir.path().join("m")), ..Config::for_test() }).await;
    (dir, member)
}

#[tokio::test]
async fn a_member_that_has_served_shows_every_series_that_is_read() {
    let (_dir, member) = on_disk().await;
    member.put("k", "v").await;
    member.get("k").await;
    let scrape = Scrape::of(&member).await;
    let missing: Vec<_> = NEEDED.iter().filter(|name| !scrape.has(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for series in ["etcd_server_has_leader", "etcd_server_is_leader", "etcd_server_leader_changes_seen_total"] {
        assert_eq!(scrape.get(series), 1.0, "{series}");
    }
    assert_eq!(scrape.get("etcd_server_quota_backend_bytes"), 2.0 * 1024.0 * 1024.0 * 1024.0);
    assert!(scrape.get("etcd_disk_wal_fsync_duration_seconds_count") > 0.0);
    let indexes = ["etcd_server_proposals_committed_total", "etcd_server_proposals_applied_total"];
    assert!(indexes.iter().all(|series| scrape.get(series) > 1.0));
    until("a checkpoint", async || {
        Scrape::of(&member).await.get("etcd_disk_backend_commit_duration_seconds_count") > 0.0
    })
    .await;
}

#[tokio::test]
async fn keys_leases_and_transactions_are_counted_as_etcd_does() {
    let member = Member::start_with(Config::for_test()).await;
    member.put("a", "1").await;
    member.put("a", "22").await;
    let no_lease = pb::PutRequest { lease: 7, ..put("b", "") };
    assert_eq!(refusal(member.kv().put(no_lease).await).0, Code::NotFound);
    member.get("a").await;
    let future = pb::RangeRequest { revision: 99, ..range("a", "") };
    assert_eq!(refusal(member.kv().range(future).await).0, Code::OutOfRange);
    member.kv().delete_range(delete("a", "c")).await.unwrap();
    member.kv().txn(then(vec![put_op("x", "1"), get_op("x"), delete_op("y", "")])).await.unwrap();
    member.kv().txn(then(vec![get_op("x")])).await.unwrap();
    let lease = |id, ttl| pb::LeaseGrantRequest { id, ttl };
    member.lease().lease_grant(lease(5, 600)).await.unwrap();
    let kept = |id| pb::PutRequest { lease: id, ..put("leased", "") };
    member.kv().put(kept(5)).await.unwrap();
    member.lease().lease_revoke(pb::LeaseRevokeRequest { id: 5 }).await.unwrap();

    let scrape = Scrape::of(&member).await;
    for (series, value) in [
        ("etcd_mvcc_put_total", 4.0),
        ("etcd_mvcc_delete_total", 3.0),
        ("etcd_mvcc_range_total", 4.0),
        ("etcd_mvcc_txn_total", 1.0),
        ("etcd_debugging_mvcc_keys_total", 1.0),
        ("etcd_debugging_mvcc_current_revision", 7.0),
        ("etcd_debugging_lease_granted_total", 1.0),
        ("etcd_debugging_lease_ttl_total_sum", 600.0),
        ("etcd_debugging_lease_revoked_total", 1.0),
        ("etcd_debugging_server_lease_expired_total", 0.0),
        ("etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"}", 3.0),
        ("etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"false\",version=\"v3\"}", 1.0),
        ("etcd_server_apply_duration_seconds_count{op=\"Txn\",success=\"true\",version=\"v3\"}", 1.0),
        ("etcd_server_apply_duration_seconds_count{op=\"LeaseGrant\",success=\"true\",version=\"v3\"}", 1.0),
        ("etcd_server_request_duration_seconds_count{success=\"true\",type=\"Put\"}", 4.0),
        ("etcd_server_request_duration_seconds_count{success=\"false\",type=\"Range\"}", 1.0),
        ("etcd_server_range_duration_seconds_count{success=\"true\"}", 1.0),
        ("etcd_server_proposals_failed_total", 0.0),
        ("etcd_server_proposals_pending", 0.0),
    ] {
        assert_eq!(scrape.get(series), value, "{series}");
    }
    assert!(scrape.get("etcd_debugging_mvcc_total_put_size_in_bytes") > 0.0);

    // A renewed lease and one that runs out.
    member.lease().lease_grant(lease(6, 600)).await.unwrap();
    let mut client = member.lease();
    let mut renewals = Duplex::open(async move |requests| client.lease_keep_alive(requests).await);
    renewals.send(pb::LeaseKeepAliveRequest { id: 6 }).await;
    assert_eq!(renewals.next().await.unwrap().unwrap().ttl, 600);
    member.lease().lease_grant(lease(8, 1)).await.unwrap();
    until("a lease expires", async || {
        Scrape::of(&member).await.get("etcd_debugging_server_lease_expired_total") == 1.0
    })
    .await;
    let scrape = Scrape::of(&member).await;
    assert_eq!(scrape.get("etcd_debugging_lease_renewed_total"), 1.0);
    assert_eq!(scrape.get("etcd_debugging_lease_revoked_total"), 2.0, "one asked for, one at its end");
}

#[tokio::test]
async fn watches_and_maintenance_are_counted() {
    let (_dir, member) = on_disk().await;
    let mut client = member.watch();
    let mut watch = Duplex::open(async move |requests| client.watch(requests).await);
    let create = pb::WatchCreateRequest { key: bytes("k"), ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    watch.send(pb::WatchRequest { request_union: Some(create) }).await;
    assert!(watch.next().await.unwrap().unwrap().created);
    for value in ["1", "2", "3"] {
        member.put("k", value).await;
        assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    }
    until("sent events are counted", async || Scrape::of(&member).await.get("etcd_debugging_mvcc_events_total") == 3.0)
        .await;
    member.kv().compact(pb::CompactionRequest { revision: 4, physical: true }).await.unwrap();
    member.maintenance().hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap();
    member.maintenance().hash(pb::HashRequest {}).await.unwrap();
    member.maintenance().defragment(pb::DefragmentRequest {}).await.unwrap();
    let mut snapshot = member.maintenance().snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    while snapshot.message().await.unwrap().is_some() {}
    until("the end of a snapshot is counted", async || {
        Scrape::of(&member).await.get("etcd_disk_backend_snapshot_duration_seconds_count") == 1.0
    })
    .await;
    let scrape = Scrape::of(&member).await;
    for (series, value) in [
        ("etcd_debugging_mvcc_watch_stream_total", 1.0),
        ("etcd_debugging_mvcc_watcher_total", 1.0),
        ("etcd_debugging_mvcc_slow_watcher_total", 0.0),
        ("etcd_debugging_mvcc_pending_events_total", 0.0),
        ("etcd_debugging_mvcc_compact_revision", 4.0),
        ("etcd_debugging_mvcc_db_compaction_keys_total", 2.0),
        ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", 1.0),
        ("etcd_mvcc_hash_rev_duration_seconds_count", 1.0),
        ("etcd_mvcc_hash_duration_seconds_count", 1.0),
        ("etcd_disk_backend_defrag_duration_seconds_count", 1.0),
        ("etcd_disk_defrag_inflight", 0.0),
    ] {
        assert_eq!(scrape.get(series), value, "{series}");
    }
    assert!(scrape.get("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count") >= 1.0);
    assert!(scrape.get("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count") >= 1.0);
    assert!(scrape.get("etcd_debugging_mvcc_db_compaction_last") > 1.0e9);
}

#[tokio::test]
async fn calls_are_counted_by_the_clients_version_and_bytes_as_they_pass() {
    let member = Member::start_with(Config::for_test()).await;
    let named = |version: &[u8]| {
        let mut request = Request::new(put("k", &"v".repeat(10_000)));
        request.metadata_mut().insert("client-api-version", MetadataValue::try_from(version).unwrap());
        request
    };
    let before = Scrape::of(&member).await;
    member.kv().put(named(b"3.7")).await.unwrap();
    member.kv().put(named(b"3.7")).await.unwrap();
    let not_text = member.kv().put(named(b"\xff\xfe")).await;
    assert_eq!(refusal(not_text), refused(Code::InvalidArgument, "etcdserver: invalid client api version"));
    assert_eq!(member.get("k").await.map(|value| value.len()), Some(10_000));
    let after = Scrape::of(&member).await;
    let version = "etcd_server_client_requests_total{client_api_version=\"3.7\",type=\"unary\"}";
    assert_eq!(after.get(version), 2.0);
    let unknown = "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"}";
    assert!(after.get(unknown) >= 1.0);
    for series in ["etcd_network_client_grpc_received_bytes_total", "etcd_network_client_grpc_sent_bytes_total"] {
        assert!(after.get(series) - before.get(series) >= 10_000.0, "{series}");
    }
    let handled = |code| {
        format!(
            "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",\
             grpc_type=\"unary\"}}"
        )
    };
    assert_eq!((after.get(&handled("OK")), after.get(&handled("InvalidArgument"))), (2.0, 0.0), "as etcd counts");
}

#[tokio::test]
async fn sizes_are_those_of_the_status() {
    let member = Member::start_with(Config::for_test()).await;
    for n in 0..20 {
        member.put(&format!("k{}", n % 10), &"v".repeat(1000)).await;
    }
    let status = member.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
    let scrape = Scrape::of(&member).await;
    assert!(status.db_size_in_use > 20_000, "live and historic records");
    assert_eq!(scrape.get("etcd_mvcc_db_total_size_in_bytes"), status.db_size as f64);
    assert_eq!(scrape.get("etcd_mvcc_db_total_size_in_use_in_bytes"), status.db_size_in_use as f64);
}

#[tokio::test]
async fn an_apply_that_takes_longer_than_asked_for_is_counted() {
    let config = Config { warning_apply_duration: std::time::Duration::ZERO, ..Config::for_test() };
    let member = Member::start_with(config).await;
    member.put("k", "v").await;
    assert!(Scrape::of(&member).await.get("etcd_server_slow_apply_total") >= 1.0);
}

/// Series of a member about another one.
struct About {
    from: String,
    to: String,
    both: String,
}

impl About {
    fn new(local: &Server, remote: &Server) -> Self {
        let (local, remote) = (id(local), id(remote));
        Self {
            from: format!("{{From=\"{remote:x}\"}}"),
            to: format!("{{To=\"{remote:x}\"}}"),
            both: format!("{{Local=\"{local:x}\",Remote=\"{remote:x}\"}}"),
        }
    }

    fn known(&self) -> String {
        format!("etcd_network_known_peers{}", self.both)
    }

    fn active(&self) -> String {
        format!("etcd_network_active_peers{}", self.both)
    }

    fn disconnected(&self) -> String {
        format!("etcd_network_disconnected_peers_total{}", self.both)
    }

    fn sent(&self) -> String {
        format!("etcd_network_peer_sent_bytes_total{}", self.to)
    }

    fn received(&self) -> String {
        format!("etcd_network_peer_received_bytes_total{}", self.from)
    }

    fn sent_failures(&self) -> String {
        format!("etcd_network_peer_sent_failures_total{}", self.to)
    }

    fn received_failures(&self) -> String {
        format!("etcd_network_peer_received_failures_total{}", self.from)
    }

    fn round_trips(&self) -> String {
        format!("etcd_network_peer_round_trip_time_seconds_count{}", self.to)
    }

    fn snapshots(&self) -> [String; 4] {
        [
            format!("etcd_network_snapshot_send_success{}", self.to),
            format!("etcd_network_snapshot_send_failures{}", self.to),
            format!("etcd_network_snapshot_receive_success{}", self.from),
            format!("etcd_network_snapshot_receive_failures{}", self.from),
        ]
    }
}

#[tokio::test]
async fn members_count_what_they_send_to_and_hear_of_each_other() {
    const BYTES: f64 = 100_000.0;
    let mut servers = start(configs(3)).await;
    let leader = servers.remove(leader_at(&servers));
    let [follower, other] = [servers.remove(0), servers.remove(0)];
    let (led, leads) = (About::new(&leader, &follower), About::new(&follower, &leader));
    let at_leader = async || Scrape::at(&leader.client_endpoint()).await;
    let at_follower = async || Scrape::at(&follower.client_endpoint()).await;

    let (before, before_there) = (at_leader().await, at_follower().await);
    assert_eq!(before.get(&led.known()), 1.0);
    assert_eq!(before_there.get(&leads.known()), 1.0);
    assert_eq!(before.get(&led.active()), 1.0);
    let mut kv = pb::kv_client::KvClient::new(channel(&leader).await);
    kv.put(put("k", &"v".repeat(BYTES as usize))).await.unwrap();
    until("the follower has heard of it", async || {
        at_follower().await.get(&leads.received()) - before_there.get(&leads.received()) > BYTES
    })
    .await;
    let after = at_leader().await;
    assert!(after.get(&led.sent()) - before.get(&led.sent()) > BYTES);
    until("heartbeats go round", async || at_leader().await.get(&led.round_trips()) > before.get(&led.round_trips()))
        .await;
    until("the leader is probed", async || at_follower().await.get(&leads.round_trips()) > 0.0).await;
    for about in [&led, &About::new(&leader, &other)] {
        assert!(after.get(&about.received()) > 0.0, "answers");
        assert_eq!(after.get(&about.received_failures()), 0.0);
        for series in about.snapshots() {
            assert_eq!(after.get(&series), 0.0, "{series}");
        }
    }

    let gone = About::new(&leader, &other);
    other.kill();
    until("the leader has missed it", async || {
        let now = at_leader().await;
        now.get(&gone.active()) == 0.0
            && now.get(&gone.disconnected()) > after.get(&gone.disconnected())
            && now.get(&gone.sent_failures()) > after.get(&gone.sent_failures())
            && now.get("etcd_server_heartbeat_send_failures_total")
                > after.get("etcd_server_heartbeat_send_failures_total")
    })
    .await;
    assert_eq!(at_leader().await.get(&led.active()), 1.0, "the other one is still there");
    shutdown(vec![leader, follower]).await;
}

#[tokio::test]
async fn promotions_are_counted_where_the_leader_is() {
    let mut both = configs(2);
    let (mut joining, mut first) = (both.remove(1), both.remove(0));
    first.initial_cluster.remove(&joining.name);
    joining.initial_cluster_state = ClusterState::Existing;
    let first = Server::start(first).await.unwrap();
    let mut cluster = pb::cluster_client::ClusterClient::new(channel(&first).await);
    let unknown = cluster.member_promote(pb::MemberPromoteRequest { id: 1 }).await;
    assert_eq!(refusal(unknown).1, "etcdserver: member not found");

    let peer_ur_ls = joining.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
    let added = cluster.member_add(pb::MemberAddRequest { peer_ur_ls, is_learner: true }).await.unwrap().into_inner();
    let learner = Server::start(joining).await.unwrap();
    let promote = pb::MemberPromoteRequest { id: added.member.unwrap().id };
    until("it is in sync", async || cluster.clone().member_promote(promote).await.is_ok()).await;
    let scrape = Scrape::at(&first.client_endpoint()).await;
    assert_eq!(scrape.get("etcd_server_learner_promote_successes"), 1.0);
    let not_found = "etcd_server_learner_promote_failures{Reason=\"etcdserver: member not found\"}";
    assert_eq!(scrape.get(not_found), 1.0);
    shutdown(vec![learner, first]).await;
}
