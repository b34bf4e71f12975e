//! Flags, variables and files as an operator uses them: what etcd 3.7.3 accepts is accepted, and what this release
//! cannot honour is said. Expectations were recorded from etcd's own `--help` and answers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::{Command, Output};
use std::time::Duration;

use kelson::Config;
use kelson::config::{AutoCompaction, Error, LogFormat, LogLevel, LogOutput, Parsed, flags};

fn parse_with(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, Error> {
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::from_args(args.iter().map(OsString::from), env)
}

/// The configuration and the warnings.
fn read(args: &[&str], env: &[(&str, &str)]) -> (Config, Vec<String>) {
    match parse_with(args, env) {
        Ok(Parsed::Run { config, warnings, .. }) => (*config, warnings),
        other => panic!("{args:?} gave {other:?}"),
    }
}

fn refuse(args: &[&str]) -> Error {
    parse_with(args, &[]).expect_err("refused")
}

fn usage(text: &str) -> Error {
    Error::Usage(text.into())
}

fn invalid(text: &str) -> Error {
    Error::Invalid(text.into())
}

#[test]
fn nothing_given_is_etcds_defaults() {
    let (config, warnings) = read(&[], &[]);
    assert_eq!((config, warnings), (Config::default(), vec![]));
}

/// Every flag of etcd's `--help`, with the default that it shows there. Where etcd shows none although there is one,
/// ours shows it.
#[test]
fn every_flag_of_etcd_is_known_with_its_default() {
    let shown: BTreeMap<_, _> = flags::all().map(|flag| (flag.name, flag.default)).collect();
    let silent = [
        ("max-concurrent-streams", "4294967295"),
        ("memory-mlock", "false"),
        ("enable-grpc-gateway", "true"),
        ("bootstrap-defrag-threshold-megabytes", "0"),
        ("compaction-sleep-interval", "10ms"),
        ("downgrade-check-time", "5s"),
        ("snapshot-catchup-entries", "5000"),
    ];
    for line in include_str!("flags/etcd-3.7.3.txt").lines() {
        let (name, default) = line.split_once(' ').unwrap_or((line, ""));
        let expected = silent.iter().find(|(silent, _)| *silent == name).map_or(default, |(_, default)| default);
        assert_eq!(shown.get(name), Some(&expected), "--{name}");
    }
}

#[test]
fn gos_ways_to_write_a_flag_are_one() {
    let expected = read(&["--name=a", "--pre-vote=false"], &[]).0;
    for args in [
        &["-name=a", "-pre-vote=false"][..],
        &["--name", "a", "--pre-vote=0"],
        &["-name", "a", "-pre-vote=F"],
        &["--name=b", "--name=a", "--pre-vote", "--pre-vote=FALSE"],
    ] {
        assert_eq!(read(args, &[]).0, expected, "{args:?}");
    }
}

#[test]
fn what_cannot_be_read_names_the_flag_and_ends_with_2() {
    for (args, text) in [
        (&["--heartbeat-interval", "abc"][..], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        (&["--nosuch"], "flag provided but not defined: -nosuch"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--snapshot-count=-1"], "invalid value \"-1\" for flag -snapshot-count: parse error"),
        (&["--strict-reconfig-check=maybe"], "invalid boolean value \"maybe\" for -strict-reconfig-check: parse error"),
        (&["--grpc-keepalive-min-time=5"], "invalid value \"5\" for flag -grpc-keepalive-min-time: parse error"),
        (&["--initial-cluster-state=x"], "invalid value \"x\" for flag -initial-cluster-state: invalid value"),
        (
            &["--listen-client-urls=foo"],
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            &["--feature-gates=Nope=true"],
            "invalid value \"Nope=true\" for flag -feature-gates: unrecognized feature gate: Nope",
        ),
        (&["--listen-peer-urls="], "invalid value \"\" for flag -listen-peer-urls: no valid URLs given"),
        (&["---name=a"], "bad flag syntax: ---name=a"),
    ] {
        let error = refuse(args);
        assert_eq!((error.exit_code(), error), (2, usage(text)), "{args:?}");
    }
}

#[test]
fn what_may_not_be_ends_with_1() {
    let advertise = "--advertise-client-urls=http://10.0.0.1:1";
    for (args, text) in [
        (&["extra"][..], "\"extra\" is not a valid flag"),
        (
            &["--election-timeout", "200"],
            "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (&["--election-timeout=60000"], "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-client-urls=http://example.com:1", advertise],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (&["--auto-compaction-mode=foo"], "unknown auto-compaction-mode \"foo\""),
        (
            &["--initial-cluster=a=http://localhost:2380"],
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            &["--initial-cluster=default=http://localhost:2381"],
            "--initial-cluster has default=http://localhost:2381 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380",
        ),
    ] {
        let error = refuse(args);
        assert_eq!((error.exit_code(), error), (1, invalid(text)), "{args:?}");
    }
}

#[test]
fn what_this_release_does_not_do_is_refused_with_a_way_out() {
    for (args, parts) in [
        (&["--auth-token=jwt,pub-key=/k"][..], ["has no user accounts", "leave the flag out"]),
        (&["--discovery-srv=example.com"], ["--discovery-srv=example.com is refused", "--initial-cluster"]),
    ] {
        let Error::Invalid(text) = refuse(args) else { panic!("{args:?}") };
        assert!(parts.iter().all(|part| text.contains(part)), "{args:?}: {text}");
    }
    let switched_off = ["--client-cert-auth=false", "--auto-tls=false", "--cert-file=", "--auth-token=simple"];
    assert_eq!(read(&switched_off, &[]), (Config::default(), vec![]));
}

#[test]
fn settings_that_only_look_protected_stop_the_start() {
    for (args, part) in [
        (&["--cert-file=/c"][..], "--cert-file=/c needs --key-file too"),
        (&["--client-cert-auth"], "--client-cert-auth checks certificates and needs --trusted-ca-file"),
        (&["--client-crl-file=/r"], "--client-crl-file checks certificates and needs --trusted-ca-file"),
        (
            &["--peer-client-cert-auth", "--peer-trusted-ca-file=/ca", "--peer-cert-file=/c", "--peer-key-file=/k"],
            "--peer-client-cert-auth demands certificates, and no https:// URL in --listen-peer-urls can ask for them",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url https://127.0.0.1:1",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1",
        ),
        (&["--auto-tls", "--trusted-ca-file=/ca"], "--trusted-ca-file contradicts --auto-tls"),
        (&["--auto-tls", "--self-signed-cert-validity=0"], "selfSignedCertValidity is invalid"),
        (&["--tls-min-version=TLS1.1"], "--tls-min-version: unexpected TLS version \"TLS1.1\""),
        (&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], "min version (TLS1.3) is greater than max version"),
        (&["--cipher-suites=FOO"], "--cipher-suites: unexpected TLS cipher suite \"FOO\"; supported are TLS_AES_128"),
    ] {
        let Error::Invalid(text) = refuse(args) else { panic!("{args:?}") };
        assert!(text.starts_with(part), "{args:?}: {text}");
    }
}

#[test]
fn what_has_no_effect_warns_once_and_only_when_asked_for() {
    let (_, warnings) = read(&["--max-wals=5", "--backend-batch-limit=0", "--downgrade-check-time=5000ms"], &[]);
    assert_eq!(warnings, Vec::<String>::new());
    let (_, warnings) = read(&["--max-wals=7", "--max-wals=8", "--v2-deprecation=not-yet", "--snapshot"], &[]);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("--max-wals has no effect: "));
    let asked = ["--grpc-keepalive-min-time=1s", "--compaction-batch-limit=5", "--max-learners=2", "--pre-vote=false"];
    let (config, warnings) = read(&asked, &[]);
    assert_eq!((config.max_learners, config.pre_vote, warnings.len()), (2, false, 2), "{warnings:?}");
    let (_, warnings) = read(&["--enable-grpc-gateway=false", "--corrupt-check-time=5m"], &[]);
    assert_eq!(warnings, Vec::<String>::new());
    let (_, warnings) = read(&["--enable-grpc-gateway"], &[]);
    assert!(warnings[0].starts_with("--enable-grpc-gateway has no effect: "), "{warnings:?}");
}

#[test]
fn flags_of_older_releases_lead_to_what_took_their_place() {
    let (config, warnings) = read(
        &[
            "--experimental-watch-progress-notify-interval=5s",
            "--experimental-initial-corrupt-check=true",
            "--experimental-compact-hash-check-enabled",
        ],
        &[],
    );
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert!(config.feature_gates.is_on("InitialCorruptCheck") && config.feature_gates.is_on("CompactHashCheck"));
    assert!(
        warnings.contains(
            &"--experimental-initial-corrupt-check is the name of an older release; use \
          --feature-gates=InitialCorruptCheck=true"
                .into()
        )
    );
}

#[test]
fn what_is_not_given_follows_the_name() {
    let (config, _) = read(&["--name=infra0", "--initial-advertise-peer-urls=http://10.0.0.1:2380"], &[]);
    assert_eq!(config.data_dir, Some("infra0.etcd".into()));
    assert_eq!(config.initial_cluster["infra0"][0].to_string(), "http://10.0.0.1:2380");
}

/// As kubeadm starts etcd.
#[test]
fn kubeadms_flags_are_read() {
    let (config, warnings) = read(
        &[
            "--advertise-client-urls=https://10.0.0.1:2379",
            "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
            "--client-cert-auth=true",
            "--data-dir=/var/lib/etcd",
            "--feature-gates=InitialCorruptCheck=true",
            "--initial-advertise-peer-urls=https://10.0.0.1:2380",
            "--initial-cluster=node=https://10.0.0.1:2380",
            "--key-file=/etc/kubernetes/pki/etcd/server.key",
            "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
            "--listen-metrics-urls=http://127.0.0.1:2381",
            "--listen-peer-urls=https://10.0.0.1:2380",
            "--name=node",
            "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
            "--peer-client-cert-auth=true",
            "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
            "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
            "--snapshot-count=10000",
            "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
            "--watch-progress-notify-interval=5s",
        ],
        &[],
    );
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.listen_metrics_urls[0].to_string(), "http://127.0.0.1:2381");
    assert!(config.client_tls.client_cert_auth && config.peer_tls.client_cert_auth);
    assert_eq!(config.peer_tls.trusted_ca_file, Some("/etc/kubernetes/pki/etcd/ca.crt".into()));
    assert_eq!(warnings, Vec::<String>::new());
}

/// As kops and kubespray start etcd: everything in the environment, some of it long gone.
#[test]
fn the_environment_sets_flags_and_strange_names_only_warn() {
    let (config, warnings) = read(
        &[],
        &[
            ("PATH", "/bin"),
            ("ETCD_NAME", "a"),
            ("ETCD_AUTO_COMPACTION_RETENTION", "8"),
            ("ETCD_ELECTION_TIMEOUT", "5000"),
            ("ETCD_STRICT_RECONFIG_CHECK", "true"),
            ("ETCD_LOG_OUTPUTS", "stdout"),
            ("ETCD_LOG_LEVEL", ""),
            ("ETCD_QUOTA_BACKEND_BYTES", "-1"),
            ("ETCD_ENABLE_V2", "false"),
            ("ETCD_UNSUPPORTED_ARCH", "arm64"),
            ("KELSON_IO_THREADS", "3"),
        ],
    );
    assert_eq!((config.name.as_str(), config.election_timeout_ms, config.io_threads), ("a", 5000, 3));
    assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(8 * 3600)));
    assert_eq!((config.log.outputs, config.log.level), (vec![LogOutput::Stdout], LogLevel::Info));
    assert_eq!(config.quota_backend_bytes, None);
    assert_eq!(warnings, ["unrecognized environment variable ETCD_ENABLE_V2=false"]);
}

#[test]
fn a_variable_and_a_flag_for_one_thing_are_an_error_even_if_equal() {
    let Err(Error::Invalid(text)) = parse_with(&["--name=a"], &[("ETCD_NAME", "a")]) else { panic!("accepted") };
    assert!(text.starts_with("conflicting environment variable ETCD_NAME is shadowed"), "{text}");
    let error = parse_with(&[], &[("ETCD_HEARTBEAT_INTERVAL", "x")]).unwrap_err();
    assert_eq!(error, invalid("invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL: parse error"));
}

#[test]
fn a_file_replaces_flags_and_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etcd.yml");
    std::fs::write(&path, "name: from-file\nlog-format: console\ngrpc-keepalive-timeout: 1000000000\n").unwrap();
    let path = path.to_str().unwrap();
    for (args, env) in [
        (vec!["--name=flag", "--config-file", path], vec![("ETCD_NAME", "env"), ("ETCD_MAX_TXN_OPS", "1")]),
        (vec![], vec![("ETCD_CONFIG_FILE", path)]),
    ] {
        let (config, warnings) = read(&args, &env);
        assert_eq!((config.name.as_str(), config.max_txn_ops), ("from-file", 128));
        assert_eq!(config.log.format, Some(LogFormat::Console));
        assert_eq!(config.grpc_keepalive_timeout, Duration::from_secs(1));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
    let Error::Invalid(text) = refuse(&["--config-file=/nonexistent/etcd.yml"]) else { panic!("read") };
    assert!(text.starts_with("cannot read /nonexistent/etcd.yml: "), "{text}");
}

fn kelson(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kelson")).args(args).env_clear().output().unwrap()
}

#[test]
fn help_lists_every_flag_in_its_group_with_its_default() {
    let output = kelson(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let help = String::from_utf8(output.stdout).unwrap();
    for group in flags::GROUPS {
        let (_, rest) = help.split_once(&format!("\n{}:\n", group.title)).unwrap();
        let group_help = rest.split("\n\n").next().unwrap();
        for flag in group.flags {
            let line = format!("  --{} '{}'\n", flag.name, flag.default);
            assert!(group_help.contains(&line), "{line} is not below {}", group.title);
        }
    }
    let mut sentences = help.lines().filter(|line| line.starts_with("    "));
    assert!(sentences.all(|line| line.len() <= 110), "a line is too long for a terminal");
}

#[test]
fn version_has_etcds_four_lines() {
    let output = kelson(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let keys: Vec<_> = text.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    assert_eq!(keys, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    assert!(text.starts_with("etcd Version: 3.7.3\n"));
}

#[test]
fn the_program_ends_with_etcds_exit_codes() {
    let unreadable = kelson(&["--heartbeat-interval=abc"]);
    assert_eq!(unreadable.status.code(), Some(2));
    let text = String::from_utf8(unreadable.stderr).unwrap();
    assert!(text.starts_with("invalid value \"abc\" for flag -heartbeat-interval: parse error\nUsage:\n"), "{text}");
    let forbidden = kelson(&["--election-timeout=200"]);
    assert_eq!(forbidden.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_slice(&forbidden.stderr).expect("one line of JSON");
    assert_eq!(line["msg"], "failed to verify flags");
    assert_eq!(kelson(&["nosuchcommand"]).status.code(), Some(2));
}
