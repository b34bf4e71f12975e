//! openraft's own conformance suite on our stores, and the node as a whole in memory.

mod install;

use std::io;
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
use crate::storage::fs::{Disk as _, Faults, RealDisk, SimDisk};
use crate::storage::log::{LogOptions, Recovered};
use crate::watch;

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (log, recovered) = open(Arc::new(SimDisk::new()));
        let store = Arc::new(Store::new());
        let checkpoint = Checkpoint::memory_only(&store, Clock::system());
        let batchers = [Arc::new(Batcher::new(1)), Arc::new(Batcher::new(2))];
        let mark = Mark::default();
        let shared = Shared::new(0, store.clone(), hub(&store), mark, batchers, Box::new(|_| ()), meter());
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

/// Runs openraft's conformance tests, each on stores of its own.
macro_rules! conform {
    ($($test:ident)*) => {$(
        let ((), log_store, state_machine) = InMemory.build().await.unwrap();
        OpenraftSuite::$test(log_store, state_machine).await.expect(stringify!($test));
    )*};
}

type OpenraftSuite = Suite<TypeConfig, LogStore, StateMachine, InMemory, ()>;

/// All of openraft's suite; `transfer_snapshot` alone takes the builder, for it needs two members.
#[tokio::test]
async fn openrafts_suite_holds_on_our_stores() {
    conform! {
        last_membership_in_log_initial
        last_membership_in_log
        last_membership_in_log_multi_step
        get_membership_initial
        get_membership_from_log_and_empty_sm
        get_membership_from_empty_log_and_sm
        get_membership_from_log_le_sm_last_applied
        get_membership_from_log_gt_sm_last_applied_1
        get_membership_from_log_gt_sm_last_applied_2
        get_initial_state_without_init
        get_initial_state_membership_from_empty_log_and_sm
        get_initial_state_membership_from_sm_inlog_is_smaller
        get_initial_state_membership_from_log_insm_is_smaller
        get_initial_state_with_state
        get_initial_state_last_log_gt_sm
        get_initial_state_last_log_lt_sm
        get_initial_state_inverted_log_order
        get_initial_state_conflict_at_same_index
        get_initial_state_log_ids
        get_initial_state_re_apply_committed
        save_vote
        get_log_entries
        limited_get_log_entries
        leader_bounded_stream
        entries_stream
        try_get_log_entry
        log_reader_reads_new_entries
        initial_logs
        get_log_state
        get_log_id
        last_id_in_log
        last_applied_state
        purge_logs_upto_0
        purge_logs_upto_5
        purge_logs_upto_20
        delete_logs_after_11
        delete_logs_after_5
        delete_logs_after_0
        delete_logs_after_none
        append_to_log
        snapshot_meta
        snapshot_meta_optional
        apply_single
        apply_multiple
    }
    OpenraftSuite::transfer_snapshot(&InMemory).await.expect("transfer_snapshot");
}

async fn node(disk: Arc<SimDisk>, origin: u64) -> Arc<Node> {
    node_with(disk, origin, Snapshots::memory_only(), SNAPSHOT_BYTES_MIN).await
}

async fn node_with(disk: Arc<SimDisk>, origin: u64, snapshots: Snapshots, snapshot_bytes_min: u64) -> Arc<Node> {
    let (log, recovered) = open(disk);
    let store = Arc::new(Store::new());
    let options = Options {
        initial_members: BTreeMap::from([(7, MemberInfo::default())]),
        heartbeat_interval_ms: 100,
        election_timeout_ms: 1000,
        snapshot_count: 10_000,
        snapshot_bytes_min,
        snapshot_catchup_entries: 5_000,
        pre_vote: true,
        strict_reconfig_check: true,
        max_learners: 1,
        cluster_token: "test".to_owned(),
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
        snapshots,
        dial: Arc::new(peers::Tcp),
        links: None,
        on_lease: Box::new(|_| ()),
        metrics: metrics(),
        clock: Clock::system(),
    };
    let node = Node::start(options, origin, parts).await.unwrap();
    node.ready().await.unwrap();
    node
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

/// A leader sends entries before its own disk has them. One that was killed in between came back as the leader of its old
/// term and gave the ids of the entries that it had lost to others: members that held the lost ones differed for ever.
#[tokio::test]
async fn a_leader_that_restarts_leads_only_in_a_term_of_its_own() {
    let disk = Arc::new(SimDisk::new());
    let mut last_term = 0;
    for origin in 1..4 {
        let member = node(disk.clone(), origin).await;
        let term = member.status().term;
        assert!(term > last_term, "term {term} after {last_term}");
        last_term = term;
        member.shutdown().await;
        drop(member);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// It used to live on, and answer nobody.
#[tokio::test]
async fn a_member_whose_raft_has_panicked_fails() {
    let node = node(Arc::new(SimDisk::new()), 1).await;
    drop(node.raft.with_raft_state(|_| -> () { panic!("planted") }).await);
    let reason = tokio::time::timeout(Duration::from_secs(30), node.failed()).await.expect("it fails");
    assert!(reason.contains("panicked"), "{reason}");
    node.shutdown().await;
}

/// What it writes when it is idle nobody waits for; it used to go on until the next write of a client, which failed.
#[tokio::test]
async fn a_member_whose_log_fails_while_it_is_idle_fails() {
    let disk = Arc::new(SimDisk::new());
    let node = node(disk.clone(), 1).await;
    // The put's own write passes; the one behind it says how far the log is durable and committed.
    disk.set_faults(Faults { fail_write_after: Some(1), ..Faults::default() });
    drop(node.propose(put("k", "v")).await);
    let reason = tokio::time::timeout(Duration::from_secs(30), node.failed()).await.expect("it fails");
    assert!(reason.contains("the log has failed"), "{reason}");
    node.shutdown().await;
}

/// Far fewer entries than `--snapshot-count` and `--snapshot-catchup-entries`, but many bytes.
#[tokio::test]
async fn a_log_of_few_large_entries_is_purged_behind_a_snapshot() {
    const BYTES_MIN: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(Arc::new(RealDisk), dir.path().to_owned()).unwrap();
    let member = node_with(Arc::new(SimDisk::new()), 1, snapshots, BYTES_MIN).await;
    let value = "v".repeat(256 << 10);
    let log = member.log().clone();
    for _ in 0..40 {
        let revision = member.propose(put("k", &value)).await.unwrap().revision;
        member.propose(Command::Compact(pb::CompactionRequest { revision, physical: false })).await.unwrap();
        assert!(member.compaction_done(revision).await.is_ok());
    }
    let purged = async {
        while log.sizes().entry_bytes > 2 * BYTES_MIN {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), purged).await.expect("it is purged");
    assert!(log.state().first_index > 0 && log.state().last.unwrap().0 < 5_000);
    member.shutdown().await;
}

/// The leader waited for it to be elected, took no writes meanwhile, and could not give it its vote, which is a write too.
#[tokio::test]
async fn the_leadership_does_not_go_to_a_member_that_has_no_vote_yet() {
    use membership::{Change, Error as Refusal, Fate};
    let node = node(Arc::new(SimDisk::new()), 1).await;
    let me = pb::Member { id: 7, name: "seven".to_owned(), ..pb::Member::default() };
    node.propose(Command::Publish(me)).await.unwrap();
    let nobody_there = vec!["http://127.0.0.1:1".to_owned()];
    let added = node.change(Change::Add { peer_urls: nobody_there, is_learner: false }).await.unwrap().added.unwrap();
    assert!(!added.is_learner, "to clients it is a voter");
    let moved = node.change(Change::MoveLeader(added.id)).await;
    assert!(matches!(moved, Err(Fate::Refused(Refusal::BadTransferee))), "{moved:?}");
    node.propose(put("a", "1")).await.unwrap();
    node.shutdown().await;
}

#[test]
fn a_snapshot_ahead_of_the_checkpoint_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = || Snapshots::open(Arc::new(RealDisk), dir.path().to_owned()).unwrap();
    let mark = |index| Mark { log_id: Some(types::log_id(1, index)), ..Mark::default() };
    let store = Store::new();
    let image = snapshot::Image { mark: mark(7), meta: store.meta(), view: store.view() };
    snapshots().save(&image).unwrap();

    let behind = snapshots();
    behind.recall(&mark(6)).unwrap();
    assert!(behind.current().is_none(), "the log holds what lies between");
    let level = snapshots();
    level.recall(&mark(7)).unwrap();
    assert_eq!(level.current().unwrap().meta.last_log_id, mark(7).log_id);
    assert_eq!(snapshots().load().unwrap().unwrap().mark.log_id, mark(7).log_id);
}
