//! How a command becomes applied, and when a read is allowed.
//!
//! [`Node`] is all that the layers above see: propose, read barrier, status. openraft stays inside this module.

pub mod apply;
pub mod batch;
pub mod checkpoint;
pub mod error;
pub mod log_store;
pub mod meter;
pub mod network;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod types;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::ReadPolicy;
use openraft::vote::RaftLeaderId as _;
use openraft::{ServerState, SnapshotPolicy};
use tokio::task::JoinHandle;

pub use apply::LeaseObserver;
pub use error::Error;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::proto::etcdserverpb as pb;
use crate::state::{Applied, Command, Store};
use crate::storage::log::Log;
use crate::watch::Hub;
use apply::{Mark, Shared, StateMachine};
use batch::Batcher;
use checkpoint::Checkpoint;
use log_store::LogStore;
use meter::Meter;
use network::Network;
use snapshot::Snapshots;
use types::{MemberInfo, Raft, TypeConfig};

/// How long a member waits at its start to lead and to have applied its log before it gives up.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// How often the size of the log is looked at.
const LOG_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Log bytes below which no snapshot is made, however small the state is.
const SNAPSHOT_LOG_BYTES_MIN: u64 = 64 << 20;
/// The least size that is reported, in bytes: Kubernetes and dashboards take 0 for "unknown".
const SIZE_BYTES_MIN: u64 = 4096;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Members of a new cluster; ignored when the log already holds a membership.
    pub initial_members: BTreeMap<u64, MemberInfo>,
    /// `--heartbeat-interval`, milliseconds.
    pub heartbeat_interval_ms: u64,
    /// `--election-timeout`, milliseconds.
    pub election_timeout_ms: u64,
    /// `--snapshot-count`: fewest log entries between two snapshot files.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: log entries kept behind a snapshot for slow followers.
    pub snapshot_catchup_entries: u64,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--warning-apply-duration`.
    pub warning_apply_duration: Duration,
}

/// Who this member is, and the term it is in; what every response header says.
#[derive(Debug)]
pub struct Identity {
    /// This member.
    pub member_id: u64,
    /// The cluster, as etcd computes it.
    pub cluster_id: u64,
    term: AtomicU64,
}

impl Identity {
    /// In term 0, until Raft has started.
    pub fn new(member_id: u64, cluster_id: u64) -> Self {
        Self { member_id, cluster_id, term: AtomicU64::new(0) }
    }

    /// A response header at a revision.
    pub fn header(&self, revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.term.load(Ordering::Acquire),
        }
    }
}

/// What was opened and recovered before the node starts.
pub struct Parts {
    /// Who this member is.
    pub identity: Arc<Identity>,
    /// The Raft log.
    pub log: Arc<Log>,
    /// What its recovery found.
    pub recovered: crate::storage::log::Recovered,
    /// The state as of `mark`.
    pub store: Arc<Store>,
    /// How far `store` has applied the log.
    pub mark: Mark,
    /// Where events go.
    pub hub: Arc<Hub>,
    /// The checkpoint behind the log, and its thread.
    pub checkpoint: Checkpoint,
    /// The snapshot files.
    pub snapshots: Snapshots,
    /// Told of granted and ended leases.
    pub on_lease: LeaseObserver,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// By which everything is timed.
    pub clock: Clock,
}

/// How large the store is, in bytes; what `Maintenance.Status` and the metrics say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DbSizes {
    /// On the disk, or in memory when that is more; never less than `in_use_bytes`.
    pub total_bytes: u64,
    /// Live and historic records.
    pub in_use_bytes: u64,
}

/// What a member knows of the cluster at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// Raft term.
    pub term: u64,
    /// Last entry known to be on a quorum.
    pub committed_index: u64,
    /// Last entry in the state.
    pub applied_index: u64,
    /// Whether this member has no vote.
    pub is_learner: bool,
}

/// One member's share of a Raft group.
pub struct Node {
    options: Options,
    identity: Arc<Identity>,
    raft: Raft,
    shared: Arc<Shared>,
    batcher: Arc<Batcher>,
    log: Arc<Log>,
    checkpoint: Checkpoint,
    snapshots: Snapshots,
    /// The leader's id; 0 = none.
    leader: AtomicU64,
    leading: AtomicBool,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Node {
    /// Starts Raft on the current runtime and returns once this member leads and has applied its log, so that whoever
    /// opens ports afterwards serves no old state.
    ///
    /// # Errors
    /// [`Error::Fatal`] when the log or the state cannot be read, or leadership does not come.
    pub async fn start(options: Options, origin: u64, parts: Parts) -> Result<Arc<Self>, Error> {
        let fatal = |error: &dyn std::fmt::Display| Error::Fatal(error.to_string());
        let log_store = LogStore::new(parts.log.clone(), &parts.recovered).map_err(|error| fatal(&error))?;
        let batcher = Arc::new(Batcher::new(origin));
        let shared = Arc::new(Shared::new(
            parts.identity.member_id,
            parts.store,
            parts.hub,
            parts.mark,
            batcher.clone(),
            parts.on_lease,
            Meter::new(parts.metrics, parts.clock, options.warning_apply_duration),
        ));
        parts.checkpoint.attach(shared.clone());
        let config = raft_config(&options, parts.identity.cluster_id).validate().map_err(|error| fatal(&error))?;
        let state_machine = StateMachine::new(shared.clone(), parts.snapshots.clone(), parts.checkpoint.clone());
        let raft = Raft::new(parts.identity.member_id, Arc::new(config), Network, log_store, state_machine)
            .await
            .map_err(|error| fatal(&error))?;
        if raft.is_initialized().await.map_err(|error| fatal(&error))? {
            raft.trigger().elect(false).await.map_err(|error| fatal(&error))?;
        } else {
            raft.initialize(options.initial_members.clone()).await.map_err(|error| fatal(&error))?;
        }
        let node = Arc::new(Self {
            raft,
            shared,
            batcher,
            log: parts.log,
            checkpoint: parts.checkpoint,
            snapshots: parts.snapshots,
            identity: parts.identity,
            leader: AtomicU64::new(0),
            leading: AtomicBool::new(false),
            tasks: parking_lot::Mutex::new(Vec::new()),
            options,
        });
        node.spawn_tasks();
        node.await_leadership().await?;
        Ok(node)
    }

    fn spawn_tasks(self: &Arc<Self>) {
        let proposer = {
            let (batcher, raft) = (self.batcher.clone(), self.raft.clone());
            tokio::spawn(async move { batcher.run(raft).await })
        };
        let status = {
            let (node, mut metrics) = (self.clone(), self.raft.server_metrics());
            tokio::spawn(async move {
                loop {
                    node.note_leader(&metrics.borrow_watched().clone());
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            })
        };
        let log = {
            let node = Arc::downgrade(self);
            tokio::spawn(async move {
                let mut entries_at_snapshot = 0;
                loop {
                    tokio::time::sleep(LOG_CHECK_INTERVAL).await;
                    let Some(node) = node.upgrade() else { return };
                    node.snapshot_if_due(&mut entries_at_snapshot).await;
                }
            })
        };
        self.tasks.lock().extend([proposer, status, log]);
    }

    fn note_leader(&self, metrics: &openraft::metrics::RaftServerMetrics<TypeConfig>) {
        let term = metrics.vote.leader_id().term();
        let leader = metrics.current_leader.unwrap_or(0);
        self.identity.term.store(term, Ordering::Release);
        let before = self.leader.swap(leader, Ordering::AcqRel);
        if leader != 0 && leader != before {
            self.meter().metrics.server.leader_changes_seen.inc();
        }
        self.leading.store(metrics.state == ServerState::Leader, Ordering::Release);
    }

    async fn await_leadership(&self) -> Result<(), Error> {
        let wait = self.raft.wait(Some(START_TIMEOUT));
        let metrics = wait
            .metrics(|metrics| metrics.current_leader.is_some(), "a leader is known")
            .await
            .map_err(|error| Error::Fatal(error.to_string()))?;
        // The leader's own first entry stands behind everything that earlier terms committed.
        let last = metrics.last_log_index;
        self.raft
            .wait(Some(START_TIMEOUT))
            .applied_index_at_least(last, "the log is applied")
            .await
            .map_err(|error| Error::Fatal(error.to_string()))?;
        self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map_err(|error| Error::Fatal(error.to_string()))?;
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        self.note_leader(&metrics);
        Ok(())
    }

    /// Replicates a command and waits until it is applied.
    ///
    /// # Errors
    /// [`Error`]; which of them leave the outcome unknown is said there.
    pub async fn propose(&self, command: Command) -> Result<Applied, Error> {
        let (op, started) = (meter::op(&command), self.meter().clock.now());
        let fate = self.await_applied(command).await;
        self.meter().proposed(op, started, &fate);
        fate
    }

    async fn await_applied(&self, command: Command) -> Result<Applied, Error> {
        let result = self.batcher.add(&command)?;
        drop(command);
        match tokio::time::timeout(self.request_timeout(), result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Returns when a read of the state is linearizable: everything committed before the call is in it.
    ///
    /// A sole voter needs no round: whatever it acknowledged it has applied before.
    ///
    /// # Errors
    /// [`Error::NoLeader`] or [`Error::Timeout`].
    pub async fn read_barrier(&self) -> Result<(), Error> {
        if self.shared.sole_voter.load(Ordering::Acquire) && self.leading.load(Ordering::Acquire) {
            return Ok(());
        }
        let started = self.meter().clock.now();
        let fate = self.await_read_index().await;
        self.meter().read_index(started, &fate);
        fate
    }

    async fn await_read_index(&self) -> Result<(), Error> {
        match tokio::time::timeout(self.request_timeout(), self.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(openraft::errors::RaftError::Fatal(error))) => Err(Error::Fatal(error.to_string())),
            Ok(Err(openraft::errors::RaftError::APIError(_))) => Err(Error::NoLeader),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// 5 s and two elections, as etcd's `ReqTimeout`.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(5000 + 2 * self.options.election_timeout_ms)
    }

    /// The replicated state, for reading.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// A response header at a revision.
    pub fn header(&self, revision: i64) -> pb::ResponseHeader {
        self.identity.header(revision)
    }

    /// What this member knows now.
    pub fn status(&self) -> Status {
        let committed = self.raft.data_metrics().borrow_watched().cluster_committed;
        let applied_index = self.shared.applied_index.load(Ordering::Acquire);
        let leader = self.leader.load(Ordering::Acquire);
        Status {
            member_id: self.identity.member_id,
            cluster_id: self.identity.cluster_id,
            leader: (leader != 0).then_some(leader),
            term: self.identity.term.load(Ordering::Acquire),
            committed_index: committed.map_or(0, |id| id.index).max(applied_index),
            applied_index,
            is_learner: self
                .shared
                .mark
                .lock()
                .membership
                .membership()
                .learner_ids()
                .any(|id| id == self.identity.member_id),
        }
    }

    /// The members: the addresses in the log's membership joined with the names and client URLs they published.
    pub fn members(&self) -> Vec<pb::Member> {
        let published: BTreeMap<u64, pb::Member> =
            self.store().members().into_iter().map(|member| (member.id, member)).collect();
        let mark = self.shared.mark.lock();
        let membership = mark.membership.membership();
        let learners: Vec<u64> = membership.learner_ids().collect();
        let members = membership.nodes().map(|(id, info)| {
            let mut member = published.get(id).cloned().unwrap_or_default();
            member.id = *id;
            member.peer_ur_ls = info.peer_urls.clone();
            member.is_learner = learners.contains(id);
            member
        });
        members.collect()
    }

    /// The state as a snapshot file that is gone from the disk once it is read; blocks.
    ///
    /// # Errors
    /// The file's.
    pub fn snapshot_file(&self) -> std::io::Result<snapshot::Unnamed> {
        self.snapshots.unnamed(&snapshot::Image::of(&self.shared))
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.leading.load(Ordering::Acquire)
    }

    /// Commands waiting to be applied.
    pub fn proposals_pending(&self) -> usize {
        self.batcher.waiting()
    }

    /// The metrics, and the clock to measure by.
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// How large the store is.
    pub fn db_sizes(&self) -> DbSizes {
        let sizes = self.store().sizes();
        let in_use_bytes = (sizes.live_bytes + sizes.history_bytes).max(SIZE_BYTES_MIN);
        DbSizes { total_bytes: self.checkpoint.size_on_disk().max(in_use_bytes), in_use_bytes }
    }

    /// The log, for its figures.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The checkpoint, for its figures.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Returns once the space behind compaction `revision` is reclaimed.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the member ends before.
    pub async fn compaction_done(&self, revision: i64) -> Result<(), Error> {
        if self.checkpoint.compaction_done(revision).await { Ok(()) } else { Err(Error::Stopped) }
    }

    /// Returns when Raft has ended by itself, with the reason; the member must then stop, for its storage cannot be
    /// trusted any more.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            if let Err(error) = state {
                return error.to_string();
            }
            if metrics.changed().await.is_err() {
                return "raft has ended".to_owned();
            }
        }
    }

    /// Refuses new commands, ends Raft and brings the checkpoint up to the last applied entry.
    pub async fn shutdown(&self) {
        self.batcher.close();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end cleanly");
        }
        for task in std::mem::take(&mut *self.tasks.lock()) {
            task.abort();
        }
        self.checkpoint.close().await;
    }

    async fn snapshot_if_due(&self, index_at_snapshot: &mut u64) {
        let applied = self.shared.applied_index.load(Ordering::Acquire);
        if applied < index_at_snapshot.saturating_add(self.options.snapshot_count) {
            return;
        }
        let sizes = self.store().sizes();
        let due = SNAPSHOT_LOG_BYTES_MIN.max(sizes.live_bytes + sizes.history_bytes);
        if self.log.sizes().entry_bytes < due {
            return;
        }
        *index_at_snapshot = applied;
        if let Err(error) = self.raft.trigger().snapshot().await {
            tracing::warn!(%error, "no snapshot could be started");
        }
    }
}

fn raft_config(options: &Options, cluster_id: u64) -> openraft::Config {
    openraft::Config {
        cluster_name: format!("{cluster_id:x}"),
        heartbeat_interval: options.heartbeat_interval_ms,
        election_timeout_min: options.election_timeout_ms,
        election_timeout_max: options.election_timeout_ms * 2,
        // Snapshots and purges are ours to time: by bytes, not by entries.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.snapshot_catchup_entries,
        enable_pre_vote: Some(options.pre_vote),
        ..openraft::Config::default()
    }
}
