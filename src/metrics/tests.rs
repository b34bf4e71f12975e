//! The text that Prometheus reads, checked against what etcd 3.7.3 shows.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What etcd's mixin and kube-prometheus read of an only member.
const NEEDED: [&str; 24] = [
    "etcd_server_has_leader 0",
    "etcd_server_is_leader 0",
    "etcd_server_leader_changes_seen_total 0",
    "etcd_server_proposals_failed_total 0",
    "etcd_server_proposals_pending 0",
    "etcd_server_proposals_committed_total 0",
    "etcd_server_proposals_applied_total 0",
    "etcd_disk_wal_fsync_duration_seconds_count 0",
    "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0",
    "etcd_disk_backend_commit_duration_seconds_bucket{le=\"0.001\"} 0",
    "etcd_mvcc_db_total_size_in_bytes 0",
    "etcd_mvcc_db_total_size_in_use_in_bytes 0",
    "etcd_server_quota_backend_bytes 2147483648",
    "etcd_network_client_grpc_sent_bytes_total 0",
    "etcd_network_client_grpc_received_bytes_total 0",
    "etcd_server_version{server_version=\"3.7.3\"} 1",
    "etcd_cluster_version{cluster_version=\"3.7\"} 1",
    "etcd_server_slow_apply_total 0",
    "etcd_server_slow_read_indexes_total 0",
    "etcd_debugging_mvcc_keys_total 0",
    "etcd_disk_defrag_inflight 0",
    "etcd_server_feature_enabled{name=\"InitialCorruptCheck\",stage=\"ALPHA\"} 0",
    "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 0",
    "grpc_server_handled_total{grpc_code=\"Unauthenticated\",grpc_method=\"Check\",\
     grpc_service=\"grpc.health.v1.Health\",grpc_type=\"unary\"} 0",
];

#[test]
fn a_fresh_member_shows_every_series_that_alerts_read() {
    let text = Metrics::new(&Config::for_test()).render();
    let lines: BTreeSet<_> = text.lines().collect();
    for line in NEEDED {
        assert!(lines.contains(line), "missing {line}");
    }
    assert!(!text.contains("grpc_server_handling_seconds"), "timed without --metrics=extensive");
}

#[test]
fn process_figures_are_read_from_the_kernel() {
    let metrics = Metrics::new(&Config::for_test());
    let text = metrics.render();
    for name in ["process_resident_memory_bytes", "process_open_fds", "os_fd_used", "os_fd_limit", "process_threads"] {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|value| value > 0.0), "{name} is {value:?}");
    }
}

#[test]
fn a_call_is_counted_under_its_code_and_timed_if_asked() {
    let metrics = Metrics::new(&Config { metrics: MetricsLevel::Extensive, ..Config::for_test() });
    let method = metrics.grpc.method("/etcdserverpb.KV/Put").unwrap();
    method.started.inc();
    method.handled(tonic::Code::ResourceExhausted, Duration::from_millis(20));
    let text = metrics.render();
    let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    assert!(text.contains(&format!("grpc_server_handled_total{{grpc_code=\"ResourceExhausted\",{labels}}} 1\n")));
    assert!(text.contains(&format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.025\"}} 1\n")));
    assert!(text.contains(&format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.01\"}} 0\n")));
    assert!(metrics.grpc.method("/etcdserverpb.KV/Nope").is_none());
}

#[test]
fn versions_that_clients_make_up_do_not_make_series_without_end() {
    let metrics = Metrics::new(&Config::for_test());
    for version in 0..1000 {
        metrics.server.client_requests.count(&version.to_string(), false);
    }
    metrics.server.client_requests.count("7", true);
    metrics.server.client_requests.count(&"9".repeat(10_000), true);
    let text = metrics.render();
    let series = |kind: &str, version: &str| {
        let name = format!("etcd_server_client_requests_total{{client_api_version=\"{version}\",type=\"{kind}\"}}");
        text.lines().find_map(|line| line.strip_prefix(&*name)?.trim().parse::<u64>().ok())
    };
    assert_eq!((series("unary", "7"), series("stream", "7")), (Some(1), Some(1)));
    assert_eq!((series("unary", "999"), series("stream", "other")), (None, Some(1)));
    assert!(series("unary", "other") > Some(900));
}

#[test]
fn refresh_fills_in_what_mirrors_other_state_and_servers_do_not_share() {
    let (one, other) = (Metrics::new(&Config::for_test()), Metrics::new(&Config::for_test()));
    one.set_refresh(|metrics| metrics.mvcc.current_revision.set(42));
    one.set_member_id(0x8e9e_05c5_2164_694d);
    let text = one.render();
    assert!(text.contains("etcd_debugging_mvcc_current_revision 42\n"));
    assert!(text.contains("etcd_server_id{server_id=\"8e9e05c52164694d\"} 1\n"));
    assert!(other.render().contains("etcd_debugging_mvcc_current_revision 0\n"));
}

/// The shape of a scrape: `type name{labels} buckets`, a line for each family.
fn shape(text: &str) -> BTreeSet<String> {
    let mut families = BTreeMap::<&str, (&str, BTreeSet<&str>, Vec<String>)>::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.insert(name, (kind, BTreeSet::new(), Vec::new()));
        }
        let (series, labels) = line.split_once([' ', '{']).unwrap_or_default();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
        let name =
            base.filter(|base| families.get(base).is_some_and(|family| family.0 == "histogram")).unwrap_or(series);
        let Some((_, known_labels, buckets)) = families.get_mut(name) else { continue };
        let labels = line.contains('{').then_some(labels).and_then(|rest| rest.rsplit_once('}')).unwrap_or_default().0;
        for (label, value) in labels.split("\",").filter_map(|pair| pair.split_once("=\"")) {
            if label != "le" {
                known_labels.insert(label);
            } else if let Ok(bound) = value.trim_end_matches('"').parse::<f64>() {
                let bound = if bound.is_finite() { to_six_digits(bound) } else { "+Inf".into() };
                if !buckets.contains(&bound) {
                    buckets.push(bound);
                }
            }
        }
    }
    let line = |(name, (kind, labels, buckets)): (&str, (&str, BTreeSet<&str>, Vec<String>))| {
        let labels = labels.into_iter().collect::<Vec<_>>().join(",");
        [vec![format!("{kind} {name}{{{labels}}}")], buckets].concat().join(" ")
    };
    families.into_iter().map(line).collect()
}

/// A bound without the last digits of its binary form.
fn to_six_digits(bound: f64) -> String {
    format!("{bound:.5e}").parse::<f64>().unwrap().to_string()
}

#[test]
fn types_labels_and_buckets_are_etcds() {
    let metrics = Metrics::new(&Config { metrics: MetricsLevel::Extensive, ..Config::for_test() });
    metrics.set_member_id(1);
    metrics.server.apply_duration_seconds.observe(Op::Put, true, Duration::ZERO);
    metrics.server.request_duration_seconds.observe(Op::Put, true, Duration::ZERO);
    metrics.peers.peer(1, 2);
    let ours = shape(&metrics.render());
    let theirs = include_str!("etcd-3.7.3.txt");
    let missing: Vec<_> = theirs.lines().filter(|line| !ours.contains(&to_plain(line))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// The recorded line with its bounds written as `shape` writes them.
fn to_plain(line: &str) -> String {
    let plain = |word: &str| word.parse::<f64>().ok().filter(|bound| bound.is_finite()).map(to_six_digits);
    line.split(' ').map(|word| plain(word).unwrap_or_else(|| word.to_owned())).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_peers_series_are_there_before_anything_went_wrong_and_a_transfer_is_counted_once() {
    let metrics = Metrics::new(&Config::for_test());
    let peer = metrics.peers.peer(0xa, 0xb);
    peer.snapshots_sent.begin().succeeded(0.3);
    drop(peer.snapshots_sent.begin());
    let _under_way = peer.snapshots_received.begin();
    let text = metrics.render();
    for line in [
        "etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 0",
        "etcd_network_disconnected_peers_total{Local=\"a\",Remote=\"b\"} 0",
        "etcd_network_peer_sent_failures_total{To=\"b\"} 0",
        "etcd_network_peer_received_failures_total{From=\"b\"} 0",
        "etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"3.2768\"} 0",
        "etcd_network_snapshot_send_success{To=\"b\"} 1",
        "etcd_network_snapshot_send_failures{To=\"b\"} 1",
        "etcd_network_snapshot_send_inflights_total{To=\"b\"} 0",
        "etcd_network_snapshot_send_total_duration_seconds_bucket{To=\"b\",le=\"0.4\"} 1",
        "etcd_network_snapshot_receive_inflights_total{From=\"b\"} 1",
        "etcd_network_snapshot_receive_failures{From=\"b\"} 0",
    ] {
        assert!(text.lines().any(|there| there == line), "missing {line}");
    }
}
