//! Where a batch goes: into this member's log when it leads, to the leader when another does, and while nobody does it
//! waits. Whoever proposed gets its answer from its own apply, on every member alike: the same commands give the same
//! results everywhere.
//!
//! A batch that has no answer is sent again, to whichever member leads by then, for as long as somebody waits for it:
//! apply knows a batch that it has seen before ([`LastBatch`](super::apply::LastBatch)), so that it is done once at most, and
//! whoever lost a leader in the middle of a write waits for an election instead of being told that nobody knows.

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::timeout;

use super::batch::Delivered;
use super::error::Error;
use super::types::{Proposal, TypeConfig};
use super::{Leadership, Node};
use crate::proto::peer;

/// Pause before a batch that was not accepted is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// No answer: the member does not lead, or has not said that the batch is committed.
struct NotAccepted;

impl Node {
    /// Delivers a client's batch, wherever the leader is.
    pub(super) async fn deliver(&self, sequence: u64, proposal: Proposal) -> Delivered {
        loop {
            if !self.batcher.is_wanted(sequence) {
                return Delivered::Failed(Error::Timeout);
            }
            let Leadership { leader, .. } = self.leadership();
            let tried = match leader {
                Some(leader) if leader == self.identity.member_id => self.append(proposal.clone()).await,
                Some(leader) => self.forward(leader, &proposal).await,
                None => Err(NotAccepted),
            };
            match tried {
                Ok(delivered) => return delivered,
                Err(NotAccepted) => self.await_change(RETRY_INTERVAL).await,
            }
        }
    }

    /// Delivers what only a leader may propose, and only for as long as it has been leading without a break: the clocks
    /// that found a lease expired are worth nothing once another member has renewed it.
    pub(super) async fn deliver_as_leader(&self, proposal: Proposal) -> Delivered {
        if !self.is_leader() {
            return Delivered::Failed(Error::NotLeader);
        }
        self.append(proposal).await.unwrap_or(Delivered::Failed(Error::NotLeader))
    }

    /// A batch that another member sent: whether it is committed.
    ///
    /// # Errors
    /// This member is about to end.
    pub(super) async fn accept(&self, proposal: Proposal) -> Result<bool, Error> {
        if !self.is_leader() {
            return Ok(false);
        }
        match self.append(proposal).await {
            Ok(Delivered::Committed) => Ok(true),
            Ok(Delivered::Failed(error)) => Err(error),
            Err(NotAccepted) => Ok(false),
        }
    }

    async fn append(&self, proposal: Proposal) -> Result<Delivered, NotAccepted> {
        let mut leadership = self.leadership.subscribe();
        let me = Some(self.identity.member_id);
        tokio::select! {
            written = self.raft.client_write(proposal) => match written {
                Ok(_) => Ok(Delivered::Committed),
                Err(error) => refusal(&error),
            },
            // Cut off from its quorum it would wait for as long as it is; the next leader may have the batch by then.
            _ = leadership.wait_for(|now| now.leader != me) => Err(NotAccepted),
        }
    }

    async fn forward(&self, leader: u64, proposal: &Proposal) -> Result<Delivered, NotAccepted> {
        let Some(peer) = self.peers.get(leader) else { return Err(NotAccepted) };
        let request = peer::ProposeRequest { envelope: peer.envelope(), proposal: proposal.bytes().clone() };
        let call = peer.entries(self.leader_deadline() * 2, |mut client| async move { client.propose(request).await });
        match call.await {
            Ok(peer::ProposeResponse { accepted: true }) => Ok(Delivered::Committed),
            Ok(peer::ProposeResponse { accepted: false }) => Err(NotAccepted),
            Err(failure) => {
                tracing::debug!(%failure, leader = format!("{leader:x}"), "no answer to a forwarded batch");
                Err(NotAccepted)
            }
        }
    }

    /// Waits for a change of the leader, but not longer than `at_most`.
    pub async fn await_change(&self, at_most: Duration) {
        let mut leadership = self.leadership.subscribe();
        leadership.mark_unchanged();
        match timeout(at_most, leadership.changed()).await {
            // Either way it is time to look again.
            Ok(_) | Err(_) => {}
        }
    }
}

fn refusal(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Result<Delivered, NotAccepted> {
    match error {
        // It does not lead, hands the leadership over, or a stall of this process let its own lease run out; or another
        // leader has cut the entry from this log.
        RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_)) => {
            Err(NotAccepted)
        }
        RaftError::APIError(error) => Ok(Delivered::Failed(Error::Fatal(error.to_string()))),
        RaftError::Fatal(openraft::errors::Fatal::Stopped) => Ok(Delivered::Failed(Error::Stopped)),
        RaftError::Fatal(error) => Ok(Delivered::Failed(Error::Fatal(error.to_string()))),
    }
}
