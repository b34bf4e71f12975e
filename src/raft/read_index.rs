//! When a read is linearizable: the index up to which this member must have applied the log before it answers.
//!
//! Reads that wait at the same time share one round. A round asks the leader; the leader takes the index that is
//! committed and then makes sure that it has not been deposed, by asking the voters whom they have voted for. They answer
//! from memory, so that no read waits for a follower's disk, as a heartbeat's answer would.
//!
//! Why that is enough. Let the leader of term T take its committed index C at time t, C being an entry of term T, so that
//! everything committed in earlier terms lies before it. Then it asks, and a quorum answers that its newest vote is for
//! this leader in term T. A write that was acknowledged before t and is not covered by C could only have been committed by
//! a leader of a later term, which had been elected before t; a quorum had voted for it before t, and shares a member
//! with the quorum that answered. That member's vote was in its memory before the vote left it
//! ([`LogStore::vote`](super::log_store::LogStore::vote)), so it would have answered with the later term. Votes never go
//! back, over restarts either, for they are durable before they leave.
//!
//! A follower that asks the leader says whom it has voted for itself. It had received its reads by then, so that for these
//! the argument holds with its answer at that time as well; in a cluster of three that makes a quorum, and nobody else need
//! be asked. The leader asks no more voters than a quorum takes, first those heard of last, and the others only when these
//! fail or take long.
//!
//! The quorum is one of every configuration in the leader's newest membership, committed or not, as for an election.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::vote::RaftLeaderId as _;
use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use super::types::Membership;
use super::{Leadership, Node, wire};
use crate::mutants::{Mutant, planted};
use crate::proto::peer;

/// Reads that may wait for their round.
const WAITING_MAX: usize = 1 << 16;
/// How long voters may take to confirm before the round is tried again.
const CONFIRM_DEADLINE: Duration = Duration::from_millis(500);
/// How long those that were asked first may take before the others are asked as well.
const CONFIRM_PATIENCE: Duration = Duration::from_millis(20);
/// Pause before a round that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

type Waiting = oneshot::Sender<u64>;

/// Reads on their way to the next round.
pub struct ReadIndex {
    queue: mpsc::Sender<Waiting>,
}

impl ReadIndex {
    /// A queue, and its end for [`Node::run_read_rounds`].
    pub fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (Self { queue }, waiting)
    }

    /// The index of a round that begins after this call; never, when no round succeeds: the caller has a deadline.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] when too many wait; [`Error::Stopped`].
    pub async fn next(&self) -> Result<u64, Error> {
        let (answer, index) = oneshot::channel();
        self.queue.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => Error::Stopped,
        })?;
        index.await.map_err(|_| Error::Stopped)
    }
}

impl Node {
    /// Makes rounds for as long as somebody asks; one of these runs per member.
    pub(super) async fn run_read_rounds(self: Arc<Self>, mut waiting: mpsc::Receiver<Waiting>) {
        let mut reads = Vec::new();
        while waiting.recv_many(&mut reads, WAITING_MAX).await > 0 {
            loop {
                reads.retain(|read| !read.is_closed());
                if reads.is_empty() {
                    break;
                }
                if let Some(index) = self.read_round().await {
                    for read in reads.drain(..) {
                        if read.send(index).is_err() {
                            tracing::trace!("a read was given up while its round was made");
                        }
                    }
                    break;
                }
                self.await_change(RETRY_INTERVAL).await;
                // The next attempt is as good for those that came meanwhile.
                while reads.len() < WAITING_MAX
                    && let Ok(read) = waiting.try_recv()
                {
                    reads.push(read);
                }
            }
        }
    }

    /// One round; `None` when there is no leader that could prove to be one.
    async fn read_round(&self) -> Option<u64> {
        let Leadership { leader, .. } = self.leadership();
        let leader = leader?;
        if leader == self.identity.member_id {
            return self.confirmed_index().await;
        }
        let peer = self.peers.get(leader)?;
        let vote = self.log_store.vote().as_ref().map(wire::vote);
        let request = peer::ReadIndexRequest { envelope: peer.envelope(), vote };
        let call = peer.control(CONFIRM_DEADLINE * 2, |mut client| async move { client.read_index(request).await });
        match call.await {
            Ok(answer) => Some(answer.index),
            Err(failure) => {
                tracing::debug!(%failure, leader = format!("{leader:x}"), "no read index from the leader");
                None
            }
        }
    }

    /// This member as a leader, `None` when it is none or has committed nothing yet.
    async fn leading(&self) -> Option<Leading> {
        let state = self.raft.with_raft_state(|state| {
            let membership = state.membership_state.effective().membership().clone();
            (*state.vote_ref(), state.cluster_committed().copied(), membership)
        });
        let (vote, committed, membership) = state.await.ok()?;
        let term = vote.leader_id().term();
        let committed = committed.filter(|id| id.leader_id.term == term)?;
        let is_mine = vote.is_committed() && *vote.leader_id().node_id() == self.identity.member_id;
        is_mine.then_some(Leading { term, committed: committed.index, membership })
    }

    /// On the leader: an index for the reads that a member had received when it asked, if its vote makes a quorum.
    pub(super) async fn index_confirmed_by(&self, request: &peer::ReadIndexRequest) -> Option<u64> {
        let (me, from) = (self.identity.member_id, request.envelope.as_ref()?.from);
        let Leading { term, committed, membership } = self.leading().await?;
        let is_confirmed = is_for(request.vote?, me, term) && is_quorum(&membership, &BTreeSet::from([me, from]));
        let is_confirmed = is_confirmed || planted(Mutant::ReadIndexUnconfirmed);
        is_confirmed.then_some(committed)
    }

    /// On the leader: an index that covers everything acknowledged before the call.
    pub(super) async fn confirmed_index(&self) -> Option<u64> {
        let me = self.identity.member_id;
        let Leading { term, committed, membership } = self.leading().await?;
        let mut confirmed = BTreeSet::from([me]);
        if is_quorum(&membership, &confirmed) || planted(Mutant::ReadIndexUnconfirmed) {
            return Some(committed);
        }
        let mut unasked: Vec<u64> =
            membership.voter_ids().filter(|id| *id != me).collect::<BTreeSet<_>>().into_iter().collect();
        let silence = |id: &u64| self.peers.get(*id).and_then(|peer| peer.silence()).unwrap_or(Duration::MAX);
        unasked.sort_by_cached_key(|id| silence(id).as_millis() / CONFIRM_PATIENCE.as_millis());
        let (mut asked, mut answers) = (confirmed.clone(), FuturesUnordered::new());
        let mut enough = unasked.iter().take_while(|id| !is_quorum(&membership, &asked) && asked.insert(**id)).count();
        loop {
            answers.extend(unasked.drain(..enough).map(|id| self.confirm(id, term)));
            enough = unasked.len();
            tokio::select! {
                Some(answer) = answers.next() => match answer {
                    Some(voter) => {
                        confirmed.insert(voter);
                        if is_quorum(&membership, &confirmed) {
                            return Some(committed);
                        }
                        // Those that were asked are to answer first.
                        enough = if answers.is_empty() { enough } else { 0 };
                    }
                    None if answers.is_empty() && unasked.is_empty() => return None,
                    None => {}
                },
                () = tokio::time::sleep(CONFIRM_PATIENCE), if !unasked.is_empty() => {}
                else => return None,
            }
        }
    }

    /// The voter's id when its newest vote is for this member in `term`.
    async fn confirm(&self, voter: u64, term: u64) -> Option<u64> {
        let peer = self.peers.get(voter)?;
        let request = peer::ConfirmRequest { envelope: peer.envelope() };
        let call = peer.control(CONFIRM_DEADLINE, |mut client| async move { client.confirm(request).await });
        let vote = call.await.ok()?.vote?;
        is_for(vote, self.identity.member_id, term).then_some(voter)
    }
}

/// What a leader knows of itself.
struct Leading {
    term: u64,
    committed: u64,
    membership: Membership,
}

fn is_for(vote: peer::Ballot, member: u64, term: u64) -> bool {
    vote.term == term && vote.member_id == member
}

/// Whether `members` hold a majority in every configuration of the membership.
pub fn is_quorum(membership: &Membership, members: &BTreeSet<u64>) -> bool {
    membership.get_joint_config().iter().all(|voters| voters.intersection(members).count() > voters.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::MemberInfo;

    fn membership(configs: &[&[u64]]) -> Membership {
        let configs: Vec<BTreeSet<u64>> = configs.iter().map(|ids| ids.iter().copied().collect()).collect();
        let nodes = configs.iter().flatten().map(|id| (*id, MemberInfo::default()));
        let nodes: std::collections::BTreeMap<_, _> = nodes.collect();
        Membership::new(configs, nodes).unwrap()
    }

    #[test]
    fn a_quorum_is_a_majority_of_every_configuration() {
        let quorum =
            |configs: &[&[u64]], members: &[u64]| is_quorum(&membership(configs), &members.iter().copied().collect());
        assert!(quorum(&[&[1]], &[1]));
        assert!(!quorum(&[&[1, 2]], &[1]));
        assert!(quorum(&[&[1, 2, 3]], &[1, 3]));
        assert!(!quorum(&[&[1, 2, 3]], &[1, 4, 5]), "strangers do not count");
        assert!(!quorum(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3]), "the new configuration has a say");
        assert!(quorum(&[&[1, 2, 3], &[3, 4, 5]], &[1, 3, 4]));
    }
}
