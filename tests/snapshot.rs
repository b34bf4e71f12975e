//! Snapshots from end to end: saved from running members, restored into data directories, served again. With etcd 3.7's
//! programs in `$KELSON_PEERS` or `~/.cache/kelson-peers` also from etcd and back to it; elsewhere those tests say how to
//! get them and pass.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use kelson::proto::etcdserverpb as pb;
use kelson::proto::leasepb::Lease;
use kelson::proto::{Put, Record};
use kelson::storage::engine::RevisionKey;
use kelson::storage::etcd_file::{Bucket, Meta, SnapshotWriter};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const KELSON: &str = env!("CARGO_BIN_EXE_kelson");
/// Attempts to get a first answer, and the pause between them; machines that build all day are slow.
const START_ATTEMPTS: u32 = 600;
const START_PAUSE: Duration = Duration::from_millis(100);
const LEASE: i64 = 0x1234;
const LEASE_TTL: i64 = 600;
const BUMP: i64 = 1_000_000_000;
const BIG_BYTES: usize = 300_000;

/// Where etcd's programs are.
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

fn run(program: impl AsRef<Path>, args: &[&str]) -> Output {
    Command::new(program.as_ref()).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

/// What a program prints that must succeed.
fn text(program: impl AsRef<Path>, args: &[&str]) -> String {
    let output = run(program, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Why `kelson` refuses.
fn refusal(args: &[&str]) -> String {
    let output = run(KELSON, args);
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn free_url() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// A directory for one test, and paths in it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

/// A running member, kelson or etcd; it ends with the value.
struct Member {
    child: Child,
    url: String,
    peer_url: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

impl Member {
    /// Starts a program with etcd's flags on a directory and waits until it answers. A restored etcd must be told its
    /// peer URL again.
    async fn start(program: impl AsRef<Path>, data_dir: &str, peer_url: Option<&str>) -> Self {
        let url = free_url();
        let listen = free_url();
        let mut command = Command::new(program.as_ref());
        command.args(["--data-dir", data_dir, "--log-level", "error"]).args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ]);
        let peer_url = peer_url.unwrap_or(&listen).to_owned();
        command.args(["--listen-peer-urls", &peer_url]);
        if !program.as_ref().ends_with("kelson") {
            let cluster = format!("default={peer_url}");
            command.args(["--initial-advertise-peer-urls", &peer_url, "--initial-cluster", &cluster]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut member = Self { child, url, peer_url };
        for _ in 0..START_ATTEMPTS {
            if let Some(status) = member.child.try_wait().unwrap() {
                panic!("{} on {data_dir}: {status}", program.as_ref().display());
            }
            if let Ok(channel) = Endpoint::from_shared(member.url.clone()).unwrap().connect().await {
                let get = pb::RangeRequest { key: "x".into(), ..Default::default() };
                if KvClient::new(channel).range(get).await.is_ok() {
                    return member;
                }
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        panic!("{} does not answer", program.as_ref().display());
    }

    async fn client(&self) -> Client {
        Client(Endpoint::from_shared(self.url.clone()).unwrap().connect().await.unwrap())
    }

    /// Ends it in the orderly way.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

/// Everything that must survive, as a client sees it.
#[derive(Debug, PartialEq)]
struct Seen {
    revision: i64,
    compact_revision: i64,
    /// Of every revision from the compaction mark on: HashKV, and what a range over everything gives. No hash at an older
    /// mark: until it is restarted etcd answers there with one that it made before it compacted.
    past: Vec<(i64, Option<u32>, Vec<Record>)>,
    /// Id, granted TTL, keys.
    leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    alarms: Vec<pb::AlarmMember>,
}

struct Client(Channel);

impl Client {
    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.0.clone()).max_decoding_message_size(usize::MAX)
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.0.clone())
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.0.clone())
    }

    async fn put(&self, key: &str, value: &[u8], lease: i64) -> i64 {
        let put = pb::PutRequest {
            key: key.as_bytes().to_vec().into(),
            value: value.to_vec().into(),
            lease,
            ..Default::default()
        };
        self.kv().put(put).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn delete(&self, from: &str, to: &str) {
        let delete = pb::DeleteRangeRequest {
            key: from.as_bytes().to_vec().into(),
            range_end: to.as_bytes().to_vec().into(),
            ..Default::default()
        };
        self.kv().delete_range(delete).await.unwrap();
    }

    async fn all_at(&self, revision: i64) -> Result<pb::RangeResponse, tonic::Status> {
        let zero = || bytes::Bytes::from_static(&[0]);
        let range = pb::RangeRequest { key: zero(), range_end: zero(), revision, ..Default::default() };
        self.kv().range(range).await.map(tonic::Response::into_inner)
    }

    /// Keys written, rewritten and removed, one by one and many in one revision; a long value; leases with and without
    /// keys; a compaction in the middle; an alarm.
    async fn fill(&self) {
        for number in 0..40 {
            self.put(&format!("/a/{number:02}"), format!("first {number}").as_bytes(), 0).await;
        }
        self.delete("/a/03", "").await;
        self.delete("/a/10", "/a/15").await;
        for (id, ttl) in [(LEASE, LEASE_TTL), (77, 300)] {
            self.lease().lease_grant(pb::LeaseGrantRequest { ttl, id }).await.unwrap();
        }
        self.put("/leased/one", b"1", LEASE).await;
        let compacted = self.put("/leased/two", b"2", LEASE).await;
        for number in (0..40).step_by(3) {
            self.put(&format!("/a/{number:02}"), b"second", 0).await;
        }
        let compact = pb::CompactionRequest { revision: compacted, physical: true };
        self.kv().compact(compact).await.unwrap();
        self.put("/big", &vec![b'b'; BIG_BYTES], 0).await;
        let put = |key: &'static str| {
            let put = pb::PutRequest { key: key.into(), value: "in one".into(), ..Default::default() };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        };
        let txn = pb::TxnRequest { success: vec![put("/t/1"), put("/t/2"), put("/a/03")], ..Default::default() };
        self.kv().txn(txn).await.unwrap();
        self.delete("/leased/one", "").await;
        self.delete("/a/20", "/a/25").await;
        let alarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id: 7,
            alarm: pb::AlarmType::Nospace.into(),
        };
        self.maintenance().alarm(alarm).await.unwrap();
    }

    async fn see(&self) -> Seen {
        let newest = self.all_at(0).await.unwrap().header.unwrap().revision;
        let hash = |revision| async move {
            self.maintenance().hash_kv(pb::HashKvRequest { revision }).await.unwrap().into_inner()
        };
        let compact_revision = hash(0).await.compact_revision;
        let mut past = Vec::new();
        for revision in compact_revision.max(1)..=newest {
            let is_settled = revision > compact_revision || revision == newest;
            let hash = if is_settled { Some(hash(revision).await.hash) } else { None };
            past.push((revision, hash, self.all_at(revision).await.unwrap().kvs));
        }
        let mut leases = Vec::new();
        for lease in self.lease().lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner().leases {
            let ask = pb::LeaseTimeToLiveRequest { id: lease.id, keys: true };
            let found = self.lease().lease_time_to_live(ask).await.unwrap().into_inner();
            let mut keys: Vec<_> = found.keys.iter().map(|key| key.to_vec()).collect();
            keys.sort();
            leases.push((found.id, found.granted_ttl, keys));
        }
        leases.sort();
        let alarms = self.maintenance().alarm(pb::AlarmRequest::default()).await.unwrap().into_inner().alarms;
        Seen { revision: newest, compact_revision, past, leases, alarms }
    }

    async fn term(&self) -> u64 {
        self.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner().raft_term
    }

    /// Lowers the alarm, after which a write gets the next revision.
    async fn goes_on_behind(&self, revision: i64) {
        let alarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            member_id: 7,
            alarm: pb::AlarmType::Nospace.into(),
        };
        self.maintenance().alarm(alarm).await.unwrap();
        assert_eq!(self.put("/after", b"restore", LEASE).await, revision + 1);
    }
}

/// That the fixture holds what the tests are about.
fn expect_everything(seen: &Seen) {
    assert!(seen.compact_revision > 40 && seen.revision > seen.compact_revision + 10, "{seen:?}");
    assert_eq!(seen.leases, [(77, 300, vec![]), (LEASE, LEASE_TTL, vec![b"/leased/two".to_vec()])]);
    assert_eq!(seen.alarms.len(), 1);
}

#[tokio::test]
async fn a_saved_member_comes_back_whole_and_stays_so() {
    let scratch = Scratch::new();
    let (file, old, new) = (scratch.path("s.db"), scratch.path("old"), scratch.path("new"));
    let member = Member::start(KELSON, &old, None).await;
    let client = member.client().await;
    client.fill().await;
    let (before, term) = (client.see().await, client.term().await);
    expect_everything(&before);
    let saved = text(KELSON, &["snapshot", "save", &file, "--endpoints", &member.url]);
    assert_eq!(saved, format!("Snapshot saved at {file}\nServer version 3.7.0\n"));
    assert!(!Path::new(&format!("{file}.part")).exists());
    member.stop();

    // Flags of the restore decide who the member is; they need not be repeated at the start.
    let peer = free_url();
    let cluster = format!("renamed={peer}");
    let flags = ["--name", "renamed", "--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
    let wal = scratch.path("wal");
    fs::create_dir(&new).unwrap();
    let restored = text(KELSON, &[&["snapshot", "restore", &file, "--data-dir", &new], &flags[..]].concat());
    assert!(restored.contains(&format!("revision {}", before.revision)), "{restored}");
    let member = Member::start(KELSON, &new, None).await;
    let client = member.client().await;
    assert_eq!(client.see().await, before);
    assert!(client.term().await > term);
    client.goes_on_behind(before.revision).await;
    let after = client.see().await;
    // Once from what an orderly end leaves, once from what a killed process leaves.
    member.stop();
    let member = Member::start(KELSON, &new, None).await;
    assert_eq!(member.client().await.see().await, after);
    drop(member);
    let member = Member::start(KELSON, &new, None).await;
    assert_eq!(member.client().await.see().await, after);

    let elsewhere = scratch.path("elsewhere");
    text(KELSON, &["snapshot", "restore", &file, "--data-dir", &elsewhere, "--wal-dir", &wal]);
    assert!(fs::read_dir(&wal).unwrap().count() > 0 && !Path::new(&elsewhere).join("member/log").exists());
}

#[tokio::test]
async fn what_etcd_saved_is_served_as_etcd_served_it() {
    let Some(peers) = peers() else { return };
    let scratch = Scratch::new();
    let (file, old, new) = (scratch.path("s.db"), scratch.path("old"), scratch.path("new"));
    let etcd = Member::start(peers.join("etcd"), &old, None).await;
    let client = etcd.client().await;
    client.fill().await;
    let before = client.see().await;
    expect_everything(&before);
    text(peers.join("etcdctl"), &["--endpoints", &etcd.url, "snapshot", "save", &file]);
    etcd.stop();

    for format in ["simple", "table", "json", "fields"] {
        let status = ["snapshot", "status", &file, "-w", format];
        assert_eq!(text(KELSON, &status), text(peers.join("etcdutl"), &status));
    }
    text(KELSON, &["snapshot", "restore", &file, "--data-dir", &new]);
    let member = Member::start(KELSON, &new, None).await;
    let client = member.client().await;
    assert_eq!(client.see().await, before);
    client.goes_on_behind(before.revision).await;
    drop(member);

    // The stopped member's own file has no hash behind it.
    let (db, bare) = (format!("{old}/member/snap/db"), scratch.path("bare"));
    let refused = refusal(&["snapshot", "restore", &db, "--data-dir", &bare]);
    assert!(refused.contains(&db) && refused.contains("--skip-hash-check"), "{refused}");
    text(KELSON, &["snapshot", "restore", &db, "--data-dir", &bare, "--skip-hash-check"]);
    let member = Member::start(KELSON, &bare, None).await;
    assert_eq!(member.client().await.see().await, before);
}

#[tokio::test]
async fn what_kelson_saved_is_served_by_etcd_as_kelson_served_it() {
    let Some(peers) = peers() else { return };
    let scratch = Scratch::new();
    let (file, old, new) = (scratch.path("s.db"), scratch.path("old"), scratch.path("new"));
    let member = Member::start(KELSON, &old, None).await;
    let client = member.client().await;
    client.fill().await;
    let before = client.see().await;
    text(peers.join("etcdctl"), &["--endpoints", &member.url, "snapshot", "save", &file]);
    drop(member);
    for format in ["simple", "table", "json", "fields"] {
        let status = ["snapshot", "status", &file, "-w", format];
        assert_eq!(text(KELSON, &status), text(peers.join("etcdutl"), &status));
    }
    let etcd = restored_etcd(&peers, &file, &new, &[]).await;
    let client = etcd.client().await;
    assert_eq!(client.see().await, before);
    client.goes_on_behind(before.revision).await;

    // And back: our bucket in etcd's file is out of date by now.
    let after = client.see().await;
    let (again, third) = (scratch.path("again.db"), scratch.path("third"));
    text(KELSON, &["snapshot", "save", &again, "--endpoints", &etcd.url]);
    text(KELSON, &["snapshot", "restore", &again, "--data-dir", &third]);
    let member = Member::start(KELSON, &third, None).await;
    assert_eq!(member.client().await.see().await, after);
}

/// An etcd on what `etcdutl snapshot restore` makes.
async fn restored_etcd(peers: &Path, file: &str, dir: &str, more: &[&str]) -> Member {
    let peer = free_url();
    let cluster = format!("default={peer}");
    let args = ["snapshot", "restore", file, "--data-dir", dir, "--initial-cluster", &cluster];
    let args = [&args[..], &["--initial-advertise-peer-urls", &peer], more].concat();
    text(peers.join("etcdutl"), &args);
    let etcd = Member::start(peers.join("etcd"), dir, Some(&peer)).await;
    assert_eq!(etcd.peer_url, peer);
    etcd
}

#[tokio::test]
async fn a_raised_revision_is_raised_as_etcdutl_does() {
    let Some(peers) = peers() else { return };
    let scratch = Scratch::new();
    let (file, old) = (scratch.path("s.db"), scratch.path("old"));
    let member = Member::start(KELSON, &old, None).await;
    member.client().await.fill().await;
    text(KELSON, &["snapshot", "save", &file, "--endpoints", &member.url]);
    drop(member);
    let bump = ["--bump-revision", &BUMP.to_string(), "--mark-compacted"];
    let etcd = restored_etcd(&peers, &file, &scratch.path("etcd"), &bump).await;
    let theirs = etcd.client().await.see().await;
    let (bumped, ours, again) = (scratch.path("bumped.db"), scratch.path("ours"), scratch.path("again"));
    text(KELSON, &["snapshot", "save", &bumped, "--endpoints", &etcd.url]);
    drop(etcd);
    text(KELSON, &[&["snapshot", "restore", &file, "--data-dir", &ours], &bump[..]].concat());
    let member = Member::start(KELSON, &ours, None).await;
    assert_eq!(member.client().await.see().await, theirs);
    drop(member);
    // What etcdutl raised with a record without a key is read as well.
    text(KELSON, &["snapshot", "restore", &bumped, "--data-dir", &again]);
    let member = Member::start(KELSON, &again, None).await;
    assert_eq!(member.client().await.see().await, theirs);
}

#[tokio::test]
async fn a_cluster_with_authentication_is_not_opened_to_everybody() {
    let Some(peers) = peers() else { return };
    let scratch = Scratch::new();
    let (file, old, new) = (scratch.path("s.db"), scratch.path("old"), scratch.path("new"));
    let etcd = Member::start(peers.join("etcd"), &old, None).await;
    let etcdctl = |args: &[&str]| text(peers.join("etcdctl"), &[&["--endpoints", &etcd.url], args].concat());
    etcdctl(&["user", "add", "root:secret"]);
    etcdctl(&["user", "grant-role", "root", "root"]);
    etcdctl(&["snapshot", "save", &file]);
    let restored = text(KELSON, &["snapshot", "restore", &file, "--data-dir", &scratch.path("off")]);
    assert!(restored.contains("users and roles were left out"), "{restored}");
    etcdctl(&["auth", "enable"]);
    etcdctl(&["--user", "root:secret", "snapshot", "save", &file]);
    let refused = refusal(&["snapshot", "restore", &file, "--data-dir", &new]);
    assert!(refused.contains(&file) && refused.contains("etcdctl auth disable"), "{refused}");
    assert!(!Path::new(&new).exists());
}

/// A file of three keys at revisions 2 to 4, the last one without a key, as etcdutl raises revisions.
fn write(path: &str, change: impl FnOnce(&mut SnapshotWriter)) {
    let mut writer = SnapshotWriter::create(Path::new(path)).unwrap();
    writer.start(Bucket::Key).unwrap();
    for (main, key) in [(2, "a"), (3, "b")] {
        let put = Put {
            key: key.as_bytes(),
            value: b"v",
            create_revision: main,
            mod_revision: main,
            version: 1,
            lease: LEASE,
        };
        writer.record(RevisionKey { main, sub: 0, tombstone: false }, Record::put(put).as_bytes()).unwrap();
    }
    writer.record(RevisionKey { main: 4, sub: 0, tombstone: false }, &[]).unwrap();
    writer.meta(&Meta { consistent_index: 9000, term: 30, ..Meta::default() }).unwrap();
    writer.leases([Lease { id: LEASE, ttl: LEASE_TTL, remaining_ttl: 0 }]).unwrap();
    change(&mut writer);
    writer.finish().unwrap();
}

#[tokio::test]
async fn revisions_terms_and_entries_go_on_from_those_in_the_file() {
    let scratch = Scratch::new();
    let (file, plain, bumped) = (scratch.path("s.db"), scratch.path("plain"), scratch.path("bumped"));
    write(&file, |_| ());
    text(KELSON, &["snapshot", "restore", &file, "--data-dir", &plain]);
    let member = Member::start(KELSON, &plain, None).await;
    let client = member.client().await;
    assert_eq!(client.all_at(0).await.unwrap().count, 2);
    assert_eq!(client.put("c", b"v", 0).await, 5);
    let status = client.maintenance().status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.raft_term > 30 && status.raft_applied_index > 9000, "{status:?}");
    drop(member);

    let bump = ["--bump-revision", "100", "--mark-compacted"];
    text(KELSON, &[&["snapshot", "restore", &file, "--data-dir", &bumped], &bump[..]].concat());
    let member = Member::start(KELSON, &bumped, None).await;
    let client = member.client().await;
    let all = client.all_at(0).await.unwrap();
    assert_eq!((all.header.unwrap().revision, all.count, all.kvs[1].mod_revision()), (104, 2, 3));
    assert_eq!(client.all_at(4).await.unwrap_err().code(), Code::OutOfRange, "compacted");
    assert_eq!(client.put("c", b"v", 0).await, 105);
}

#[test]
fn what_cannot_be_restored_is_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    let (good, new) = (scratch.path("good.db"), scratch.path("new"));
    write(&good, |_| ());
    let bytes = fs::read(&good).unwrap();
    let spoilt = |name: &str, bytes: &[u8]| {
        let path = scratch.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let auth = scratch.path("auth.db");
    write(&auth, |writer| {
        writer.start(Bucket::Auth).unwrap();
        writer.put(b"authEnabled", &[1]).unwrap();
    });
    for (file, reason) in [
        (spoilt("flipped.db", &flipped), "SHA-256 does not match"),
        (spoilt("cut.db", &bytes[..bytes.len() / 2]), "cut"),
        (spoilt("cut-hash.db", &bytes[..bytes.len() - 10]), "has no hash behind it"),
        (spoilt("other.db", b"nothing of the kind"), "no bbolt file"),
        (spoilt("empty.db", b""), "no bbolt file"),
        (scratch.path("absent.db"), "No such file"),
        (auth, "authentication is enabled"),
    ] {
        let refused = refusal(&["snapshot", "restore", &file, "--data-dir", &new]);
        assert!(refused.contains(reason) && refused.contains(&file), "{file}: {refused}");
        assert!(!Path::new(&new).exists(), "{file}");
    }
    let more = |args: &[&str]| refusal(&[&["snapshot", "restore", &good, "--data-dir", &new], args].concat());
    assert!(more(&["--bump-revision=3"]).contains("go together"));
    assert!(more(&["--bump-revision=9223372036854775805", "--mark-compacted"]).contains("smaller number"));
    assert!(more(&["--name=b", "--initial-cluster=a=http://127.0.0.1:1"]).contains("local name"));
    assert!(more(&["--nope"]).contains("unknown flag"));
    let occupied = scratch.path("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(format!("{occupied}/file"), "").unwrap();
    assert!(more(&["--wal-dir", &occupied]).contains("choose a new --wal-dir"));
    assert!(!Path::new(&new).exists());
    let refused = refusal(&["snapshot", "restore", &good, "--data-dir", &occupied]);
    assert!(refused.contains(&occupied) && refused.contains("choose a new --data-dir"), "{refused}");

    text(KELSON, &["snapshot", "restore", &good, "--data-dir", &new]);
    let refused = refusal(&["snapshot", "restore", &good, "--data-dir", &new]);
    assert!(refused.contains("is not empty"), "{refused}");
    // Its log knows that there was a state.
    fs::remove_dir_all(format!("{new}/member/state/snapshot")).unwrap();
    let output = run(
        KELSON,
        &["--data-dir", &new, "--listen-client-urls", &free_url(), "--advertise-client-urls", "http://127.0.0.1:1"],
    );
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("neither checkpoint nor snapshot"), "{log}");
}

#[test]
fn a_save_that_fails_leaves_nothing_and_says_why() {
    let scratch = Scratch::new();
    let file = scratch.path("s.db");
    let url = free_url();
    let refused = refusal(&["snapshot", "save", &file, "--endpoints", &url]);
    assert!(refused.contains(&url) && refused.contains("is a member running there?"), "{refused}");
    assert_eq!(fs::read_dir(scratch.0.path()).unwrap().count(), 0);
    for (args, reason) in [
        (&["save"][..], "which file?"),
        (&["save", &file, "--endpoints", "a:1,b:1"], "one member's"),
        (&["status", &file], "No such file"),
        (&["status", &file, "-w", "yaml"], "cannot write yaml"),
        (&["burn"], "unknown command: snapshot burn"),
        (&[], "which command?"),
    ] {
        let refused = refusal(&[&["snapshot"], args].concat());
        assert!(refused.contains(reason), "{args:?}: {refused}");
    }
    for args in [&["--help"][..], &["save", "--help"], &["status", "-h"], &["restore", "--help"]] {
        assert!(text(KELSON, &[&["snapshot"], args].concat()).contains("Examples:"), "{args:?}");
    }
}
