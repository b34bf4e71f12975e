//! Our snapshot files in the hands of etcd's own tools, and theirs in ours. Runs where etcd 3.7's programs are found, in
//! `$KELSON_PEERS` or `~/.cache/kelson-peers`; elsewhere it says how to get them and passes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use kelson::proto::leasepb::Lease;
use kelson::proto::{Put, Record};
use kelson::storage::engine::RevisionKey;
use kelson::storage::etcd_file::{Bucket, ConfState, Meta, STORAGE_VERSION, SnapshotReader, SnapshotWriter};

const KEYS: i64 = 2000;
const LEASE: i64 = 0x1234;
const LEASE_TTL: i64 = 600;
/// Revision of the last record: keys from 2 on, then a delete.
const LAST: i64 = KEYS + 2;
const BIG_BYTES: usize = 300_000;

/// The directory with `etcd`, `etcdctl` and `etcdutl`.
fn peers() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/kelson-peers"));
    let dir = std::env::var_os("KELSON_PEERS").map(PathBuf::from).or_else(home)?;
    if ["etcd", "etcdctl", "etcdutl"].iter().all(|program| dir.join(program).is_file()) {
        return Some(dir);
    }
    println!("skipped: no etcd, etcdctl, etcdutl in {}", dir.display());
    println!(
        "take them from https://github.com/etcd-io/etcd/releases/tag/v3.7.3 and set KELSON_PEERS to their directory"
    );
    None
}

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().expect("a peer's program starts")
}

fn text(program: &Path, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(program: &Path, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&text(program, args)).unwrap()
}

/// An etcd process that ends with the test.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }
}

fn free_url() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn key(main: i64) -> String {
    format!("/registry/pods/{:06}", main)
}

fn records() -> Vec<(RevisionKey, Record)> {
    let put = |main: i64| {
        let (key, big) = (key(main), vec![b'b'; BIG_BYTES]);
        let small = format!("value {main}").repeat(20);
        let value = if main == 77 { &big[..] } else { small.as_bytes() };
        let lease = if main == 5 { LEASE } else { 0 };
        let record = Record::put(Put {
            key: key.as_bytes(),
            value,
            create_revision: main,
            mod_revision: main,
            version: 1,
            lease,
        });
        (RevisionKey { main, sub: 0, tombstone: false }, record)
    };
    let mut records: Vec<_> = (2..LAST).map(put).collect();
    let tombstone = Record::put(Put { key: key(3).as_bytes(), ..Put::default() });
    records.push((RevisionKey { main: LAST, sub: 0, tombstone: true }, tombstone));
    records
}

fn write_ours(path: &Path) {
    let mut writer = SnapshotWriter::create(path).unwrap();
    writer.start(Bucket::Key).unwrap();
    for (revision, record) in records() {
        writer.record(revision, record.as_bytes()).unwrap();
    }
    let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
    let meta = Meta {
        consistent_index: 9000,
        term: 3,
        conf_state,
        storage_version: STORAGE_VERSION.to_owned(),
        ..Meta::default()
    };
    writer.meta(&meta).unwrap();
    writer.leases([Lease { id: LEASE, ttl: LEASE_TTL, remaining_ttl: 0 }]).unwrap();
    writer.cluster_version("3.7.0").unwrap();
    writer.start(Bucket::Kelson).unwrap();
    writer.put(b"format", b"1").unwrap();
    writer.finish().unwrap();
}

#[test]
fn etcd_restores_our_snapshot_and_we_read_the_one_it_saves() {
    let Some(peers) = peers() else { return };
    let (etcdctl, etcdutl) = (peers.join("etcdctl"), peers.join("etcdutl"));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (ours, data, theirs) = (path("ours"), path("data"), path("theirs"));
    write_ours(Path::new(&ours));

    let status = json(&etcdutl, &["snapshot", "status", &ours, "-w", "json"]);
    assert_eq!(status["revision"], LAST);
    assert_eq!(status["totalKey"], KEYS - 1, "keys that live");
    assert_eq!(status["version"], STORAGE_VERSION);

    let (client, peer) = (free_url(), free_url());
    let cluster = format!("default={peer}");
    let member = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
    text(&etcdutl, &[&["snapshot", "restore", &ours, "--data-dir", &data][..], &member[..]].concat());
    let etcd = Command::new(peers.join("etcd"))
        .args(["--data-dir", &data, "--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--log-level", "error"])
        .args(member)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _etcd = Etcd(etcd.unwrap());
    let with_endpoint = |args: &[&str]| {
        let mut all = vec!["--endpoints", &client];
        all.extend_from_slice(args);
        text(&etcdctl, &all)
    };
    for _ in 0..100 {
        if run(&etcdctl, &["--endpoints", &client, "endpoint", "health"]).status.success() {
            break;
        }
        sleep(Duration::from_millis(100));
    }

    let all = with_endpoint(&["get", "/registry/", "--prefix", "--keys-only", "-w", "json"]);
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["header"]["revision"], LAST);
    assert_eq!(all["count"], KEYS - 1);
    assert_eq!(with_endpoint(&["get", &key(77), "--print-value-only"]).len(), BIG_BYTES + 1);
    assert_eq!(with_endpoint(&["get", &key(3)]), "");
    let before = (LAST - 1).to_string();
    assert!(with_endpoint(&["get", &key(3), "--rev", &before]).contains("value 3"));
    let lease = with_endpoint(&["lease", "timetolive", "1234", "--keys"]);
    assert!(lease.contains(&format!("granted with TTL({LEASE_TTL}s)")) && lease.contains(&key(5)), "{lease}");
    let put = with_endpoint(&["put", "after", "restore", "-w", "json"]);
    let put: serde_json::Value = serde_json::from_str(&put).unwrap();
    assert_eq!(put["header"]["revision"], LAST + 1);

    with_endpoint(&["snapshot", "save", &theirs]);
    let reader = SnapshotReader::open(Path::new(&theirs)).unwrap();
    reader.verify_hash().unwrap();
    let found: Vec<_> = reader.records().unwrap().map(Result::unwrap).collect();
    let (last, kept) = found.split_last().unwrap();
    assert_eq!(kept, records());
    assert_eq!((last.0.main, last.1.key(), last.1.value()), (LAST + 1, &b"after"[..], &b"restore"[..]));
    assert_eq!(reader.meta().unwrap().storage_version, STORAGE_VERSION);
    assert_eq!(reader.leases().unwrap()[0].id, LEASE);
    assert!(reader.bucket(Bucket::Kelson).unwrap().is_some(), "etcd keeps buckets that it does not know");
}
