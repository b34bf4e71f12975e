//! The table of all flags, in the groups of `--help`: every flag of etcd 3.7, those that older releases had, and
//! kelson's own. A row says what the flag does here; `flag` says how rows are read.

use super::draft::Draft;
use super::flag::{Flag, Honour, Kind, Syntax};

/// Flags under one title of `--help`.
pub struct Group {
    /// The title.
    pub title: &'static str,
    /// The flags, in the order of `--help`.
    pub flags: &'static [Flag],
}

const OWN_TITLE: &str = "Kelson";
const NO_PEERS: &str = "a peer's connection is tried for life every two seconds, and every call has its own deadline";
const NO_PAUSES: &str = "compaction goes in slices too short to be felt, behind the writes";
const NO_DISCOVERY: &str = "this release does not look members up";
const LEAVE_OUT_DISCOVERY: &str = "leave the flag out and name the members with --initial-cluster";
const NO_SELF_CALLS: &str = "the member never calls its own port";
const NO_AUTH: &str = "this release has no user accounts";
const NO_BBOLT: &str = "the store is not bbolt";
const NO_TRACING: &str = "this release sends no traces";
const NO_ROTATION: &str = "log files are appended to; rotate them with logrotate's copytruncate";
const OBSOLETE: &str = "etcd dropped the flag as well";

/// All groups, in the order of `--help`.
pub static GROUPS: &[Group] = &[
    Group { title: "Member", flags: MEMBER },
    Group { title: "Clustering", flags: CLUSTERING },
    Group { title: "Security", flags: SECURITY },
    Group { title: "Auth", flags: AUTH },
    Group { title: "Profiling and monitoring", flags: MONITORING },
    Group { title: "Logging", flags: LOGGING },
    Group { title: "Distributed tracing", flags: TRACING },
    Group { title: "Features", flags: FEATURES },
    Group { title: "Unsafe", flags: UNSAFE },
    Group { title: OWN_TITLE, flags: OWN },
];

const MEMBER: &[Flag] = &[
    Flag::new("name", "default", Kind::Text(|d| &mut d.config.name), "The member's name, as in --initial-cluster."),
    Flag::new("data-dir", "${name}.etcd", Kind::Custom(Draft::set_data_dir), "Where the member keeps its files."),
    Flag::new("wal-dir", "", Kind::Custom(Draft::set_wal_dir), "Where the Raft log is, if on a disk of its own."),
    Flag::new(
        "snapshot-count",
        "10000",
        Kind::U64(|d| &mut d.config.snapshot_count),
        "Applied log entries between two snapshots.",
    ),
    Flag::new(
        "heartbeat-interval",
        "100",
        Kind::U64(|d| &mut d.config.heartbeat_interval_ms),
        "Between two heartbeats of a leader, in milliseconds.",
    ),
    Flag::new(
        "election-timeout",
        "1000",
        Kind::U64(|d| &mut d.config.election_timeout_ms),
        "Silence after which a follower stands for election, in milliseconds; at least five heartbeats.",
    ),
    Flag::new(
        "initial-election-tick-advance",
        "true",
        Kind::Unused(Syntax::Bool),
        "Stand for election sooner after a start.",
    )
    .without("a member that is alone elects itself at once, and others wait for the leader there may be"),
    Flag::new(
        "listen-peer-urls",
        "http://localhost:2380",
        Kind::Urls(|d| &mut d.config.listen_peer_urls),
        "Where other members may connect, comma-separated.",
    ),
    Flag::new(
        "listen-client-urls",
        "http://localhost:2379",
        Kind::Urls(|d| &mut d.config.listen_client_urls),
        "Where clients may connect: gRPC, and HTTP too unless --listen-client-http-urls is given. IP addresses, \
         localhost or unix:// paths.",
    ),
    Flag::new(
        "listen-client-http-urls",
        "",
        Kind::UrlsOrNone(|d| &mut d.config.listen_client_http_urls),
        "Where clients may connect with HTTP only; takes HTTP away from --listen-client-urls.",
    ),
    Flag::new("max-snapshots", "5", Kind::Unused(Syntax::Int), "Snapshot files to keep.")
        .without("one verified snapshot is kept"),
    Flag::new("max-wals", "5", Kind::Unused(Syntax::Int), "Log files to keep.")
        .without("the log is kept as long as a snapshot or a follower needs it"),
    Flag::new("memory-mlock", "false", Kind::Unused(Syntax::Bool), "Lock the process in memory.")
        .without("memory is not locked; turn swap off instead"),
    Flag::new(
        "quota-backend-bytes",
        "0",
        Kind::Custom(Draft::set_quota),
        "Most bytes that the store may take before writes are refused; 0 is 2 GiB, negative is no limit.",
    ),
    Flag::new("backend-bbolt-freelist-type", "map", Kind::Unused(Syntax::Text), "bbolt's list of free pages.")
        .without(NO_BBOLT),
    Flag::new("backend-batch-interval", "", Kind::Unused(Syntax::Duration), "Longest wait before a commit.")
        .without(NO_BBOLT),
    Flag::new("backend-batch-limit", "0", Kind::Unused(Syntax::Int), "Most operations in a commit.").without(NO_BBOLT),
    Flag::new("max-txn-ops", "128", Kind::Usize(|d| &mut d.config.max_txn_ops), "Most operations in one transaction."),
    Flag::new(
        "max-request-bytes",
        "1572864",
        Kind::Usize(|d| &mut d.config.max_request_bytes),
        "Most bytes of one request.",
    ),
    Flag::new(
        "max-concurrent-streams",
        "4294967295",
        Kind::U32(|d| &mut d.config.max_concurrent_streams),
        "Most open streams of one client connection.",
    ),
    Flag::new(
        "grpc-keepalive-min-time",
        "5s",
        Kind::Unused(Syntax::Duration),
        "Least time between two pings of a client.",
    )
    .without("pings are answered inside the HTTP library, which counts none; a client may ping as often as it likes"),
    Flag::new(
        "grpc-keepalive-interval",
        "2h",
        Kind::Duration(|d| &mut d.config.grpc_keepalive_interval),
        "Between two pings of a silent client; 0 is never.",
    ),
    Flag::new(
        "grpc-keepalive-timeout",
        "20s",
        Kind::Duration(|d| &mut d.config.grpc_keepalive_timeout),
        "How long a client may take to answer a ping; 0 is for ever.",
    ),
    Flag::new(
        "socket-reuse-port",
        "false",
        Kind::Bool(|d| &mut d.config.socket_reuse_port),
        "Listen with SO_REUSEPORT, so that two processes may share a port.",
    ),
    Flag::new(
        "socket-reuse-address",
        "false",
        Kind::Bool(|d| &mut d.config.socket_reuse_address),
        "Listen with SO_REUSEADDR, so that a port in TIME_WAIT may be taken.",
    ),
    Flag::new(
        "enable-grpc-gateway",
        "true",
        Kind::Bool(|d| &mut d.config.enable_grpc_gateway),
        "Serve the API as JSON over HTTP, once a release has it.",
    ),
    Flag::new("raft-read-timeout", "5s", Kind::Unused(Syntax::Duration), "Longest silence of a peer's connection.")
        .without(NO_PEERS),
    Flag::new("raft-write-timeout", "5s", Kind::Unused(Syntax::Duration), "Longest write to a peer's connection.")
        .without(NO_PEERS),
    Flag::new("feature-gates", "", Kind::Custom(Draft::set_feature_gates), "Switches, as gate=true|false,…:"),
];

const CLUSTERING: &[Flag] = &[
    Flag::new(
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        Kind::Urls(|d| &mut d.config.initial_advertise_peer_urls),
        "What the other members connect to; the member's id comes from it.",
    ),
    Flag::new(
        "initial-cluster",
        "default=http://localhost:2380",
        Kind::Custom(Draft::set_initial_cluster),
        "The members at the first start, as name=url,…. Without it: --name at --initial-advertise-peer-urls. The same \
         on every member; with --initial-cluster-state=existing the members there are, and this one.",
    ),
    Flag::new(
        "initial-cluster-state",
        "new",
        Kind::Custom(Draft::set_initial_cluster_state),
        "'new' makes the cluster, 'existing' joins one. Without meaning once the data directory is there.",
    ),
    Flag::new(
        "initial-cluster-token",
        "etcd-cluster",
        Kind::Text(|d| &mut d.config.initial_cluster_token),
        "Enters the ids of cluster and members, so that clusters made alike do not mix.",
    ),
    Flag::new(
        "advertise-client-urls",
        "http://localhost:2379",
        Kind::Urls(|d| &mut d.config.advertise_client_urls),
        "What clients are told to connect to. Needed when --listen-client-urls is given.",
    ),
    Flag::new("discovery", "", Kind::Unused(Syntax::Text), "URL of discovery, version 2.")
        .refused("discovery of version 2 is gone, in etcd too", LEAVE_OUT_DISCOVERY),
    Flag::new("discovery-token", "", Kind::Unused(Syntax::Text), "Discovery of version 3: the cluster's token.")
        .refused(NO_DISCOVERY, LEAVE_OUT_DISCOVERY),
    Flag::new("discovery-endpoints", "", Kind::Unused(Syntax::Text), "Discovery of version 3: where it is served.")
        .refused(NO_DISCOVERY, LEAVE_OUT_DISCOVERY),
    Flag::new("discovery-dial-timeout", "2s", Kind::Unused(Syntax::Duration), "Discovery: longest wait to connect.")
        .without(NO_DISCOVERY),
    Flag::new("discovery-request-timeout", "5s", Kind::Unused(Syntax::Duration), "Discovery: longest request.")
        .without(NO_DISCOVERY),
    Flag::new("discovery-keepalive-time", "2s", Kind::Unused(Syntax::Duration), "Discovery: between two pings.")
        .without(NO_DISCOVERY),
    Flag::new("discovery-keepalive-timeout", "6s", Kind::Unused(Syntax::Duration), "Discovery: longest ping.")
        .without(NO_DISCOVERY),
    Flag::new("discovery-insecure-transport", "true", Kind::Unused(Syntax::Bool), "Discovery: without TLS.")
        .without(NO_DISCOVERY),
    Flag::new(
        "discovery-insecure-skip-tls-verify",
        "false",
        Kind::Unused(Syntax::Bool),
        "Discovery: believe any certificate.",
    )
    .without(NO_DISCOVERY),
    Flag::new("discovery-cert", "", Kind::Unused(Syntax::Text), "Discovery: client certificate.").without(NO_DISCOVERY),
    Flag::new("discovery-key", "", Kind::Unused(Syntax::Text), "Discovery: client key.").without(NO_DISCOVERY),
    Flag::new("discovery-cacert", "", Kind::Unused(Syntax::Text), "Discovery: trusted CA.").without(NO_DISCOVERY),
    Flag::new("discovery-user", "", Kind::Unused(Syntax::Text), "Discovery: user, or user:password.")
        .without(NO_DISCOVERY),
    Flag::new("discovery-password", "", Kind::Unused(Syntax::Text), "Discovery: password.").without(NO_DISCOVERY),
    Flag::new("discovery-fallback", "exit", Kind::Unused(Syntax::Text), "What a failed discovery does.")
        .without(NO_DISCOVERY),
    Flag::new("discovery-proxy", "", Kind::Unused(Syntax::Text), "HTTP proxy for discovery.").without(NO_DISCOVERY),
    Flag::new("discovery-srv", "", Kind::Unused(Syntax::Text), "DNS domain whose SRV records name the members.")
        .refused(NO_DISCOVERY, LEAVE_OUT_DISCOVERY),
    Flag::new("discovery-srv-name", "", Kind::Unused(Syntax::Text), "Suffix of the SRV records' name.")
        .without(NO_DISCOVERY),
    Flag::new(
        "strict-reconfig-check",
        "true",
        Kind::Bool(|d| &mut d.config.strict_reconfig_check),
        "Refuse membership changes that would lose quorum.",
    ),
    Flag::new(
        "pre-vote",
        "true",
        Kind::Bool(|d| &mut d.config.pre_vote),
        "Ask for votes before raising the term, so that a member that was cut off does not disturb.",
    ),
    Flag::new(
        "auto-compaction-retention",
        "0",
        Kind::Text(|d| &mut d.compaction_retention),
        "What automatic compaction keeps: a duration (a bare number is hours) or a number of revisions. 0 is off.",
    ),
    Flag::new(
        "auto-compaction-mode",
        "periodic",
        Kind::Text(|d| &mut d.compaction_mode),
        "What the retention counts: 'periodic' time, 'revision' revisions.",
    ),
    Flag::new("v2-deprecation", "write-only", Kind::Unused(Syntax::Text), "etcd's way out of version 2.")
        .without("there is no version 2 store"),
];

const SECURITY: &[Flag] = &[
    Flag::new(
        "cert-file",
        "",
        Kind::Path(|d| &mut d.config.client_tls.cert_file),
        "Certificate of https:// URLs for clients, PEM, with its intermediate ones behind it. Read anew for every \
         connection, as all files here.",
    ),
    Flag::new("key-file", "", Kind::Path(|d| &mut d.config.client_tls.key_file), "Its key, PEM, not encrypted."),
    Flag::new(
        "client-cert-auth",
        "false",
        Kind::Bool(|d| &mut d.config.client_tls.client_cert_auth),
        "Demand a certificate of clients; needs --trusted-ca-file.",
    ),
    Flag::new("client-cert-file", "", Kind::Unused(Syntax::Text), "Certificate for calls to itself.")
        .without(NO_SELF_CALLS),
    Flag::new("client-key-file", "", Kind::Unused(Syntax::Text), "Its key.").without(NO_SELF_CALLS),
    Flag::new(
        "client-crl-file",
        "",
        Kind::Path(|d| &mut d.config.client_tls.crl_file),
        "Revoked certificates, DER or PEM: whoever has one of these serial numbers in its chain is refused.",
    ),
    Flag::new(
        "client-cert-allowed-hostname",
        "",
        Kind::List(|d| &mut d.config.client_tls.allowed_hostnames),
        "Host names of which a client's certificate must carry one, comma-separated.",
    ),
    Flag::new(
        "trusted-ca-file",
        "",
        Kind::Path(|d| &mut d.config.client_tls.trusted_ca_file),
        "CAs of the clients' certificates, PEM. Given, clients must show one.",
    ),
    Flag::new(
        "auto-tls",
        "false",
        Kind::Bool(|d| &mut d.config.client_tls.auto_tls),
        "Make a certificate for clients if none is given. It encrypts, and proves nothing.",
    ),
    Flag::new(
        "peer-cert-file",
        "",
        Kind::Path(|d| &mut d.config.peer_tls.cert_file),
        "Certificate of https:// URLs for peers; also shown to them when --peer-client-cert-file is not given.",
    ),
    Flag::new("peer-key-file", "", Kind::Path(|d| &mut d.config.peer_tls.key_file), "Its key."),
    Flag::new(
        "peer-client-cert-auth",
        "false",
        Kind::Bool(|d| &mut d.config.peer_tls.client_cert_auth),
        "Demand a certificate of peers; needs --peer-trusted-ca-file.",
    ),
    Flag::new(
        "peer-client-cert-file",
        "",
        Kind::Path(|d| &mut d.config.peer_tls.client_cert_file),
        "Certificate shown to the peers that this member connects to.",
    ),
    Flag::new("peer-client-key-file", "", Kind::Path(|d| &mut d.config.peer_tls.client_key_file), "Its key."),
    Flag::new(
        "peer-trusted-ca-file",
        "",
        Kind::Path(|d| &mut d.config.peer_tls.trusted_ca_file),
        "CAs of the peers' certificates, PEM. Given, peers must show one.",
    ),
    Flag::new(
        "peer-cert-allowed-cn",
        "",
        Kind::List(|d| &mut d.config.peer_tls.allowed_cns),
        "Common names of which a peer's certificate must have one, comma-separated.",
    ),
    Flag::new(
        "peer-cert-allowed-hostname",
        "",
        Kind::List(|d| &mut d.config.peer_tls.allowed_hostnames),
        "Host names of which a peer's certificate must carry one, comma-separated.",
    ),
    Flag::new(
        "peer-auto-tls",
        "false",
        Kind::Bool(|d| &mut d.config.peer_tls.auto_tls),
        "Make a certificate for peers if none is given, and believe theirs. It encrypts, and proves nothing.",
    ),
    Flag::new(
        "self-signed-cert-validity",
        "1",
        Kind::U32(|d| &mut d.config.self_signed_cert_validity_years),
        "Years that a made certificate lasts.",
    ),
    Flag::new(
        "peer-crl-file",
        "",
        Kind::Path(|d| &mut d.config.peer_tls.crl_file),
        "Revoked certificates, DER or PEM, of peers.",
    ),
    Flag::new(
        "cipher-suites",
        "",
        Kind::List(|d| &mut d.cipher_suites),
        "Cipher suites of TLS 1.2 that may be used, by IANA name, comma-separated; empty is all that there are. Those of \
         TLS 1.3 are always on.",
    ),
    Flag::new(
        "cors",
        "*",
        Kind::List(|d| &mut d.config.cors),
        "Origins whose pages may read HTTP answers; empty or * is all.",
    ),
    Flag::new(
        "host-whitelist",
        "*",
        Kind::List(|d| &mut d.config.host_whitelist),
        "Host names that plain HTTP requests may name; empty or * is all.",
    ),
    Flag::new("tls-min-version", "TLS1.2", Kind::Text(|d| &mut d.tls_min_version), "Oldest TLS version."),
    Flag::new(
        "tls-max-version",
        "",
        Kind::Text(|d| &mut d.tls_max_version),
        "Newest TLS version: TLS1.2, TLS1.3, or empty for no limit.",
    ),
];

const AUTH: &[Flag] = &[
    Flag::new("auth-token", "simple", Kind::Unused(Syntax::Text), "Kind of the users' tokens: simple or jwt,….")
        .refused(NO_AUTH, "leave the flag out, and keep strangers off the network"),
    Flag::new("bcrypt-cost", "10", Kind::Unused(Syntax::Int), "Cost of a password's hash.").without(NO_AUTH),
    Flag::new("auth-token-ttl", "300", Kind::Unused(Syntax::Int), "Seconds that a token lasts.").without(NO_AUTH),
];

const MONITORING: &[Flag] = &[
    Flag::new("enable-pprof", "false", Kind::Unused(Syntax::Bool), "Serve Go's profiles.")
        .without("there is no Go runtime to profile; use perf"),
    Flag::new(
        "metrics",
        "basic",
        Kind::Custom(Draft::set_metrics),
        "'extensive' also measures how long every gRPC method takes.",
    ),
    Flag::new(
        "listen-metrics-urls",
        "",
        Kind::UrlsOrNone(|d| &mut d.config.listen_metrics_urls),
        "Where /metrics, /health, /livez and /readyz are served besides the clients' port. https:// URLs are as the \
         clients'; http:// ones ask for no certificate.",
    ),
];

const LOGGING: &[Flag] = &[
    Flag::new("logger", "zap", Kind::Custom(Draft::set_logger), "Only etcd's 'zap'; names the shape of the lines."),
    Flag::new(
        "log-outputs",
        "default",
        Kind::Custom(Draft::set_log_outputs),
        "'default' and 'stderr' are standard error; or 'stdout', or files, comma-separated.",
    ),
    Flag::new(
        "log-level",
        "info",
        Kind::Custom(Draft::set_log_level),
        "The least severe level that is written: debug, info, warn, error, panic or fatal.",
    ),
    Flag::new(
        "log-format",
        "json",
        Kind::Custom(Draft::set_log_format),
        "'json' or 'console'. Not given, a terminal gets console.",
    ),
    Flag::new("enable-log-rotation", "false", Kind::Unused(Syntax::Bool), "Rotate the log file.").without(NO_ROTATION),
    Flag::new(
        "log-rotation-config-json",
        r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
        Kind::Unused(Syntax::Text),
        "How to rotate it.",
    )
    .without(NO_ROTATION),
    Flag::new(
        "warning-unary-request-duration",
        "300ms",
        Kind::Duration(|d| &mut d.config.warning_unary_request_duration),
        "A unary request that takes longer is logged.",
    ),
];

const TRACING: &[Flag] = &[
    Flag::new("enable-distributed-tracing", "false", Kind::Unused(Syntax::Bool), "Send traces.").without(NO_TRACING),
    Flag::new("distributed-tracing-address", "localhost:4317", Kind::Unused(Syntax::Text), "Their collector.")
        .without(NO_TRACING),
    Flag::new("distributed-tracing-service-name", "etcd", Kind::Unused(Syntax::Text), "The service's name.")
        .without(NO_TRACING),
    Flag::new("distributed-tracing-instance-id", "", Kind::Unused(Syntax::Text), "The member's name.")
        .without(NO_TRACING),
    Flag::new("distributed-tracing-sampling-rate", "0", Kind::Unused(Syntax::Int), "Samples in a million spans.")
        .without(NO_TRACING),
];

const FEATURES: &[Flag] = &[
    Flag::new(
        "corrupt-check-time",
        "0s",
        Kind::Duration(|d| &mut d.config.corrupt_check_time),
        "Between two comparisons of all members' hashes by the leader; 0 is never.",
    ),
    Flag::new(
        "compact-hash-check-time",
        "1m",
        Kind::Duration(|d| &mut d.config.compact_hash_check_time),
        "Between two comparisons of hashes at compactions by the leader, with the gate CompactHashCheck.",
    ),
    Flag::new(
        "compaction-batch-limit",
        "1000",
        Kind::Unused(Syntax::Int),
        "Most revisions dropped in one slice of a compaction.",
    )
    .without(NO_PAUSES),
    Flag::new(
        "peer-skip-client-san-verification",
        "false",
        Kind::Bool(|d| &mut d.config.peer_tls.skip_client_san_verification),
        "Let a peer in from an address that its certificate does not name.",
    ),
    Flag::new(
        "watch-progress-notify-interval",
        "10m",
        Kind::Duration(|d| &mut d.config.watch_progress_notify_interval),
        "Between two progress notifications on an idle watch that asked for them.",
    ),
    Flag::new(
        "warning-apply-duration",
        "100ms",
        Kind::Duration(|d| &mut d.config.warning_apply_duration),
        "A request that takes longer to apply is logged.",
    ),
    Flag::new(
        "bootstrap-defrag-threshold-megabytes",
        "0",
        Kind::Unused(Syntax::Int),
        "Defragment at the start when it frees at least this much.",
    )
    .without(NO_BBOLT),
    Flag::new("max-learners", "1", Kind::Usize(|d| &mut d.config.max_learners), "Most learners in the cluster."),
    Flag::new(
        "compaction-sleep-interval",
        "10ms",
        Kind::Unused(Syntax::Duration),
        "Pause between two slices of a compaction.",
    )
    .without(NO_PAUSES),
    Flag::new("downgrade-check-time", "5s", Kind::Unused(Syntax::Duration), "Between two checks for a downgrade.")
        .without("there is no older release to go back to"),
    Flag::new(
        "snapshot-catchup-entries",
        "5000",
        Kind::U64(|d| &mut d.config.snapshot_catchup_entries),
        "Log entries kept behind a snapshot for slow followers.",
    ),
];

const UNSAFE: &[Flag] = &[
    Flag::new(
        "force-new-cluster",
        "false",
        Kind::Bool(|d| &mut d.config.force_new_cluster),
        "Start as the only member of a new cluster, with the data that is there.",
    ),
    Flag::new(
        "unsafe-no-fsync",
        "false",
        Kind::Bool(|d| &mut d.config.unsafe_no_fsync),
        "Answer before the log is on disk: acknowledged writes are lost when the machine stops.",
    ),
];

const OWN: &[Flag] = &[Flag::new(
    "io-threads",
    "0",
    Kind::Usize(|d| &mut d.config.io_threads),
    "Threads that serve connections; 0 is one for each two cores.",
)];

/// Keys of the file's TLS blocks that are no flags, in etcd neither.
pub static FILE_ONLY: &[Flag] = &[
    Flag::new("client-cert-allowed-cn", "", Kind::List(|d| &mut d.config.client_tls.allowed_cns), ""),
    Flag::new("skip-client-san-verification", "false", Kind::Unused(Syntax::Bool), "")
        .without("a client may connect from anywhere, in etcd too"),
];

/// Flags of older releases: accepted, and no part of `--help`.
static OLD: &[Flag] = &[
    old("cluster-active-size"),
    old("cluster-remove-delay"),
    old("cluster-sync-interval"),
    old("config"),
    old("force"),
    old("max-result-buffer"),
    old("max-retry-attempts"),
    old("peer-heartbeat-interval"),
    old("peer-election-timeout"),
    old("retry-interval"),
    old("snapshot"),
    old("v"),
    old("vv"),
    old("enable-v2"),
    old("proxy"),
    old("proxy-failure-wait"),
    old("proxy-refresh-interval"),
    old("proxy-dial-timeout"),
    old("proxy-write-timeout"),
    old("proxy-read-timeout"),
    old("experimental-enable-v2v3"),
];

const fn old(name: &'static str) -> Flag {
    Flag { name, default: "", help: "", kind: Kind::Custom(|_, _| Ok(())), honour: Honour::Without(OBSOLETE) }
}

/// Every flag but those of older releases.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// The flag of this name, if there is one. The names of etcd 3.5, which begin with `experimental-`, lead to the flag
/// that took their place.
pub fn find(name: &str) -> Option<&'static Flag> {
    let by_name = |name: &str| all().chain(OLD).find(|flag| flag.name == name);
    by_name(name).or_else(|| name.strip_prefix("experimental-").and_then(by_name))
}

/// Whether a flag of an older release, which may stand without a value, whatever it was then.
pub fn is_old(flag: &Flag) -> bool {
    OLD.iter().any(|old| std::ptr::eq(old, flag))
}

/// Whether kelson's own, which etcd does not have.
pub fn is_own(flag: &Flag) -> bool {
    OWN.iter().any(|own| own.name == flag.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_flag_has_one_row() {
        let names: Vec<_> = all().chain(OLD).map(|flag| flag.name).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), distinct.len());
    }

    #[test]
    fn every_default_shown_is_the_default_held() {
        for flag in all().filter(|flag| !flag.default.contains("${") && !flag.default.is_empty()) {
            let mut draft = Draft::default();
            flag.set(&mut draft, flag.default).unwrap_or_else(|error| panic!("--{}: {error}", flag.name));
            if flag.name == "log-format" {
                continue; // Not given, the output decides.
            }
            assert_eq!(draft.config, Draft::default().config, "--{}", flag.name);
        }
    }
}
