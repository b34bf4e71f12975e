//! Starts of a member that ended somewhere on the way from an old state to a snapshot that it was sent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::*;
use crate::proto::etcdserverpb as pb;
use crate::raft::apply::Shared;
use crate::raft::batch::Batcher;
use crate::raft::meter::Meter;
use crate::raft::snapshot::Image;
use crate::raft::types::{MemberInfo, Membership, StoredMembership, log_id};
use crate::raft::{Identity, Node, Options, Parts};
use crate::state::{Command, HashKv};
use crate::storage::engine::{WriteBatch, meta_key};
use crate::storage::log::LogEntry;
use crate::watch::{self, Hub};

/// The old state, which is also where the log ends, and the snapshot.
const OLD: u64 = 10;
const NEW: u64 = 20;
/// As the log store numbers what an entry holds.
const BLANK: u8 = 0;

/// Where the member was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Killed {
    Receiving,
    BeforeThePurge,
    AfterThePurge,
    WhileTheCheckpointWasRebuilt,
    AfterTheCheckpointFollowed,
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn open(&self) -> Result<Opened, Error> {
        let config = Config { data_dir: Some(self.0.path().to_owned()), ..Config::for_test() };
        let metrics = Arc::new(Metrics::new(&config));
        open(&config, None, &metrics, &Clock::system())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("member/state")
    }

    fn names(&self, below: &str) -> Vec<String> {
        RealDisk.read_dir(&self.state().join(below)).unwrap()
    }
}

/// One voter, which is this member, and a learner that nobody reaches.
fn mark(index: u64) -> Mark {
    let members = BTreeMap::from([(1, MemberInfo::default()), (2, MemberInfo::default())]);
    let membership = Membership::new(vec![BTreeSet::from([1])], members).unwrap();
    Mark {
        log_id: Some(log_id(1, index)),
        membership: StoredMembership::new(Some(log_id(1, 1)), membership),
        ..Mark::default()
    }
}

fn put(store: &Store, number: u64) {
    let put = pb::PutRequest { key: format!("{}", number % 7).into(), ..pb::PutRequest::default() };
    assert!(store.apply(&Command::Put(put)).0.response.is_ok());
}

/// The state at an entry.
fn store_at(index: u64) -> Store {
    let store = Store::new();
    (1..=index).for_each(|number| put(&store, number));
    if index >= NEW {
        let compact = pb::CompactionRequest { revision: store.revision() - 3, physical: false };
        store.apply(&Command::Compact(compact));
    }
    store
}

fn hub(store: &Arc<Store>) -> Arc<Hub> {
    Arc::new(Hub::new(store.clone(), |_| pb::ResponseHeader::default(), watch::Options::default()))
}

/// Brings the checkpoint to a state, durably, and ends.
async fn write_checkpoint(opened: Opened, mark: Mark) {
    let metrics = Arc::new(Metrics::new(&Config::for_test()));
    let meter = Meter::new(metrics, Clock::system(), Duration::MAX);
    let store = opened.store;
    let batcher = Arc::new(Batcher::new(1));
    let shared = Shared::new(1, store.clone(), hub(&store), mark, [batcher.clone(), batcher], Box::new(|_| ()), meter);
    opened.checkpoint.attach(Arc::new(shared));
    assert!(opened.checkpoint.flush().await);
    opened.checkpoint.close().await;
}

fn append(log: &Log, entries: std::ops::RangeInclusive<u64>) {
    let entry = |index| LogEntry { index, term: 1, kind: BLANK, payload: Bytes::new() };
    let (done, durable) = sync_channel(1);
    log.append(entries.map(entry).collect(), Box::new(move |result| done.send(result).unwrap()));
    durable.recv().unwrap().unwrap();
}

fn purge(log: &Log, index: u64) {
    let (done, durable) = sync_channel(1);
    let purged = serde_json::to_vec(&log_id(1, index)).unwrap().into();
    log.purge(index, purged, Box::new(move |result| done.send(result).unwrap()));
    durable.recv().unwrap().unwrap();
}

/// A member at the old state, with log and checkpoint up to it.
async fn member() -> Dir {
    let dir = Dir(tempfile::tempdir().unwrap());
    let mut opened = dir.open().unwrap();
    opened.store = Arc::new(store_at(OLD));
    append(&opened.log, 0..=OLD);
    write_checkpoint(opened, mark(OLD)).await;
    dir
}

/// Sends the member a snapshot and kills it.
async fn send_snapshot(dir: &Dir, killed: Killed) {
    let opened = dir.open().unwrap();
    let store = store_at(NEW);
    let sent = Snapshots::memory_only();
    let sent = sent.save(&Image { mark: mark(NEW), meta: store.meta(), view: store.view() }).unwrap();
    if killed == Killed::Receiving {
        let mut receiving = opened.snapshots.receiving().unwrap();
        receiving.write_all(b"half a file").unwrap();
        std::mem::forget(receiving);
        return;
    }
    opened.snapshots.install(&sent.meta, &sent.snapshot).unwrap();
    if killed >= Killed::AfterThePurge {
        purge(&opened.log, NEW);
    }
    drop(opened);
    if killed == Killed::WhileTheCheckpointWasRebuilt {
        let mut engine = SledEngine::open(sled_config(&dir.state().join("checkpoint"))).unwrap();
        let mut batch = WriteBatch::default();
        batch.delete(&meta_key("mark"));
        batch.delete(&meta_key("state"));
        engine.write(&batch).unwrap();
        engine.flush().unwrap();
    }
    if killed == Killed::AfterTheCheckpointFollowed {
        let opened = dir.open().unwrap();
        write_checkpoint(opened, mark(NEW)).await;
    }
}

fn hash(store: &Store) -> HashKv {
    store.hash_kv(0).unwrap()
}

#[tokio::test]
async fn a_member_killed_while_it_installs_a_snapshot_has_the_old_state_or_the_new_one() {
    use Killed::*;
    for killed in [Receiving, BeforeThePurge, AfterThePurge, WhileTheCheckpointWasRebuilt, AfterTheCheckpointFollowed] {
        let dir = member().await;
        send_snapshot(&dir, killed).await;
        let index = if killed == Receiving { OLD } else { NEW };
        let opened = dir.open().unwrap();
        assert_eq!(opened.mark.log_id, mark(index).log_id, "{killed:?}");
        assert_eq!(hash(&opened.store), hash(&store_at(index)), "{killed:?}");
        assert_eq!(dir.names(""), ["checkpoint", "snapshot"], "nothing was set aside: {killed:?}");
        let files = if killed == Receiving { vec![] } else { vec![format!("{NEW:016x}.db")] };
        assert_eq!(dir.names("snapshot"), files, "{killed:?}");
        assert_eq!(opened.snapshots.current().is_some(), killed != Receiving, "{killed:?}");
        if killed == Receiving {
            continue;
        }
        // From here on the checkpoint alone is enough.
        purge(&opened.log, NEW);
        append(&opened.log, NEW + 1..=NEW + 2);
        write_checkpoint(opened, mark(NEW)).await;
        RealDisk.remove(&dir.state().join("snapshot").join(&files[0])).unwrap();
        let opened = dir.open().unwrap();
        assert_eq!(opened.mark.log_id, mark(NEW).log_id, "{killed:?}");
        assert_eq!(hash(&opened.store), hash(&store_at(NEW)), "{killed:?}");
        assert_eq!(opened.recovered.last, Some((NEW + 2, 1)));
    }
}

#[tokio::test]
async fn raft_goes_on_behind_a_snapshot_whatever_its_log_says() {
    for killed in [Killed::BeforeThePurge, Killed::AfterThePurge, Killed::WhileTheCheckpointWasRebuilt] {
        let dir = member().await;
        send_snapshot(&dir, killed).await;
        let opened = dir.open().unwrap();
        let node = start(&opened).await;
        assert_eq!(hash(node.store()), hash(&store_at(NEW)), "{killed:?}");
        let request = pb::PutRequest { key: "after".into(), ..pb::PutRequest::default() };
        let applied = node.propose(Command::Put(request)).await.unwrap();
        assert_eq!(applied.revision, store_at(NEW).revision() + 1);
        assert!(node.status().applied_index > NEW);
        node.shutdown().await;
        drop((node, opened));
        let again = dir.open().unwrap();
        assert!(again.mark.log_id > mark(NEW).log_id, "{killed:?}");
        assert_eq!(again.store.view().count(b"after", b""), 1);
        assert_eq!(dir.names(""), ["checkpoint", "snapshot"]);
    }
}

async fn start(opened: &Opened) -> Arc<Node> {
    let options = Options {
        initial_members: BTreeMap::new(),
        heartbeat_interval_ms: 100,
        election_timeout_ms: 1000,
        snapshot_count: 10_000,
        snapshot_bytes_min: crate::raft::SNAPSHOT_BYTES_MIN,
        snapshot_catchup_entries: 5_000,
        pre_vote: true,
        strict_reconfig_check: true,
        max_learners: 1,
        cluster_token: String::new(),
        warning_apply_duration: Duration::MAX,
    };
    let parts = Parts {
        identity: Arc::new(Identity::new(1, 8)),
        log: opened.log.clone(),
        recovered: opened.recovered.clone(),
        store: opened.store.clone(),
        mark: opened.mark.clone(),
        hub: hub(&opened.store),
        checkpoint: opened.checkpoint.clone(),
        snapshots: opened.snapshots.clone(),
        dial: Arc::new(crate::raft::peers::Tcp),
        links: None,
        on_lease: Box::new(|_| ()),
        metrics: Arc::new(Metrics::new(&Config::for_test())),
        clock: Clock::system(),
    };
    let node = Node::start(options, 1, parts).await.unwrap();
    node.ready().await.unwrap();
    node
}

#[tokio::test]
async fn a_snapshot_of_its_own_that_the_log_leads_to_is_passed_over() {
    let dir = member().await;
    let opened = dir.open().unwrap();
    append(&opened.log, OLD + 1..=NEW);
    let store = store_at(NEW);
    opened.snapshots.save(&Image { mark: mark(NEW), meta: store.meta(), view: store.view() }).unwrap();
    drop(opened);
    let opened = dir.open().unwrap();
    assert_eq!(opened.mark.log_id, mark(OLD).log_id, "the log is replayed");
    assert_eq!(hash(&opened.store), hash(&store_at(OLD)));
}

#[test]
fn a_log_that_ends_too_early_is_a_fault_only_where_nobody_else_has_the_rest() {
    let span = Span { purged: 5, last: 10 };
    let alone = Mark { log_id: Some(log_id(1, 11)), ..Mark::default() };
    assert!(span.fits(&alone).is_err() && span.fits(&mark(11)).is_ok());
    assert!(span.fits(&mark(10)).is_ok() && span.fits(&mark(5)).is_ok() && span.fits(&mark(4)).is_err());
    let superseded = [(4, 9), (5, 9), (5, 10), (5, 11), (11, 11), (12, 11)];
    let superseded = superseded.map(|(applied, snapshot)| span.is_superseded(&mark(applied), snapshot));
    assert_eq!(superseded, [true, false, false, true, false, false]);
}
