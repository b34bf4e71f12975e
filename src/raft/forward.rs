//! Where a batch goes: into this member's log when it leads, to the leader when another does, and while nobody does it
//! waits. Whoever proposed gets its answer from its own apply, on every member alike: the same commands give the same
//! results everywhere.
//!
//! A batch is tried again only while it is certain that it is in nobody's log: the leader refused it, or could not be
//! reached at all. One that was sent and not answered is never sent again, or it could be applied twice.

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::timeout;

use super::batch::Delivered;
use super::error::Error;
use super::peers::Failure;
use super::types::{Proposal, TypeConfig};
use super::{Leadership, Node};
use crate::proto::peer;

/// Pause before a batch that was refused, and is therefore in no log, is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Why a batch is in nobody's log.
struct Refused;

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
                None => Err(Refused),
            };
            match tried {
                Ok(delivered) => return delivered,
                Err(Refused) => self.await_change(RETRY_INTERVAL).await,
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

    /// A batch that another member sent: whether it is committed, or in nobody's log.
    ///
    /// # Errors
    /// When its fate is unknown.
    pub(super) async fn accept(&self, proposal: Proposal) -> Result<bool, Error> {
        if !self.is_leader() {
            return Ok(false);
        }
        match self.append(proposal).await {
            Ok(Delivered::Committed) => Ok(true),
            Ok(Delivered::Failed(error)) => Err(error),
            Ok(Delivered::Unknown) => Err(Error::LeaderChanged),
            Err(Refused) => Ok(false),
        }
    }

    async fn append(&self, proposal: Proposal) -> Result<Delivered, Refused> {
        match self.raft.client_write(proposal).await {
            Ok(_) => Ok(Delivered::Committed),
            Err(error) => refusal(&error),
        }
    }

    async fn forward(&self, leader: u64, proposal: &Proposal) -> Result<Delivered, Refused> {
        let Some(peer) = self.peers.get(leader) else { return Err(Refused) };
        let request = peer::ProposeRequest { envelope: peer.envelope(), proposal: proposal.bytes().clone() };
        let call = peer.entries(self.request_timeout(), |mut client| async move { client.propose(request).await });
        match call.await {
            Ok(peer::ProposeResponse { accepted: true }) => Ok(Delivered::Committed),
            Ok(peer::ProposeResponse { accepted: false }) | Err(Failure::NotSent(_)) => Err(Refused),
            Err(Failure::Unknown(status)) => {
                tracing::debug!(%status, leader = format!("{leader:x}"), "no answer to a forwarded batch");
                Ok(Delivered::Unknown)
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

fn refusal(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Result<Delivered, Refused> {
    match error {
        // It does not lead, hands the leadership over, or a stall of this process let its own lease run out: nothing was
        // appended.
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Err(Refused),
        // Cut from this log by another leader; another member's log may still hold it.
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Ok(Delivered::Failed(Error::LeaderChanged)),
        RaftError::APIError(error) => Ok(Delivered::Failed(Error::Fatal(error.to_string()))),
        RaftError::Fatal(openraft::errors::Fatal::Stopped) => Ok(Delivered::Failed(Error::Stopped)),
        RaftError::Fatal(error) => Ok(Delivered::Failed(Error::Fatal(error.to_string()))),
    }
}
