//! openraft's own conformance suite on our stores, and the node as a whole in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::apply::{Mark, Shared, StateMachine};
use super::batch::Batcher;
use super::checkpoint::Checkpoint;
use super::log_store::LogStore;
use super::snapshot::Snapshots;
use super::types::TypeConfig;
use super::*;
use crate::clock::Clock;
use crate::state::Response;
use crate::storage::fs::{Disk as _, SimDisk};
use crate::storage::log::{LogOptions, Recovered};
use crate::watch;

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (log, recovered) = open(Arc::new(SimDisk::new()));
        let store = Arc::new(Store::new());
        let checkpoint = Checkpoint::memory_only(&store, Clock::system());
        let batcher = Arc::new(Batcher::new(1));
        let mark = Mark::default();
        let shared = Shared::new(0, store.clone(), hub(&store), mark, batcher, Box::new(|_| ()), meter());
        let shared = Arc::new(shared);
        checkpoint.attach(shared.clone());
        let log_store = LogStore::new(log, &recovered).expect("an empty log");
        Ok(((), log_store, StateMachine::new(shared, Snapshots::memory_only(), checkpoint)))
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&crate::config::Config::for_test()))
}

fn meter() -> Meter {
    Meter::new(metrics(), Clock::system(), Duration::MAX)
}

fn open(disk: Arc<SimDisk>) -> (Arc<Log>, Recovered) {
    disk.create_dir_all(Path::new("/log")).unwrap();
    let (log, recovered) = Log::open(disk, Path::new("/log"), LogOptions::in_memory(Clock::system())).unwrap();
    (Arc::new(log), recovered)
}

fn hub(store: &Arc<Store>) -> Arc<Hub> {
    Arc::new(Hub::new(store.clone(), |_| pb::ResponseHeader::default(), watch::Options::default()))
}

#[tokio::test]
async fn openrafts_suite_holds_on_our_stores() {
    Suite::test_all(InMemory).await.unwrap();
}

async fn node(disk: Arc<SimDisk>, origin: u64) -> Arc<Node> {
    let (log, recovered) = open(disk);
    let store = Arc::new(Store::new());
    let options = Options {
        initial_members: BTreeMap::from([(7, MemberInfo::default())]),
        heartbeat_interval_ms: 100,
        election_timeout_ms: 1000,
        snapshot_count: 10_000,
        snapshot_catchup_entries: 5_000,
        max_request_bytes: 1 << 20,
        pre_vote: true,
        warning_apply_duration: Duration::MAX,
    };
    let parts = Parts {
        identity: Arc::new(Identity::new(7, 8)),
        log,
        recovered,
        hub: hub(&store),
        checkpoint: Checkpoint::memory_only(&store, Clock::system()),
        store,
        mark: Mark::default(),
        snapshots: Snapshots::memory_only(),
        on_lease: Box::new(|_| ()),
        metrics: metrics(),
        clock: Clock::system(),
    };
    Node::start(options, origin, parts).await.unwrap()
}

fn put(key: &str, value: &str) -> Command {
    Command::Put(pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..pb::PutRequest::default()
    })
}

#[tokio::test]
async fn commands_proposed_at_once_are_each_applied_and_answered() {
    let node = node(Arc::new(SimDisk::new()), 1).await;
    let proposals = (0..1000).map(|n| node.propose(put(&format!("k{n}"), "v")));
    let results = futures_util::future::join_all(proposals).await;
    let mut revisions: Vec<i64> = results.into_iter().map(|result| result.unwrap().revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (2..1002).collect::<Vec<_>>());
    assert!(node.status().applied_index < 500, "commands that wait together share log entries");
    assert_eq!(node.proposals_pending(), 0);
    assert_eq!(node.meter().metrics.mvcc.put.get(), 1000);
    node.read_barrier().await.unwrap();
    assert_eq!(node.store().view().count(b"k", b"l"), 1000);
    node.shutdown().await;
    assert_eq!(node.propose(put("late", "v")).await, Err(Error::Stopped));
}

#[tokio::test]
async fn what_was_answered_is_there_after_the_log_is_all_that_is_left() {
    let disk = Arc::new(SimDisk::new());
    let first = node(disk.clone(), 1).await;
    let applied = first.propose(put("a", "1")).await.unwrap();
    assert!(matches!(applied.response, Ok(Response::Put(_))));
    first.shutdown().await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let again = node(disk, 2).await;
    assert_eq!(again.store().revision(), applied.revision);
    assert_eq!(again.store().view().count(b"a", b""), 1);
    again.shutdown().await;
}
