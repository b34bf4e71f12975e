//! How a command becomes applied, and when a read is allowed.
//!
//! [`Node`] is all that the layers above see: propose, read barrier, status. openraft stays inside this module.

pub mod alone;
pub mod apply;
pub mod batch;
pub mod checkpoint;
pub mod error;
mod forward;
pub mod log_store;
pub mod membership;
pub mod meter;
pub mod network;
#[cfg(feature = "simulation")]
pub mod observe;
pub mod peers;
mod read_index;
pub mod serve;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod types;
#[doc(hidden)]
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::vote::RaftLeaderId as _;
use openraft::{Instant as _, ServerState, SnapshotPolicy};
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;

pub use apply::LeaseObserver;
pub use error::Error;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::mutants::{self, Mutant, planted};
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
use peers::{Dial, Links, Peers};
use read_index::ReadIndex;
use snapshot::Snapshots;
use types::{MemberInfo, Raft};

/// Why a removed member ends.
const REMOVED: &str = "the member has been permanently removed from the cluster: to have it back, remove its data \
                       directory and add it as a new member";
/// How often somebody who waits for a first leader, or for a first entry of a new one, looks.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Entries that one request to a follower may carry; their bytes are limited by the log's reads.
const ENTRIES_PER_REQUEST_MAX: u64 = 1024;
/// Pauses between attempts to reach a member that cannot be reached.
const BACKOFF: &str = "20ms 50ms 100ms ...500ms";
/// How long the members of a new cluster leave it to the one with the smallest id to begin.
const BEGIN_ELECTIONS: u32 = 1;
/// How often a member looks whether Raft has ended by itself.
const FAILURE_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the size of the log is looked at.
const LOG_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The usual [`Options::snapshot_bytes_min`].
pub const SNAPSHOT_BYTES_MIN: u64 = 64 << 20;
/// The least size that is reported, in bytes: Kubernetes and dashboards take 0 for "unknown".
const SIZE_BYTES_MIN: u64 = 4096;

/// How often every member asks every other one how far away it is, as etcd's prober.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Members of a new cluster; ignored when the log already holds a membership.
    pub initial_members: BTreeMap<u64, MemberInfo>,
    /// `--heartbeat-interval`, milliseconds.
    pub heartbeat_interval_ms: u64,
    /// `--election-timeout`, milliseconds.
    pub election_timeout_ms: u64,
    /// `--snapshot-count`: fewest log entries between two snapshot files, unless they have many bytes.
    pub snapshot_count: u64,
    /// Log bytes below which no snapshot is made, however small the state is.
    pub snapshot_bytes_min: u64,
    /// `--snapshot-catchup-entries`: log entries kept behind a snapshot for slow followers, as long as they are smaller than it.
    pub snapshot_catchup_entries: u64,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// `--max-learners`.
    pub max_learners: usize,
    /// `--initial-cluster-token`, which enters the ids of members added later.
    pub cluster_token: String,
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
    /// How other members are reached.
    pub dial: Arc<dyn Dial>,
    /// Which of the ways to them are cut, for tests.
    pub links: Option<Links>,
    /// Told of granted and ended leases.
    pub on_lease: LeaseObserver,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// By which everything is timed.
    pub clock: Clock,
    /// Sees every step.
    #[cfg(feature = "simulation")]
    pub observer: Option<Arc<dyn observe::Observer>>,
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

/// Who leads, as far as this member can tell: a leader that was not heard of for an election timeout, or that no quorum
/// answers, is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader.
    pub leader: Option<u64>,
    /// In which term.
    pub term: u64,
    /// This member leads and has applied everything of the terms before, so that it may decide by its own state.
    pub is_leading: bool,
}

/// One member's share of a Raft group.
pub struct Node {
    options: Options,
    identity: Arc<Identity>,
    raft: Raft,
    shared: Arc<Shared>,
    /// What clients propose.
    batcher: Arc<Batcher>,
    /// What only a leader may propose.
    leaders_batcher: Arc<Batcher>,
    log: Arc<Log>,
    log_store: LogStore,
    checkpoint: Checkpoint,
    snapshots: Snapshots,
    peers: Arc<Peers>,
    read_index: ReadIndex,
    leadership: channel::Sender<Leadership>,
    /// When a leader was heard last, milliseconds of the clock, plus one; 0 = never.
    heard_ms: Arc<AtomicU64>,
    /// Held while the membership is checked and changed.
    changing: tokio::sync::Mutex<()>,
    /// Why the cluster does not want this member any more.
    expelled: channel::Sender<Option<String>>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Node {
    /// Starts Raft on the current runtime. The node takes part from now on, once its peers' port is open; whether there
    /// is a leader and its log is applied, [`Node::ready`] says.
    ///
    /// # Errors
    /// [`Error::Fatal`] when the log or the state cannot be read.
    pub async fn start(options: Options, origin: u64, parts: Parts) -> Result<Arc<Self>, Error> {
        let fatal = |error: &dyn std::fmt::Display| Error::Fatal(error.to_string());
        let log_store = LogStore::new(parts.log.clone(), &parts.recovered).map_err(|error| fatal(&error))?;
        #[cfg(feature = "simulation")]
        let log_store = log_store.observed_by(parts.observer.clone());
        let batcher = Arc::new(Batcher::new(origin));
        let leaders_batcher = Arc::new(Batcher::new(origin.wrapping_add(1)));
        let (mark, clock) = (parts.mark, parts.clock);
        let peers =
            Arc::new(Peers::new(parts.identity.clone(), parts.dial, parts.links, parts.metrics.clone(), clock.clone()));
        peers.update(mark.membership.membership());
        let shared = Arc::new(Shared::new(
            parts.identity.member_id,
            parts.store,
            parts.hub,
            mark,
            [batcher.clone(), leaders_batcher.clone()],
            parts.on_lease,
            Meter::new(parts.metrics, clock, options.warning_apply_duration),
        ));
        #[cfg(feature = "simulation")]
        shared.observed_by(parts.observer);
        parts.checkpoint.attach(shared.clone());
        let config = raft_config(&options, parts.identity.cluster_id).validate().map_err(|error| fatal(&error))?;
        let state_machine = StateMachine::new(shared.clone(), parts.snapshots.clone(), parts.checkpoint.clone());
        let network = Network(peers.clone());
        let raft = Raft::new(parts.identity.member_id, Arc::new(config), network, log_store.clone(), state_machine)
            .await
            .map_err(|error| fatal(&error))?;
        let (read_index, reads) = ReadIndex::new();
        let node = Arc::new(Self {
            raft,
            shared,
            batcher,
            leaders_batcher,
            log: parts.log,
            log_store,
            checkpoint: parts.checkpoint,
            snapshots: parts.snapshots,
            identity: parts.identity,
            peers,
            read_index,
            leadership: channel::channel(Leadership::default()).0,
            heard_ms: Arc::new(AtomicU64::new(0)),
            changing: tokio::sync::Mutex::new(()),
            expelled: channel::channel(None).0,
            tasks: parking_lot::Mutex::new(Vec::new()),
            options,
        });
        node.spawn_tasks(reads);
        Ok(node)
    }

    fn spawn_tasks(self: &Arc<Self>, reads: tokio::sync::mpsc::Receiver<tokio::sync::oneshot::Sender<u64>>) {
        let proposer = {
            let node = self.clone();
            tokio::spawn(async move {
                node.batcher.run(|sequence, proposal| node.deliver(sequence, proposal)).await;
            })
        };
        let leaders_proposer = {
            let node = self.clone();
            tokio::spawn(async move {
                node.leaders_batcher.run(|_, proposal| node.deliver_as_leader(proposal)).await;
            })
        };
        let log = {
            let node = Arc::downgrade(self);
            tokio::spawn(async move {
                let mut snapshot_started_at = 0;
                loop {
                    tokio::time::sleep(LOG_CHECK_INTERVAL).await;
                    let Some(node) = node.upgrade() else { return };
                    node.snapshot_if_due(&mut snapshot_started_at).await;
                }
            })
        };
        let begin = tokio::spawn(self.clone().begin());
        let status = tokio::spawn(self.clone().run_leadership());
        let reads = tokio::spawn(self.clone().run_read_rounds(reads));
        let promotions = tokio::spawn(self.clone().run_promotions());
        let belonging = tokio::spawn(self.clone().run_belonging());
        let probes = tokio::spawn(self.clone().run_probes());
        self.tasks.lock().extend([
            begin,
            proposer,
            leaders_proposer,
            status,
            log,
            reads,
            promotions,
            belonging,
            probes,
        ]);
    }

    /// Nobody else votes: there is nothing to wait for. The log's membership counts, as nothing may be applied yet.
    async fn elect_if_alone(&self) -> Result<(), openraft::errors::Fatal<types::TypeConfig>> {
        let me = BTreeSet::from([self.identity.member_id]);
        let alone = self.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective().membership();
            membership.voter_ids().next().is_some() && read_index::is_quorum(membership, &me)
        });
        if alone.await? { self.raft.trigger().elect(false).await } else { Ok(()) }
    }

    /// Gets a new cluster going, or a member that is alone. In a new cluster the member with the smallest id begins, as
    /// soon as a quorum is there, so that the members do not vote against each other; if it is not there, the others do not
    /// wait for it for ever.
    async fn begin(self: Arc<Self>) {
        let me = self.identity.member_id;
        let initialized = match self.raft.is_initialized().await {
            Ok(initialized) => initialized,
            // Whoever waits for the node's end is told why.
            Err(error) => return tracing::error!(%error, "raft ended at its start"),
        };
        if initialized {
            if let Err(error) = self.elect_if_alone().await {
                tracing::error!(%error, "raft ended at its start");
            }
            return;
        }
        let members = &self.options.initial_members;
        if members.is_empty() {
            // It joins: the leader will find it.
            return;
        }
        // Held, for no membership has them yet.
        let others: Vec<_> =
            members.iter().filter(|(id, _)| **id != me).map(|(&id, info)| self.peers.peer(id, info)).collect();
        let is_first = members.keys().next() == Some(&me);
        let patience = self.leader_deadline() * BEGIN_ELECTIONS;
        let waited = tokio::time::timeout(patience, async {
            loop {
                let begun = !is_first && self.leadership().leader.is_some();
                if begun || is_first && reached(&others).await > members.len() / 2 {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        if waited.await.is_err() {
            tracing::info!("not all members of the new cluster are there yet");
        }
        match self.raft.initialize(members.clone()).await {
            Ok(()) => {}
            // A leader was quicker, and what it says counts.
            Err(openraft::errors::RaftError::APIError(error)) => {
                tracing::debug!(%error, "the cluster has begun already")
            }
            Err(error) => tracing::error!(%error, "raft ended at its start"),
        }
    }

    /// Keeps [`Node::leadership`] true.
    async fn run_leadership(self: Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        let interval = Duration::from_millis(self.options.heartbeat_interval_ms);
        loop {
            let wait = if self.note_leadership() { interval } else { POLL_INTERVAL };
            // Raft has ended; a change and no change in time are both a reason to look again.
            if let Ok(Err(_)) = tokio::time::timeout(wait, metrics.changed()).await {
                return self.note_end().await;
            }
        }
    }

    /// Raft is no more: by [`Node::shutdown`], or because its task has panicked, which its metrics do not tell.
    async fn note_end(&self) {
        // When it was told to end, nobody asks it: it would log that as an error.
        if !self.batcher.is_closed()
            && let Err(reason) = self.raft.with_raft_state(|_| ()).await
        {
            self.expelled.send_replace(Some(format!("raft has ended: {reason}")));
        }
    }

    /// Asks after this member's place in the cluster for as long as no leader speaks to it: one that was removed while it
    /// was away is told so by nobody else.
    async fn run_belonging(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.leader_deadline()).await;
            if self.leadership().leader.is_none() {
                self.peers.ask_for_belonging().await;
            }
        }
    }

    /// Measures the way to the other members.
    async fn run_probes(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            self.peers.probe().await;
        }
    }

    /// Looks who leads; `false` when this will change by itself in a moment.
    fn note_leadership(&self) -> bool {
        let server = self.raft.server_metrics().borrow_watched().clone();
        let term = server.vote.leader_id().term();
        let me = self.identity.member_id;
        self.identity.term.store(term, Ordering::Release);
        let is_mine = server.state == ServerState::Leader;
        let leader = server
            .current_leader
            .filter(|&leader| if leader == me { is_mine && self.has_quorum() } else { self.heard_lately() });
        let (applied_term, membership, is_removed) = {
            let mark = self.shared.mark.lock();
            (mark.log_id.map(|id| id.leader_id.term), mark.membership.membership().clone(), mark.removed.contains(&me))
        };
        if !is_mine && (is_removed || self.peers.have_expelled()) {
            self.expelled.send_if_modified(|expelled| {
                let is_news = expelled.is_none();
                expelled.get_or_insert_with(|| REMOVED.to_owned());
                is_news
            });
        }
        self.peers.update(&membership);
        let is_leading = leader == Some(me) && applied_term == Some(term);
        let now = Leadership { leader, term, is_leading };
        let before = self.leadership();
        if now != before {
            if leader.is_some() && leader != before.leader {
                self.meter().metrics.server.leader_changes_seen.inc();
            }
            tracing::info!(term, leader = leader.map(|id| format!("{id:x}")), "leadership");
            self.leadership.send_replace(now);
        }
        is_leading || leader != Some(me)
    }

    /// Whether a quorum has answered this leader lately.
    fn has_quorum(&self) -> bool {
        let acknowledged = self.raft.data_metrics().borrow_watched().last_quorum_acked;
        self.shared.sole_voter.load(Ordering::Acquire)
            || planted(Mutant::ReadIndexUnconfirmed)
            || acknowledged.is_some_and(|at| at.elapsed() < self.leader_deadline())
    }

    fn heard_lately(&self) -> bool {
        let now = self.meter().clock.now().as_millis() as u64;
        let heard = self.heard_ms.load(Ordering::Acquire).checked_sub(1);
        heard.is_some_and(|heard| now.saturating_sub(heard) < self.options.election_timeout_ms)
    }

    /// Silence after which a leader is none.
    pub fn leader_deadline(&self) -> Duration {
        Duration::from_millis(self.options.election_timeout_ms)
    }

    /// Who leads now.
    pub fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Follows who leads.
    pub fn watch_leadership(&self) -> channel::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Returns once there is a leader and this member has applied everything that was committed when it asked, so that
    /// whoever opens ports afterwards serves no old state.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn ready(&self) -> Result<(), Error> {
        let index = self.read_index.next().await?;
        self.await_applied_index(index).await
    }

    /// Returns once the entry at `index` is applied here.
    async fn await_applied_index(&self, index: u64) -> Result<(), Error> {
        loop {
            let progress = self.shared.progress.notified();
            if self.shared.applied_index() >= index {
                return Ok(());
            }
            progress.await;
        }
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

    /// As [`Node::propose`], but only while this member leads, without a break, until the command is in the log: for what
    /// it knows as the leader alone.
    ///
    /// # Errors
    /// [`Error::NotLeader`] and what [`Node::propose`] gives.
    pub async fn propose_as_leader(&self, command: Command) -> Result<Applied, Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader);
        }
        let (op, started) = (meter::op(&command), self.meter().clock.now());
        let result = self.leaders_batcher.add(&command)?;
        let fate = self.await_result(result).await;
        self.meter().proposed(op, started, &fate);
        fate
    }

    async fn await_applied(&self, command: Command) -> Result<Applied, Error> {
        let result = self.batcher.add(&command)?;
        drop(command);
        self.await_result(result).await
    }

    async fn await_result(
        &self,
        result: tokio::sync::oneshot::Receiver<Result<Applied, Error>>,
    ) -> Result<Applied, Error> {
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
    /// [`Error::Timeout`] without a leader that can prove to be one; [`Error::TooManyRequests`]; [`Error::Stopped`].
    pub async fn read_barrier(&self) -> Result<(), Error> {
        let is_alone = self.shared.sole_voter.load(Ordering::Acquire) && self.is_leader();
        if is_alone || planted(Mutant::ReadWithoutIndex) {
            return Ok(());
        }
        let started = self.meter().clock.now();
        let fate = tokio::time::timeout(self.request_timeout(), self.ready()).await.unwrap_or(Err(Error::Timeout));
        self.meter().read_index(started, &fate);
        fate
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
        let applied_index = self.shared.applied_index();
        let Leadership { leader, term, .. } = self.leadership();
        Status {
            member_id: self.identity.member_id,
            cluster_id: self.identity.cluster_id,
            leader,
            term,
            committed_index: committed.map_or(0, |id| id.index).max(applied_index),
            applied_index,
            is_learner: self.shared.is_learner.load(Ordering::Acquire),
        }
    }

    /// The members: the addresses in the log's membership joined with the names and client URLs they published.
    pub fn members(&self) -> Vec<pb::Member> {
        let published: BTreeMap<u64, pb::Member> =
            self.store().members().into_iter().map(|member| (member.id, member)).collect();
        let mark = self.shared.mark.lock();
        let membership = mark.membership.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, info)| {
            let mut member = published.get(id).cloned().unwrap_or_default();
            member.id = *id;
            member.peer_ur_ls = info.peer_urls.clone();
            member.is_learner = !voters.contains(id) && !info.becomes_voter;
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

    /// Whether this member leads and has caught up with the terms before its own.
    pub fn is_leader(&self) -> bool {
        self.leadership().is_leading
    }

    /// Whether this member has no vote.
    pub fn is_learner(&self) -> bool {
        self.shared.is_learner.load(Ordering::Acquire)
    }

    /// The way to the leader, when another member leads.
    pub fn leader_peer(&self) -> Option<Arc<peers::Peer>> {
        self.peers.get(self.leadership().leader?)
    }

    /// The other members.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Commands waiting to be applied.
    pub fn proposals_pending(&self) -> usize {
        self.batcher.waiting() + self.leaders_batcher.waiting()
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
        let metrics = self.raft.metrics();
        let mut expelled = self.expelled.subscribe();
        loop {
            if let Some(reason) = expelled.borrow_and_update().clone() {
                return reason;
            }
            let state = metrics.borrow_watched().running_state.clone();
            if let Err(error) = state {
                return error.to_string();
            }
            // openraft hears of it at its next request, which in a quiet cluster may be long after.
            if let Some(why) = self.log.failure() {
                return format!("the log has failed and takes no more: {why}");
            }
            // The metrics change with every entry; waiting for that from another thread would wake it each time, which
            // was a third of all wake-ups of a follower.
            if let Ok(Err(_)) = tokio::time::timeout(FAILURE_CHECK_INTERVAL, expelled.changed()).await {
                return "raft has ended".to_owned();
            }
        }
    }

    /// Refuses new commands, ends Raft and brings the checkpoint up to the last applied entry.
    pub async fn shutdown(&self) {
        self.batcher.close();
        self.leaders_batcher.close();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end cleanly");
        }
        for task in std::mem::take(&mut *self.tasks.lock()) {
            task.abort();
        }
        self.checkpoint.close().await;
    }

    /// Starts a snapshot, due or not, behind which the log is purged; for tests.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn snapshot_now(&self) -> Result<(), Error> {
        self.raft.trigger().snapshot().await.map_err(|_| Error::Stopped)
    }

    /// Starts a snapshot when the log has outgrown the last one, and purges what is kept behind it beyond that size.
    async fn snapshot_if_due(&self, started_at: &mut u64) {
        let sizes = self.store().sizes();
        let enough = self.options.snapshot_bytes_min.max(sizes.live_bytes + sizes.history_bytes);
        let enough = mutants::snapshot_log_bytes().unwrap_or(enough);
        let kept = self.snapshots.current().and_then(|held| held.meta.last_log_id).map_or(0, |id| id.index);
        let surplus = self.log.least_with_behind(enough).min(kept);
        if kept > 0
            && surplus >= self.log.state().first_index
            && let Err(error) = self.raft.trigger().purge_log(surplus).await
        {
            tracing::warn!(%error, "the log could not be purged");
        }
        let applied = self.shared.applied_index();
        let last = kept.max(*started_at);
        let behind = self.log.bytes_behind(last);
        // Few large batches are many bytes, so that their number alone must not hold a snapshot back.
        let is_due = behind >= 2 * enough || behind >= enough && applied >= last + self.options.snapshot_count;
        if !is_due || applied <= last {
            return;
        }
        *started_at = applied;
        if let Err(error) = self.raft.trigger().snapshot().await {
            tracing::warn!(%error, "no snapshot could be started");
        }
    }
}

/// How many members of the new cluster are there, this one included.
async fn reached(others: &[Arc<peers::Peer>]) -> usize {
    let mut there = 1;
    for peer in others {
        let request = crate::proto::peer::ConfirmRequest { envelope: peer.envelope() };
        let call = peer.control(POLL_INTERVAL * 50, |mut client| async move { client.confirm(request).await });
        there += usize::from(call.await.is_ok());
    }
    there
}

/// etcd's members wait for one to two election timeouts before they stand for election. openraft's wait for a lease, its
/// longest timeout, and then for one of its timeouts; so these are chosen shorter, for the sum to begin where etcd's does.
fn raft_config(options: &Options, cluster_id: u64) -> openraft::Config {
    let election_timeout_max = (options.election_timeout_ms * 6 / 10).max(2);
    openraft::Config {
        cluster_name: format!("{cluster_id:x}"),
        heartbeat_interval: options.heartbeat_interval_ms,
        election_timeout_min: (options.election_timeout_ms * 4 / 10).max(1),
        election_timeout_max,
        // A leader that lost its quorum falls silent, so that those who still hear it may elect another.
        quorum_loss_probe_interval: Some(election_timeout_max * 2),
        // Followers write an entry while the leader's own disk does …
        broadcast_submitted_on_append: Some(true),
        // … so that they may hold what a leader that was killed has lost. Were it to lead on in the same term when it is
        // back, it would give another entry the same term and index, and nobody would see that they differ.
        enable_leader_restore: Some(planted(Mutant::LeaderRestored)),
        max_payload_entries: ENTRIES_PER_REQUEST_MAX,
        backoff: BACKOFF.to_owned(),
        // Whoever is behind gets the log for as long as there is one, however far it is behind.
        replication_lag_threshold: u64::MAX,
        // Snapshots and purges are ours to time: by bytes, not by entries.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.snapshot_catchup_entries,
        enable_pre_vote: Some(options.pre_vote),
        ..openraft::Config::default()
    }
}
