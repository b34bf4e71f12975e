//! openraft's state machine: committed entries go to the state, its events to the watch hub, its answers to whoever
//! proposed. In that order, so that a client that has its answer finds the write in every read and on every watch.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::batch::{Batcher, Reply};
use super::checkpoint::{Checkpoint, Loaded};
use super::meter::Meter;
use super::snapshot::{Held, SnapshotBuilder, SnapshotFile, Snapshots};
use super::types::{LogId, Proposal, SnapshotMeta, StoredMembership, TypeConfig};
use crate::mutants::{Mutant, planted};
use crate::state::{Applied, Command, LeaseChange, Store};
use crate::storage::log::INDEX_MAX;
use crate::watch::Hub;

/// Told of every lease granted or ended, in log order, and of all of them when the state is replaced; must not block.
pub type LeaseObserver = Box<dyn Fn(LeaseChange) + Send + Sync>;

/// How far the log has been applied, together with the membership it holds.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// Last applied entry.
    pub log_id: Option<LogId>,
    /// Newest membership among the applied entries.
    pub membership: StoredMembership,
    /// Members that were removed; they never return.
    pub removed: BTreeSet<u64>,
    /// The last batch of each proposing process.
    pub batches: BTreeMap<u64, LastBatch>,
}

/// How far a process's batches have been applied. It proposes them one after the other, so that one which is not newer
/// has been applied already, or was given up for a newer one: whoever has no answer may send a batch again, to whichever
/// member leads by then, and it is applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBatch {
    /// Its number.
    pub sequence: u64,
    /// The log entry it came with.
    pub index: u64,
}

/// Processes whose batches are remembered; those that were silent longest are forgotten first. Far more than there are
/// members, and one that is forgotten would have to repeat a batch from before so many starts.
const PROCESSES_MAX: usize = 256;

/// A mark as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredMark {
    log_id: Option<LogId>,
    membership: StoredMembership,
    #[serde(default)]
    removed: BTreeSet<u64>,
    #[serde(default)]
    batches: BTreeMap<u64, LastBatch>,
}

impl Mark {
    /// The bytes kept in the checkpoint and in snapshot files.
    pub fn encode(&self) -> Vec<u8> {
        let stored = StoredMark {
            log_id: self.log_id,
            membership: self.membership.clone(),
            removed: self.removed.clone(),
            batches: self.batches.clone(),
        };
        serde_json::to_vec(&stored).expect("numbers, texts and maps with text keys are JSON")
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// When they are no mark.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let StoredMark { log_id, membership, removed, batches } = serde_json::from_slice(bytes)?;
        if log_id.is_some_and(|id: LogId| id.index > INDEX_MAX || id.leader_id.term > INDEX_MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a mark at {log_id:?}, which no log comes to"),
            ));
        }
        Ok(Self { log_id, membership, removed, batches })
    }

    /// Notes a batch; `false` when it was applied before, or given up for a newer one of the same process.
    pub(super) fn is_news(&mut self, origin: u64, sequence: u64, index: u64) -> bool {
        let last = self.batches.get(&origin);
        if last.is_some_and(|last| sequence <= last.sequence) {
            return false;
        }
        if last.is_none() && self.batches.len() >= PROCESSES_MAX {
            let oldest = self.batches.iter().min_by_key(|(_, last)| last.index).map(|(&origin, _)| origin);
            oldest.map(|oldest| self.batches.remove(&oldest));
        }
        self.batches.insert(origin, LastBatch { sequence, index });
        true
    }

    /// Takes over a newer membership; whoever is not in it any more is removed.
    pub(super) fn follow(&mut self, membership: StoredMembership) {
        let gone = self.membership.nodes().map(|(&id, _)| id).filter(|id| membership.get_node(id).is_none());
        self.removed.extend(gone.collect::<Vec<_>>());
        self.membership = membership;
    }
}

/// What apply, the checkpoint and the rest of the member share.
pub struct Shared {
    /// The replicated state; apply is its only writer.
    pub store: Arc<Store>,
    /// Where events go.
    pub hub: Arc<Hub>,
    /// Held by apply for the length of one entry, so that whoever takes it sees state and mark of one instant.
    pub mark: Mutex<Mark>,
    /// Index of the last applied entry, for those who only look.
    pub applied_index: AtomicU64,
    /// Whether this member is the only voter, so that its own log is the quorum.
    pub sole_voter: AtomicBool,
    /// Whether this member has no vote, nor is to get one by itself.
    pub is_learner: AtomicBool,
    /// Woken after entries were applied.
    pub progress: Notify,
    /// Counts what is applied.
    pub meter: Meter,
    member_id: u64,
    /// Whoever may have proposed an entry.
    batchers: [Arc<Batcher>; 2],
    on_lease: LeaseObserver,
    /// Set once, before anything is applied.
    #[cfg(feature = "simulation")]
    observer: std::sync::OnceLock<Arc<dyn super::observe::Observer>>,
}

impl Shared {
    /// Ties the state to its consumers, at the mark the state was recovered to.
    pub fn new(
        member_id: u64,
        store: Arc<Store>,
        hub: Arc<Hub>,
        mark: Mark,
        batchers: [Arc<Batcher>; 2],
        on_lease: LeaseObserver,
        meter: Meter,
    ) -> Self {
        Self {
            sole_voter: AtomicBool::new(is_sole_voter(&mark.membership, member_id)),
            is_learner: AtomicBool::new(is_learner(&mark.membership, member_id)),
            applied_index: AtomicU64::new(mark.log_id.map_or(0, |id| id.index)),
            mark: Mutex::new(mark),
            progress: Notify::new(),
            meter,
            store,
            hub,
            member_id,
            batchers,
            on_lease,
            #[cfg(feature = "simulation")]
            observer: std::sync::OnceLock::new(),
        }
    }

    /// Tells somebody of everything that is applied.
    #[cfg(feature = "simulation")]
    pub fn observed_by(&self, observer: Option<Arc<dyn super::observe::Observer>>) {
        if let Some(observer) = observer {
            drop(self.observer.set(observer));
        }
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    fn note_membership(&self, membership: &StoredMembership) {
        self.sole_voter.store(is_sole_voter(membership, self.member_id), Ordering::Release);
        self.is_learner.store(is_learner(membership, self.member_id), Ordering::Release);
    }

    /// Puts the state of a snapshot in the place of this one and tells everybody who follows it, in the order in which
    /// an entry's effects come; gives the old state back, to be freed where nobody waits.
    ///
    /// Watchers read the way to it from the new state's history, which holds all that its compaction mark has left; the
    /// hub is told of a revision that it was given no batches for. The checkpoint finds out by itself.
    pub(super) fn replace(&self, loaded: Loaded) -> io::Result<Store> {
        let mut mark = self.mark.lock();
        // What comes from a peer is not trusted to lie ahead.
        if loaded.mark.log_id < mark.log_id
            || loaded.store.revision() < self.store.revision()
            || loaded.store.compact_revision() < self.store.compact_revision()
        {
            let reason = format!("a snapshot at {:?} is older than the state at {:?}", loaded.mark.log_id, mark.log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let replaced = self.store.replace(loaded.store);
        *mark = loaded.mark;
        self.note_membership(&mark.membership);
        self.applied_index.store(mark.log_id.map_or(0, |id| id.index), Ordering::Release);
        (self.on_lease)(LeaseChange::Replaced { leases: self.store.leases() });
        self.hub.publish(&[], self.store.revision());
        for batcher in &self.batchers {
            batcher.give_up_pending();
        }
        Ok(replaced)
    }

    fn apply_proposal(&self, mark: &mut Mark, index: u64, proposal: &Proposal) -> io::Result<()> {
        let mut meter = self.meter.entry();
        let (origin, sequence, batch) = proposal.parts();
        if !mark.is_news(origin, sequence, index) && !planted(Mutant::BatchTwice) {
            tracing::debug!(origin, sequence, index, "a batch that was sent twice is passed over");
            return Ok(());
        }
        let commands = Command::decode_batch(batch).map_err(io::Error::other)?;
        let mut results = Vec::with_capacity(commands.len());
        let mut batches = Vec::with_capacity(commands.len());
        for command in &commands {
            let (applied, effects) = self.store.apply(command);
            meter.command(command, &applied, &effects);
            results.push(applied);
            batches.extend(effects.events);
            if let Some(change) = effects.lease {
                (self.on_lease)(change);
            }
        }
        if !batches.is_empty() {
            self.hub.publish(&batches, self.store.revision());
        }
        meter.end(index, commands.len());
        if let Some(replies) = self.batchers.iter().find_map(|batcher| batcher.take(origin, sequence)) {
            answer(replies, results);
        }
        Ok(())
    }
}

fn answer(replies: Vec<Reply>, results: Vec<Applied>) {
    debug_assert_eq!(replies.len(), results.len(), "one reply a command");
    for (reply, applied) in replies.into_iter().zip(results) {
        // A client that has gone away no longer waits; its command is applied all the same.
        drop(reply.send(Ok(applied)));
    }
}

fn is_sole_voter(membership: &StoredMembership, member_id: u64) -> bool {
    let mut voters = membership.voter_ids();
    voters.next() == Some(member_id) && voters.next().is_none()
}

fn is_learner(membership: &StoredMembership, member_id: u64) -> bool {
    let becomes_voter = |info: &super::types::MemberInfo| info.becomes_voter;
    membership.get_node(&member_id).is_some_and(|info| !becomes_voter(info))
        && !membership.voter_ids().any(|voter| voter == member_id)
}

/// The state machine that openraft drives.
pub struct StateMachine {
    shared: Arc<Shared>,
    snapshots: Snapshots,
    checkpoint: Checkpoint,
}

impl StateMachine {
    /// Over the shared state, the member's snapshot files and its checkpoint.
    pub fn new(shared: Arc<Shared>, snapshots: Snapshots, checkpoint: Checkpoint) -> Self {
        Self { shared, snapshots, checkpoint }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let mark = self.shared.mark.lock();
        Ok((mark.log_id, mark.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            #[cfg(feature = "simulation")]
            let observed = super::log_store::to_log(entry.clone())?;
            {
                let mut mark = self.shared.mark.lock();
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(proposal) => {
                        self.shared.apply_proposal(&mut mark, entry.log_id.index, &proposal)?;
                    }
                    EntryPayload::Membership(membership) => {
                        mark.follow(StoredMembership::new(Some(entry.log_id), membership));
                        self.shared.note_membership(&mark.membership);
                    }
                }
                mark.log_id = Some(entry.log_id);
                self.shared.applied_index.store(entry.log_id.index, Ordering::Release);
                #[cfg(feature = "simulation")]
                if let Some(observer) = self.shared.observer.get() {
                    observer.applied(&observed, &self.shared.store);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        self.shared.progress.notify_waiters();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder::new(self.shared.clone(), self.snapshots.clone(), self.checkpoint.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let install = {
            let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
            move || snapshots.install(&meta, &snapshot)
        };
        let loaded = crate::blocking::spawn(install).await.map_err(io::Error::other)??;
        let (revision, index) = (loaded.store.revision(), meta.last_log_id.map_or(0, |id| id.index));
        let replaced = self.shared.replace(loaded)?;
        #[cfg(feature = "simulation")]
        if let (Some(observer), Some(last)) = (self.shared.observer.get(), meta.last_log_id) {
            observer.installed(last.index, last.leader_id.term, &self.shared.store);
        }
        // Freeing a large state takes long, and nothing waits for it.
        crate::blocking::spawn(move || drop(replaced));
        self.checkpoint.hurry();
        tracing::info!(applied_index = index, revision, "snapshot installed");
        self.shared.progress.notify_waiters();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Held>, io::Error> {
        Ok(self.snapshots.current())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_was_sent_twice_is_news_once() {
        let mut mark = Mark::default();
        assert!(mark.is_news(1, 1, 10) && mark.is_news(2, 1, 11), "each process counts for itself");
        assert!(!mark.is_news(1, 1, 12), "sent again");
        assert!(mark.is_news(1, 3, 13), "the one between was given up");
        assert!(!mark.is_news(1, 2, 14), "and came late");
        let mut mark = Mark::decode(&mark.encode()).unwrap();
        assert!(!mark.is_news(1, 3, 15) && mark.is_news(1, 4, 15), "known over a restart");
    }

    #[test]
    fn the_process_that_was_silent_longest_is_forgotten_first() {
        let mut mark = Mark::default();
        for origin in 0..PROCESSES_MAX as u64 {
            assert!(mark.is_news(origin, 1, origin));
        }
        assert!(mark.is_news(0, 2, 1000), "heard of again");
        assert!(mark.is_news(5000, 1, 1001));
        assert_eq!(mark.batches.len(), PROCESSES_MAX);
        assert!(!mark.is_news(0, 2, 1002) && !mark.batches.contains_key(&1));
    }

    #[test]
    fn a_mark_of_a_version_that_knew_no_batches_is_read() {
        let old = br#"{"log_id":null,"membership":{"log_id":null,"membership":{"configs":[],"nodes":{}}}}"#;
        assert!(Mark::decode(old).unwrap().batches.is_empty());
    }
}
